// Vectors of the width of this machine, written with the vector extensions of GCC and Clang: no intrinsics.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

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

template <class T> struct Lanes;  // one row of the batch in each lane
template <> struct Lanes<float> {
    static constexpr int count = kBytes / 4;
    typedef float V __attribute__((vector_size(kBytes)));
    typedef float Unaligned __attribute__((vector_size(kBytes), aligned(4), may_alias));
    typedef int32_t I __attribute__((vector_size(kBytes)));
    typedef double D __attribute__((vector_size(2 * kBytes)));
    typedef int64_t J __attribute__((vector_size(2 * kBytes)));
    static constexpr int32_t magnitude = 0x7fffffff;
};
template <> struct Lanes<double> {
    static constexpr int count = kBytes / 8;
    typedef double V __attribute__((vector_size(kBytes)));
    typedef double Unaligned __attribute__((vector_size(kBytes), aligned(8), may_alias));
    typedef int64_t I __attribute__((vector_size(kBytes)));
    typedef double D __attribute__((vector_size(kBytes)));
    typedef int64_t J __attribute__((vector_size(kBytes)));
    static constexpr int64_t magnitude = 0x7fffffffffffffff;
};
template <class T> using Vec = typename Lanes<T>::V;
template <class T> using Int = typename Lanes<T>::I;
template <class T> using Wide = typename Lanes<T>::D;  // the same lanes in double
template <class T> using WideInt = typename Lanes<T>::J;

template <class T> INLINE Vec<T> load(const T* p) { return *(const typename Lanes<T>::Unaligned*)p; }
template <class T> INLINE void store(T* p, Vec<T> v) { *(typename Lanes<T>::Unaligned*)p = v; }
template <class T> INLINE Int<T> bits(Vec<T> v) { return (Int<T>)v; }
template <class T> INLINE Vec<T> splat(T a) { return a - Vec<T>{}; }  // a + 0 would turn -0 into 0, and so cost an addition
template <class T> INLINE Vec<T> choose(Int<T> mask, Vec<T> yes, Vec<T> no) {
    return (Vec<T>)((mask & (Int<T>)yes) | (~mask & (Int<T>)no));
}
// |v| as an integer: ordered like the numbers, and NaN above everything, so that no maximum loses one
template <class T> INLINE Int<T> magnitude(Vec<T> v) { return (Int<T>)v & Lanes<T>::magnitude; }
template <class T> INLINE Int<T> larger(Int<T> a, Int<T> b) { return a > b ? a : b; }
template <class T> INLINE Vec<T> absolute(Vec<T> v) { return (Vec<T>)magnitude<T>(v); }
template <class T> INLINE Wide<T> widen(Vec<T> v) { return __builtin_convertvector(v, Wide<T>); }
template <class T> INLINE T sum(Vec<T> v) {
    T total = 0;
    for (int i = 0; i < Lanes<T>::count; i++) total += v[i];
    return total;
}
