// The passes of Anderson acceleration over large states, for any solver: rows of the batch contiguous.
#pragma once
#include "threads.hpp"
#include "vectors.hpp"

constexpr int64_t kChunk = 2048;  // numbers: a chunk of all vectors of a pass stays in the first cache

template <class T> double dot_chunk(const T* a, const T* b, int64_t n) {
    constexpr int L = Lanes<T>::count;
    Vec<T> s[4] = {};
    int64_t j = 0;
    for (; j + 4 * L <= n; j += 4 * L) UNROLL for (int u = 0; u < 4; u++) s[u] += load(a + j + u * L) * load(b + j + u * L);
    double total = sum<T>((s[0] + s[1]) + (s[2] + s[3]));
    for (; j < n; j++) total += double(a[j]) * b[j];
    return total;
}

// For each row: dr[slot] = r - r', dt[slot] = t - t' (those of the step before), and in `found` (batch, used + 2)
// the products of dr[slot] with dr[0 … used - 1], with r, and of r with r.
template <class T>
void differences(const T* r, const T* r_before, const T* t, const T* t_before, T* dr, T* dt, double* found,
                 int64_t batch, int64_t n, int64_t memory, int64_t used, int64_t slot, int64_t threads) {
    share(batch, batch * n * (used + 6), threads, [&](int64_t row) {
        const T *r0 = r + row * n, *r1 = r_before + row * n, *t0 = t + row * n, *t1 = t_before + row * n;
        T *all = dr + row * memory * n, *newest = all + slot * n, *image = dt + (row * memory + slot) * n;
        double* sums = found + row * (used + 2);
        std::fill(sums, sums + used + 2, 0.0);
        for (int64_t from = 0; from < n; from += kChunk) {
            const int64_t here = std::min(kChunk, n - from), until = from + here;
            for (int64_t j = from; j < until; j++) newest[j] = r0[j] - r1[j];
            for (int64_t j = from; j < until; j++) image[j] = t0[j] - t1[j];
            for (int64_t i = 0; i < used; i++) sums[i] += dot_chunk(all + i * n + from, newest + from, here);
            sums[used] += dot_chunk(newest + from, r0 + from, here);
            sums[used + 1] += dot_chunk(r0 + from, r0 + from, here);
        }
    });
}

// For each row: r = f - x, and in `found` (batch, 2) the sizes of r and of x: max |.|, or with `dual` Σ |.|.
template <class T>
void residuals(const T* f, const T* x, T* r, double* found, int64_t batch, int64_t n, bool dual, int64_t threads) {
    constexpr int L = Lanes<T>::count;
    share(batch, batch * n * 3, threads, [&](int64_t row) {
        const T *image = f + row * n, *from = x + row * n;
        T* to = r + row * n;
        double sums[2] = {};
        Int<T> largest[2] = {};
        int64_t j = 0;
        while (j + L <= n) {  // sums of a chunk in T, of chunks in double
            Vec<T> part[2] = {};
            for (const int64_t until = std::min(n, j + kChunk); j + L <= until; j += L) {
                const Vec<T> before = load(from + j), change = load(image + j) - before;
                store(to + j, change);
                if (dual) part[0] += absolute<T>(change), part[1] += absolute<T>(before);
                else largest[0] = larger<T>(largest[0], magnitude<T>(change)), largest[1] = larger<T>(largest[1], magnitude<T>(before));
            }
            for (int k = 0; k < 2; k++) sums[k] += sum<T>(part[k]);
        }
        Vec<T> rest[2] = {};  // the tail, as one vector
        for (int lane = 0; j < n; j++, lane++) {
            to[j] = image[j] - from[j];
            rest[0][lane] = to[j], rest[1][lane] = from[j];
        }
        for (int k = 0; k < 2; k++) {
            sums[k] += sum<T>(absolute<T>(rest[k]));
            const Vec<T> most = (Vec<T>)larger<T>(largest[k], magnitude<T>(rest[k]));
            double size = 0;
            for (int lane = 0; lane < L; lane++) size = size != size || most[lane] <= size ? size : most[lane];
            found[row * 2 + k] = dual ? sums[k] : size;
        }
    });
}

// out = t - Σ_i γ_i dt[i] for each row
template <class T>
void combine(const T* t, const T* dt, const double* gamma, T* out, int64_t batch, int64_t n, int64_t memory,
             int64_t used, int64_t threads) {
    constexpr int L = Lanes<T>::count;
    share(batch, batch * n * (used + 2), threads, [&](int64_t row) {
        const T *target = t + row * n, *all = dt + row * memory * n;
        const double* factor = gamma + row * used;
        T* to = out + row * n;
        for (int64_t from = 0; from < n; from += kChunk) {
            const int64_t until = std::min(n, from + kChunk);
            std::copy(target + from, target + until, to + from);
            for (int64_t i = 0; i < used; i++) {
                const T* one = all + i * n;
                const T weight = T(factor[i]);
                int64_t j = from;
                if (weight == 0) continue;  // a slot that is not valid may hold anything
                for (; j + L <= until; j += L) store(to + j, load(to + j) - weight * load(one + j));
                for (; j < until; j++) to[j] -= weight * one[j];
            }
        }
    });
}
