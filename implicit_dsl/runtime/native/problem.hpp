// What is to be solved, and what a solve reports.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include "activations.hpp"

constexpr int kMemory = 5;              // of Anderson acceleration
// Steps before it. Models at initialisation are done by then; where a step is expensive, after fewer of them.
constexpr int kAccelerateFrom = 6, kAccelerateLargeFrom = 4;
constexpr int64_t kLarge = 512;
constexpr double kRestartGrowth = 3.0;  // a residual that has grown so much outruns its model
constexpr int kPatience = 40;           // accelerated steps without progress after which it is given up
constexpr double kProgress = 0.98;
constexpr double kRegularisation = 1e-9;

// x = φ(A x + c) or, with kind = kLinear, w = slope ⊙ (Aᵀ w + g) or slope ⊙ (A w + g), for each row.
template <class T> struct Problem {
    const T* A;          // (n, n)
    const T* c;          // (batch, n)
    const T* slope;      // (batch, n) kLinear: x, or the slopes themselves
    T* x;                // (batch, n) start and result
    T* residual;         // (batch,) relative
    T* steps;            // (batch,)
    int64_t n, batch;
    int kind;            // of φ
    int slope_kind;      // how slopes follow from `slope`
    T negative_slope;
    bool transposed;     // Aᵀ
    bool started;        // x holds a start
    bool adjoint;        // norm Σ|.|, relative to that of the solution
    bool contracts;      // f(x) is at least as good as x
    double tolerance, floor;
    int max_steps;
    int memory;          // 0: plain steps
    int threads;

    int accelerate_from() const { return n >= kLarge ? kAccelerateLargeFrom : kAccelerateFrom; }
    // Whether f does not expand, by ‖A‖ = max_i Σ_j |A_ij|; negative: it is not known.
    bool contracts_at(double norm) const { return norm >= 0 && norm * (kind == kSigmoid ? 0.25 : 1) <= 1; }
};

// Whether a row is done. Below `floor` it is once the residual stops falling: that is rounding.
template <class T> INLINE bool is_done(const Problem<T>& p, int steps, T size, T scale, T before) {
    if (!(size > T(p.tolerance) * scale)) return true;  // NaN as well
    if (steps >= p.max_steps || !(size < T(INFINITY))) return true;
    return size <= T(p.floor) * scale && size >= before;
}
template <class T> INLINE T relative(T size, T scale) { return size == 0 ? T(0) : size / scale; }

struct Free {
    void operator()(void* p) const { std::free(p); }
};
template <class T> using Buffer = std::unique_ptr<T[], Free>;
// Aligned and not cleared; null if there is no memory.
template <class T> Buffer<T> buffer(size_t count) {
    return Buffer<T>((T*)std::aligned_alloc(64, (count * sizeof(T) + 127) / 64 * 64));
}

// γ with G γ = h for each lane, by L D Lᵀ. Only directions whose mask is set take part, and of those not
// the ones that depend on others numerically: they get 0.
INLINE void coefficients_part(Vec<double> (&G)[kMemory][kMemory], Vec<double> (&h)[kMemory], const Int<double>* valid) {
    typedef Vec<double> D;
    typedef Int<double> I;
    D largest = {}, l[kMemory][kMemory], d[kMemory], inverse[kMemory];
    UNROLL for (int i = 0; i < kMemory; i++) {
        h[i] = (D)((I)h[i] & valid[i]);
        UNROLL for (int j = 0; j <= i; j++) G[i][j] = (D)((I)G[i][j] & valid[i] & valid[j]);
        largest = choose<double>(G[i][i] > largest, G[i][i], largest);
    }
    const D shift = largest * kRegularisation;
    UNROLL for (int j = 0; j < kMemory; j++) {
        D pivot = G[j][j] + shift;
        UNROLL for (int k = 0; k < j; k++) pivot -= l[j][k] * l[j][k] * d[k];
        d[j] = pivot;
        inverse[j] = choose<double>((pivot > shift * 0.5) & valid[j], 1.0 / pivot, D{});
        UNROLL for (int i = j + 1; i < kMemory; i++) {
            D v = G[i][j];
            UNROLL for (int k = 0; k < j; k++) v -= l[i][k] * l[j][k] * d[k];
            l[i][j] = v * inverse[j];
        }
    }
    UNROLL for (int i = 0; i < kMemory; i++)
        UNROLL for (int k = 0; k < i; k++) h[i] -= l[i][k] * h[k];
    UNROLL for (int i = kMemory - 1; i >= 0; i--) {
        D v = h[i] * inverse[i];
        UNROLL for (int k = i + 1; k < kMemory; k++) v -= l[k][i] * h[k];
        h[i] = choose<double>(inverse[i] != 0.0, v, D{});
    }
}
