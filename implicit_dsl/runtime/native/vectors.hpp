// Vectors of the width of this machine, written with the vector extensions of GCC and Clang: no intrinsics.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
constexpr int kBytes = 64, kRegisters = 32;
#elif defined(__AVX__)
constexpr int kBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kRegisters = 32;
#else
constexpr int kBytes = 16, kRegisters = 16;
#endif

#define INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE 1
#endif
#endif

template <class T> struct Lanes;  // one row of the batch in each lane
template <> struct Lanes<float> {
    static constexpr int count = kBytes / 4;
    typedef float V __attribute__((vector_size(kBytes)));
    typedef float Unaligned __attribute__((vector_size(kBytes), aligned(4), may_alias));
    typedef int32_t I __attribute__((vector_size(kBytes)));
    static constexpr int32_t magnitude = 0x7fffffff;
};
template <> struct Lanes<double> {
    static constexpr int count = kBytes / 8;
    typedef double V __attribute__((vector_size(kBytes)));
    typedef double Unaligned __attribute__((vector_size(kBytes), aligned(8), may_alias));
    typedef int64_t I __attribute__((vector_size(kBytes)));
    static constexpr int64_t magnitude = 0x7fffffffffffffff;
};
template <class T> using Vec = typename Lanes<T>::V;
template <class T> using Int = typename Lanes<T>::I;

template <class T> INLINE Vec<T> load(const T* p) { return *(const typename Lanes<T>::Unaligned*)p; }
template <class T> INLINE void store(T* p, Vec<T> v) { *(typename Lanes<T>::Unaligned*)p = v; }
template <class T> INLINE Int<T> bits(Vec<T> v) { return (Int<T>)v; }
// a + 0 would turn -0 into 0, and so cost an addition
template <class T> INLINE Vec<T> splat(T a) { return a - Vec<T>{}; }
template <class T> INLINE Vec<T> choose(Int<T> mask, Vec<T> yes, Vec<T> no) {
    return (Vec<T>)((mask & (Int<T>)yes) | (~mask & (Int<T>)no));
}
// |v| as an integer: ordered like the numbers, and NaN above everything, so that no maximum loses one
template <class T> INLINE Int<T> magnitude(Vec<T> v) { return (Int<T>)v & Lanes<T>::magnitude; }
template <class T> INLINE Int<T> larger(Int<T> a, Int<T> b) { return a > b ? a : b; }
template <class T> INLINE Vec<T> absolute(Vec<T> v) { return (Vec<T>)magnitude<T>(v); }
template <class T> INLINE T sum(Vec<T> v) {
    T total = 0;
    for (int i = 0; i < Lanes<T>::count; i++) total += v[i];
    return total;
}

template <class I> INLINE bool any(I mask) {
    uint64_t word[sizeof(I) / 8], all = 0;
    std::memcpy(word, &mask, sizeof mask);
    for (uint64_t w : word) all |= w;
    return all != 0;
}

// The lanes of a vector in double, in as many registers as that takes.
template <class T> struct Wide {
    static constexpr int parts = sizeof(double) / sizeof(T);
    Vec<double> part[parts];
};
INLINE Wide<double> load_wide(const double* p) { return {{load(p)}}; }
INLINE Wide<float> load_wide(const float* p) {
    typedef float Half __attribute__((vector_size(kBytes / 2), aligned(4), may_alias));
    const Half *low = (const Half*)p, *high = (const Half*)(p + kBytes / 8);
    return {{__builtin_convertvector(*low, Vec<double>), __builtin_convertvector(*high, Vec<double>)}};
}
INLINE void add_wide(Wide<double>& to, Vec<double> v) { to.part[0] += v; }
INLINE void add_wide(Wide<float>& to, Vec<float> v) {
    typedef float Half __attribute__((vector_size(kBytes / 2)));
    Half half[2];
    std::memcpy(half, &v, sizeof v);
    to.part[0] += __builtin_convertvector(half[0], Vec<double>);
    to.part[1] += __builtin_convertvector(half[1], Vec<double>);
}
// to += a * b, multiplied in double
INLINE void add_product(Wide<double>& to, Vec<double> a, Vec<double> b) { to.part[0] += a * b; }
INLINE void add_product(Wide<float>& to, Vec<float> a, Vec<float> b) {
    typedef float Half __attribute__((vector_size(kBytes / 2)));
    Half x[2], y[2];
    std::memcpy(x, &a, sizeof a), std::memcpy(y, &b, sizeof b);
    for (int i = 0; i < 2; i++)
        to.part[i] += __builtin_convertvector(x[i], Vec<double>) * __builtin_convertvector(y[i], Vec<double>);
}
INLINE Int<double> wide_mask(Int<double> mask, int, double) { return mask; }
INLINE Int<double> wide_mask(Int<float> mask, int part, float) {
    typedef int32_t Half __attribute__((vector_size(kBytes / 2)));
    Half half[2];
    std::memcpy(half, &mask, sizeof mask);
    return __builtin_convertvector(half[part], Int<double>);
}
INLINE Vec<double> narrow(const Wide<double>& v) { return v.part[0]; }
INLINE Vec<float> narrow(const Wide<float>& v) {
    typedef float Half __attribute__((vector_size(kBytes / 2)));
    Half half[2] = {__builtin_convertvector(v.part[0], Half), __builtin_convertvector(v.part[1], Half)};
    Vec<float> all;
    std::memcpy(&all, half, sizeof all);
    return all;
}

// Transpose as many vectors as they have lanes, in place.
#if defined(HAS_SHUFFLE)
template <class T, int... i> INLINE void transpose_by(Vec<T>* v, std::integer_sequence<int, i...>) {
    constexpr int L = Lanes<T>::count;
    for (int round = 1; round < L; round *= 2) {
        Vec<T> w[L];
        UNROLL for (int k = 0; k < L / 2; k++) {
            w[2 * k] = __builtin_shufflevector(v[k], v[k + L / 2], (i / 2 + i % 2 * L)...);
            w[2 * k + 1] = __builtin_shufflevector(v[k], v[k + L / 2], (L / 2 + i / 2 + i % 2 * L)...);
        }
        UNROLL for (int k = 0; k < L; k++) v[k] = w[k];
    }
}
template <class T> INLINE void transpose(Vec<T>* v) {
    transpose_by<T>(v, std::make_integer_sequence<int, Lanes<T>::count>{});
}
#else
template <class T> INLINE void transpose(Vec<T>* v) {
    constexpr int L = Lanes<T>::count;
    for (int i = 0; i < L; i++)
        for (int j = 0; j < i; j++) {
            const T kept = v[i][j];
            v[i][j] = v[j][i], v[j][i] = kept;
        }
}
#endif
