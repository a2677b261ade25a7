// Nearest points of weighted ℓ1 balls, row by row: argmin ‖x - a‖₂ subject to Σ_j w_j |x_j| ≤ r.
#pragma once
#include <cmath>
#include "problem.hpp"
#include "threads.hpp"

constexpr int kWholePasses = 12;  // over whole rows; most need six

// Σ w |a|, Σ w² and the number of the entries with |a| > θ w.
struct Above {
    double total = 0, squares = 0;
    int64_t count = 0;
    void enter(double size, double w) { total += w * size, squares += w * w, count++; }
};

template <class T, bool weighted> Above above(const T* a, const T* w, int64_t n, double theta) {
    constexpr int L = Lanes<T>::count;
    const T bound = T(theta);
    Wide<T> total = {}, squares = {};
    Int<T> counts = {};
    Above found;
    int64_t j = 0;
    for (; j + L <= n; j += L) {
        const Vec<T> size = absolute<T>(load(a + j)), v = weighted ? load(w + j) : splat(T(1));
        const Int<T> kept = ~(size <= (weighted ? bound * v : splat(bound)));  // NaN is kept, and seen
        counts -= kept;
        if (weighted) {
            const Vec<T> among = (Vec<T>)(bits<T>(v) & kept);
            add_product(total, size, among), add_product(squares, v, among);
        } else {
            add_wide(total, (Vec<T>)(bits<T>(size) & kept));
        }
    }
    for (int part = 0; part < Wide<T>::parts; part++) {
        found.total += sum<double>(total.part[part]), found.squares += sum<double>(squares.part[part]);
    }
    for (int i = 0; i < L; i++) found.count += counts[i];
    if (!weighted) found.squares = double(found.count);
    for (; j < n; j++) {
        const T size = std::fabs(a[j]), v = weighted ? w[j] : T(1);
        if (!(size <= bound * v)) found.enter(size, v);
    }
    return found;
}

template <class T> double largest(const T* a, int64_t n) {
    constexpr int L = Lanes<T>::count;
    Int<T> top = {};
    int64_t j = 0;
    for (; j + L <= n; j += L) top = larger<T>(top, magnitude<T>(load(a + j)));
    double found = 0;
    for (int i = 0; i < L; i++) found = std::max(found, double(((Vec<T>)top)[i]));
    for (; j < n; j++) found = std::max(found, double(std::fabs(a[j])));
    return found;
}

// x_j = sign(a_j) max(|a_j| - θ w_j, 0). Every set S of entries gives a lower bound of θ,
// (Σ_S w |a| - r) / Σ_S w²; with S = the entries above the last bound it rises to θ in finitely many
// rounds (C. Michelot, J. Optim. Theory Appl. 50, 1986), and entries below it never come back: after
// some rounds those left are copied together. -1: inside, or not finite.
template <class T, bool weighted>
double threshold(const T* a, const T* w, int64_t n, double radius, T* size, T* weight) {
    Above found = above<T, weighted>(a, w, n, -1);
    if (!(found.total > radius && std::isfinite(found.total))) return -1;
    double theta = std::max(0.0, (found.total - radius) / found.squares);
    if (!weighted) theta = std::max(theta, largest(a, n) - radius);  // of the largest entry alone
    int64_t before = n;
    for (int pass = 0; pass < kWholePasses; pass++) {
        found = above<T, weighted>(a, w, n, theta);
        if (found.count > 0) theta = std::max(theta, (found.total - radius) / found.squares);
        if (found.count == before) return theta;
        before = found.count;
    }
    int64_t count = 0;
    for (int64_t j = 0; j < n; j++) {
        size[count] = std::fabs(a[j]), weight[count] = weighted ? w[j] : T(1);
        count += size[count] > theta * weight[count];
    }
    for (before = -1; count != before && count > 0;) {
        found = Above(), before = count, count = 0;
        for (int64_t j = 0; j < before; j++) found.enter(size[j], weight[j]);
        theta = std::max(theta, (found.total - radius) / found.squares);
        for (int64_t j = 0; j < before; j++) {
            const T kept = size[j], v = weight[j];
            size[count] = kept, weight[count] = v;
            count += kept > theta * v;
        }
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
        T *size = room.get(), *weight = size + n + 1;
        const double theta = w ? threshold<T, true>(from, w, n, double(radius[row]), size, weight)
                               : threshold<T, false>(from, w, n, double(radius[row]), size, weight);
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
        // θ is known to a rounding of the largest |a|, which may be far above r: what that adds is scaled off
        const double total = (w ? above<T, true>(to, w, n, -1) : above<T, false>(to, w, n, -1)).total;
        if (total > double(radius[row])) {
            const T factor = T(double(radius[row]) / total);
            for (j = 0; j < n; j++) to[j] *= factor;
        }
    });
    return enough;
}
