// A loop over independent pieces by several threads. Which thread does what changes no result.
#pragma once
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

constexpr int64_t kWorthAThread = 1 << 17;  // numbers: to start a thread takes as long as to read so many

template <class Work> void share(int64_t pieces, int64_t numbers, int64_t threads, Work work) {
    threads = std::max<int64_t>(1, std::min({threads, pieces, numbers / kWorthAThread}));
    auto part = [&](int64_t t) {
        for (int64_t i = pieces * t / threads; i < pieces * (t + 1) / threads; i++) work(i);
    };
    std::vector<std::thread> others;
    for (int64_t t = 1; t < threads; t++) others.emplace_back(part, t);
    part(0);
    for (auto& thread : others) thread.join();
}
