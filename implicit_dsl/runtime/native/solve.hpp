// Many rows: panels are multiplied two at a time, φ and residual are fused to the product, and a lane
// whose row is done takes the next one of the batch.
#pragma once
#include <thread>
#include <vector>
#include "panel.hpp"

constexpr int64_t kSlots = 64;  // rows in work for each thread: states of that many fit the cache

// Two panels (W = 2), or one: f = φ(M x + c), with the sizes of f - x and of f.
template <class T, int kind, int W> void sweep(const Problem<T>& p, const T* packed, Panel<T>* const* panels) {
    constexpr int L = Lanes<T>::count, B = W == 1 ? 2 : 1;
    const int64_t n = p.n, rows = block_rows(n);
    Vec<T> tile[kBlock * 2];
    Int<T> largest[W] = {}, extent[W] = {};
    Vec<T> total[W] = {}, sum[W] = {};
    const int64_t apart = W > 1 ? panels[1]->x - panels[0]->x : 0;
    for (int64_t first = 0; first < n; first += B * rows) {
        if (B == 1 || first + rows >= n) multiply<T, 1, W>(rows, packed + first * n, n, panels[0]->x, apart, tile);
        else multiply<T, B, W>(rows, packed + first * n, n, panels[0]->x, apart, tile);
        const int64_t here = std::min<int64_t>(B * rows, n - first);
        for (int64_t i = 0; i < here; i++)
            UNROLL for (int w = 0; w < W; w++) {
                const int64_t at = (first + i) * L;
                const Vec<T> z = tile[i * W + w] + load(panels[w]->c + at);
                const Vec<T> y = kind == kLinear ? z * load(panels[w]->d + at) : activate<T, kind>(z, p.negative_slope);
                const Vec<T> change = y - load(panels[w]->x + at);
                store(panels[w]->f + at, y);
                if (kind == kLinear) {
                    total[w] += absolute<T>(change), sum[w] += absolute<T>(y);
                } else {
                    largest[w] = larger<T>(largest[w], magnitude<T>(change));
                    extent[w] = larger<T>(extent[w], magnitude<T>(y));
                }
            }
    }
    for (int w = 0; w < W; w++) {
        panels[w]->size = kind == kLinear ? total[w] : (Vec<T>)largest[w];
        panels[w]->scale = kind == kLinear ? sum[w] : (Vec<T>)extent[w];
    }
}

template <class T> using Sweep = void (*)(const Problem<T>&, const T*, Panel<T>* const*);
template <class T, int W> Sweep<T> sweep_of(int kind) {
    switch (kind) {
        case kRelu: return sweep<T, kRelu, W>;
        case kLeakyRelu: return sweep<T, kLeakyRelu, W>;
        case kTanh: return sweep<T, kTanh, W>;
        case kSigmoid: return sweep<T, kSigmoid, W>;
        case kLinear: return sweep<T, kLinear, W>;
        default: return sweep<T, kIdentity, W>;
    }
}

// The rows that one thread has in work.
template <class T> struct Worker {
    static constexpr int L = Lanes<T>::count;
    const Problem<T>& p;
    const T* packed;
    std::atomic<int64_t>& next;  // row of the batch that nobody has taken
    std::vector<Panel<T>> panels;
    std::vector<Panel<T>*> busy;

    int64_t take() {
        const int64_t number = next.fetch_add(1);
        return number < p.batch ? number : -1;
    }

    // Fill the free lanes of a panel.
    void refill(Panel<T>& panel) {
        int64_t number[L];
        bool any = false;
        for (int lane = 0; lane < L; lane++) {
            number[lane] = panel.row[lane] < 0 ? take() : -1;
            any |= number[lane] >= 0;
        }
        if (any) panel.fill(p, number);
    }

    // When the batch is used up: empty the emptiest panel into free lanes of others, if that pays.
    void consolidate() {
        while (busy.size() > 1) {
            auto emptiest = std::min_element(busy.begin(), busy.end(), [](auto* a, auto* b) { return a->live < b->live; });
            Panel<T>* from = *emptiest;
            int64_t room = 0;
            for (auto* panel : busy) room += panel == from ? 0 : L - panel->live;
            // moving a row copies some 15 arrays of n numbers, a sweep of the panel is n²/2 cycles
            if (from->live > room || from->live * int64_t(16) > p.n) return;
            for (auto* panel : busy)
                for (int lane = 0, other = 0; panel != from && lane < L && from->live; lane++) {
                    if (panel->row[lane] >= 0) continue;
                    while (from->row[other] < 0) other++;
                    panel->adopt(p, lane, *from, other);
                }
            busy.erase(emptiest);
        }
    }

    // False: no memory.
    bool run(int64_t slots) {
        const int64_t count = (slots + L - 1) / L, each = Panel<T>::arrays(p.kind == kLinear, p.memory) * p.n * L;
        Buffer<T> memory = buffer<T>(count * each);
        if (!memory) return false;
        panels.resize(count);
        for (int64_t i = 0; i < count; i++) {
            panels[i].place(memory.get() + i * each, p.n, p);
            refill(panels[i]);
            if (panels[i].live) busy.push_back(&panels[i]);
        }
        const Sweep<T> one = sweep_of<T, 1>(p.kind), two = sweep_of<T, 2>(p.kind);
        while (!busy.empty()) {
            size_t i = 0;
            for (; i + 2 <= busy.size(); i += 2) two(p, packed, &busy[i]);
            if (i < busy.size()) one(p, packed, &busy[i]);
            bool exhausted = false;
            for (auto* panel : busy) {
                panel->advance(p);
                if (panel->live < L) refill(*panel), exhausted |= panel->live < L;
            }
            busy.erase(std::remove_if(busy.begin(), busy.end(), [](auto* panel) { return !panel->live; }), busy.end());
            if (exhausted) consolidate();
        }
        return true;
    }
};

template <class T> bool solve_panels(const Problem<T>& p, const T* packed) {
    std::atomic<int64_t> next{0};
    const int64_t threads = std::max<int64_t>(1, std::min<int64_t>(p.threads, (p.batch + Lanes<T>::count - 1) / Lanes<T>::count));
    const int64_t slots = std::min(kSlots, (p.batch + threads - 1) / threads);
    std::atomic<bool> enough{true};
    auto work = [&] {
        Worker<T> worker{p, packed, next, {}, {}};
        if (!worker.run(slots)) enough = false;
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < threads; i++) others.emplace_back(work);
    work();
    for (auto& thread : others) thread.join();
    return enough && next >= p.batch;
}
