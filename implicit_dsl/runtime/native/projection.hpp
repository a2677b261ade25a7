// Nearest points of weighted ℓ1 balls, row by row: argmin ‖x - a‖₂ subject to Σ_j w_j |x_j| ≤ r.
#pragma once
#include <cmath>
#include "problem.hpp"
#include "threads.hpp"

// x_j = sign(a_j) max(|a_j| - θ w_j, 0). Every set S of entries gives a lower bound of θ,
// (Σ_S w |a| - r) / Σ_S w²; with S = the entries above the last bound it rises to θ in finitely many
// rounds (C. Michelot, J. Optim. Theory Appl. 50, 1986), and entries below it never come back.
template <class T> double threshold(const T* a, const T* w, int64_t n, double radius, T* size, T* weight) {
    constexpr int L = Lanes<T>::count;
    double total = 0, squares = 0, theta = 0;
    Wide<T> s = {}, q = {};
    int64_t first = 0;
    for (; first + L <= n; first += L) {
        const Vec<T> v = w ? load(w + first) : splat(T(1));
        add_product(s, v, absolute<T>(load(a + first))), add_product(q, v, v);
    }
    for (int part = 0; part < Wide<T>::parts; part++) total += sum<double>(s.part[part]), squares += sum<double>(q.part[part]);
    for (; first < n; first++) {
        const double v = w ? w[first] : 1;
        total += v * std::fabs(a[first]), squares += v * v;
    }
    if (!(total > radius)) return -1;  // inside, or not finite
    theta = (total - radius) / squares;  // the set of all
    for (int64_t j = 0; j < n; j++) {    // the sets of one entry
        const double v = w ? w[j] : 1, alone = std::fabs(a[j]) / v - radius / (v * v);
        theta = alone > theta ? alone : theta;
    }
    int64_t count = 0;
    auto keep = [&](T value, T v, double bound) {
        size[count] = value, weight[count] = v;
        count += value > bound * v;
    };
    for (int64_t j = 0; j < n; j++) keep(std::fabs(a[j]), w ? w[j] : T(1), theta);
    for (int64_t before = -1; count != before && count > 0;) {
        before = count, total = squares = 0;
        for (int64_t j = 0; j < count; j++) total += double(weight[j]) * size[j], squares += double(weight[j]) * weight[j];
        theta = std::max(theta, (total - radius) / squares);
        count = 0;
        for (int64_t j = 0; j < before; j++) keep(size[j], weight[j], theta);
    }
    return theta;
}

// `weights` (n,) or, if they have a row each, (rows, n); null: ones. False: no memory.
template <class T>
bool project(const T* a, const T* radius, const T* weights, bool row_weights, T* out, int64_t rows, int64_t n,
             int64_t threads) {
    std::atomic<bool> enough{true};
    share(rows, rows * n * 4, threads, [&](int64_t row) {
        constexpr int L = Lanes<T>::count;
        thread_local Buffer<T> room;
        thread_local int64_t held = 0;
        if (held < 2 * n + 2) room = buffer<T>(2 * n + 2), held = 2 * n + 2;
        if (!room) {
            held = 0, enough = false;
            return;
        }
        const T *from = a + row * n, *w = weights ? weights + row_weights * row * n : nullptr;
        T* to = out + row * n;
        const double theta = threshold(from, w, n, double(radius[row]), room.get(), room.get() + n + 1);
        if (theta < 0) {
            std::copy(from, from + n, to);
            return;
        }
        // θ in two parts: |a| - θ w cancels, and is exact to the rounding of the result where it is fused
        const T high = T(theta), low = T(theta - high);
        int64_t j = 0;
        for (; j + L <= n; j += L) {
            const Vec<T> v = load(from + j), weight = w ? load(w + j) : splat(T(1));
            const Vec<T> cut = (absolute<T>(v) - high * weight) - low * weight;
            const Int<T> kept = cut > T(0), sign = bits<T>(v) & ~Lanes<T>::magnitude;
            store(to + j, (Vec<T>)((bits<T>(cut) | sign) & kept));
        }
        for (; j < n; j++) {
            const double weight = w ? w[j] : 1;
            to[j] = std::copysign(T(std::max(std::fabs(from[j]) - theta * weight, 0.0)), from[j]);
        }
    });
    return enough;
}
