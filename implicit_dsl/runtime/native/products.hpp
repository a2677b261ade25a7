// Products of a packed matrix with panels. A panel holds as many rows of the batch as a vector has lanes,
// transposed: element (k, lane) at k * lanes + lane. So there is no tail in n, norms and coefficients of a
// row are lanes of a vector, and what is computed for a row depends on no other row.
#pragma once
#include <algorithm>
#include "vectors.hpp"

// Rows of the matrix in one block: with two vectors for each, the accumulators fill 3/4 of the registers.
constexpr int kBlock = kRegisters * 3 / 8;

// Evenly filled blocks for n rows of the matrix.
INLINE int block_rows(int64_t n) {
    int64_t blocks = (n + kBlock - 1) / kBlock;
    return int((n + blocks - 1) / blocks);
}
INLINE int64_t packed_size(int64_t n) {
    int64_t rows = block_rows(n);
    return (n + rows - 1) / rows * rows * n;
}

// Pack M = A or Aᵀ (n, n): block b holds M[b * rows + i, k] at (b * n + k) * rows + i, zeros beyond the end.
template <class T> void pack(const T* A, int64_t n, bool transposed, T* packed) {
    const int64_t rows = block_rows(n);
    for (int64_t first = 0; first < n; first += rows) {
        const int64_t here = std::min(rows, n - first);
        T* to = packed + first * n;
        if (here < rows) std::fill(to, to + rows * n, T(0));
        if (transposed) {
            for (int64_t k = 0; k < n; k++)
                for (int64_t i = 0; i < here; i++) to[k * rows + i] = A[k * n + first + i];
        } else {
            // a few columns of all rows at a time: they are read along and written together
            constexpr int64_t width = 16;
            for (int64_t from = 0; from < n; from += width) {
                const int64_t until = std::min(n, from + width);
                for (int64_t i = 0; i < here; i++)
                    for (int64_t k = from; k < until; k++) to[k * rows + i] = A[(first + i) * n + k];
            }
        }
    }
}

// max_i Σ_j |A_ij|: whether x ↦ φ(A x + c) contracts in the ∞-norm, and its adjoint in the 1-norm
template <class T> double norm_of(const T* A, int64_t n) {
    constexpr int L = Lanes<T>::count;
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        const T* row = A + i * n;
        Vec<T> s[4] = {};
        int64_t j = 0;
        for (; j + 4 * L <= n; j += 4 * L)
            for (int u = 0; u < 4; u++) s[u] += absolute<T>(load(row + j + u * L));
        double total = sum<T>((s[0] + s[1]) + (s[2] + s[3]));
        for (; j < n; j++) total += std::fabs(row[j]);
        largest = largest != largest || total <= largest ? largest : total;  // NaN stays
    }
    return largest;
}

// tile[b][i][w] = Σ_k M[b, i, k] panel_w[k] for B blocks of R rows and W panels
template <class T, int R, int B, int W>
INLINE void multiply_block(const T* packed, int64_t n, const T* panel, int64_t panel_size, Vec<T>* tile) {
    constexpr int L = Lanes<T>::count;
    Vec<T> a[B][R][W] = {};
    const T* p0 = packed;
    const T* p1 = packed + (B - 1) * R * n;
    const T* x0 = panel;
    const T* x1 = panel + (W - 1) * panel_size;
    for (int64_t k = 0; k < n; k++, p0 += R, p1 += R, x0 += L, x1 += L) {
        Vec<T> x[2] = {load(x0), W > 1 ? load(x1) : Vec<T>{}};
        UNROLL for (int i = 0; i < R; i++) {
            Vec<T> m = splat(p0[i]);
            UNROLL for (int w = 0; w < W; w++) a[0][i][w] += m * x[w];
            if (B > 1) a[B - 1][i][0] += splat(p1[i]) * x[0];
        }
    }
    UNROLL for (int b = 0; b < B; b++)
        UNROLL for (int i = 0; i < R; i++)
            UNROLL for (int w = 0; w < W; w++) tile[(b * R + i) * W + w] = a[b][i][w];
}

template <class T, int B, int W>
void multiply(int rows, const T* packed, int64_t n, const T* panel, int64_t panel_size, Vec<T>* tile) {
    switch (rows) {
#define CASE(R) \
    case R: \
        if constexpr (R <= kBlock) return multiply_block<T, R, B, W>(packed, n, panel, panel_size, tile); \
        return;
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#undef CASE
    }
}
