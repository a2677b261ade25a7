// Nearest points of weighted ℓ1 balls, row by row: argmin ‖x - a‖₂ subject to Σ_j w_j |x_j| ≤ r.
#pragma once
#include <cmath>
#include "problem.hpp"
#include "threads.hpp"

constexpr double kMostKept = 0.6;  // of the entries: to copy them together costs as much as a pass or two
constexpr double kLost = 0.999;  // of r, at least, is left where θ was not rounded by more than r

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

// Σ_j |a_rj| v_j of R rows at once, multiplied and summed in double: memory is read in as many streams.
template <class T, int R> void weighted_sums(const T* a, const double* v, double* out, int64_t n) {
    constexpr int L = Lanes<T>::count, D = Lanes<double>::count;
    Wide<T> totals[R] = {};
    int64_t j = 0;
    for (; j + L <= n; j += L) {
        UNROLL for (int r = 0; r < R; r++) {
            const Wide<T> size = load_wide(a + r * n + j);
            UNROLL for (int part = 0; part < Wide<T>::parts; part++)
                totals[r].part[part] += absolute<double>(size.part[part]) * load(v + j + part * D);
        }
    }
    for (int r = 0; r < R; r++) {
        double found = 0;
        for (int part = 0; part < Wide<T>::parts; part++) found += sum<double>(totals[r].part[part]);
        for (int64_t k = j; k < n; k++) found += std::fabs(double(a[r * n + k])) * v[k];
        out[r] = found;
    }
}

// |A| v
template <class T>
void magnitude(const T* a, const double* v, double* out, int64_t rows, int64_t n, int64_t threads) {
    constexpr int64_t R = 8;
    share(rows / R, rows * n, threads, [&](int64_t k) { weighted_sums<T, R>(a + k * R * n, v, out + k * R, n); });
    for (int64_t row = rows / R * R; row < rows; row++) weighted_sums<T, 1>(a + row * n, v, out + row, n);
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
    int64_t before = n, length = n;
    while (true) {
        found = above<T, weighted>(a, w, length, theta);
        if (found.count > 0) theta = std::max(theta, (found.total - radius) / found.squares);
        if (found.count == before || found.count == 0) return theta;
        before = found.count;
        if (before > length * kMostKept) continue;
        int64_t kept = 0;
        const T bound = T(theta);
        for (int64_t j = 0; j < length; j++) {
            const T value = std::fabs(a[j]), v = weighted ? w[j] : T(1);
            size[kept] = value;
            if (weighted) weight[kept] = v;
            kept += !(value <= bound * v);
        }
        a = size, w = weight, length = kept;
    }
}

// The nearest point where r is below the rounding of θ: it shares r among the entries with the largest |a| / w.
template <class T> void highest(const T* a, const T* w, int64_t n, double radius, T* to) {
    double top = 0, squares = 0;
    auto ratio = [&](int64_t j) { return w ? double(std::fabs(a[j])) / w[j] : double(std::fabs(a[j])); };
    for (int64_t j = 0; j < n; j++) top = std::max(top, ratio(j));
    for (int64_t j = 0; j < n; j++)
        if (ratio(j) == top) squares += w ? double(w[j]) * w[j] : 1.0;
    for (int64_t j = 0; j < n; j++)
        if (ratio(j) == top) to[j] = std::copysign(T(radius / squares * (w ? w[j] : T(1))), a[j]);
}

// Σ w |a| of each row. `weights` as below.
template <class T>
void sums(const T* a, const T* weights, bool row_weights, double* out, int64_t rows, int64_t n, int64_t threads) {
    share(rows, rows * n, threads, [&](int64_t row) {
        const T *from = a + row * n, *w = weights ? weights + row_weights * row * n : nullptr;
        out[row] = (w ? above<T, true>(from, w, n, -1) : above<T, false>(from, w, n, -1)).total;
    });
}

// `weights` (n,) or, if they have a row each, (rows, n); null: ones. `out` may be `a`. False: no memory.
template <class T>
bool project(const T* a, const double* radius, const T* weights, bool row_weights, T* out, int64_t rows, int64_t n,
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
        const bool in_place = from == to;
        const double theta = w ? threshold<T, true>(from, w, n, radius[row], size, weight)
                               : threshold<T, false>(from, w, n, radius[row], size, weight);
        if (theta < 0) {
            if (!in_place) std::copy(from, from + n, to);
            return;
        }
        if (in_place) std::copy(from, from + n, size), from = size;
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
        // θ is known to a rounding of the largest |a|, which may be far above r: what that adds or takes is scaled
        const double total = (w ? above<T, true>(to, w, n, -1) : above<T, false>(to, w, n, -1)).total;
        if (total == 0) {
            highest(from, w, n, radius[row], to);
        } else if (total > radius[row] || total < kLost * radius[row]) {
            const T factor = T(radius[row] / total);
            for (j = 0; j < n; j++) to[j] *= factor;
        }
    });
    return enough;
}
