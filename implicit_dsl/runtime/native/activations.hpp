// φ on vectors, NaN in, NaN out.
#pragma once
#include "vectors.hpp"

enum Activation { kRelu = 0, kLeakyRelu = 1, kIdentity = 2, kTanh = 3, kSigmoid = 4, kLinear = 5 };

// e^v for v <= 0 in float: v = k ln 2 + r, |r| <= ln 2 / 2, e^r by its Taylor polynomial of degree 7
// (error 1e-8), 2^k by its bits. Below -87 it is e^-87: nobody who adds 1 to it sees a difference.
INLINE Vec<float> exponential(Vec<float> v) {
    typedef Vec<float> V;
    v = choose<float>(v < -87.0f, splat<float>(-87.0f), v);
    V shifted = v * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
    V k = shifted - 12582912.0f;
    V r = v - k * 0.693359375f + k * 2.12194440e-4f;  // ln 2 in two parts, the first exact
    V p = splat<float>(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    Int<float> power = (bits<float>(shifted) - bits<float>(splat<float>(12582912.0f)) + 127) << 23;
    return choose<float>(v == v, p * (V)power, v);
}

// tanh v: by e^(-2|v|), and near zero, where that cancels, by its odd Taylor polynomial
INLINE Vec<float> hyperbolic(Vec<float> v) {
    typedef Vec<float> V;
    V a = absolute<float>(v), e = exponential(a * -2.0f), large = (1.0f - e) / (1.0f + e);
    V q = v * v, p = splat<float>(21844.0f / 6081075);
    p = p * q - 1382.0f / 155925;
    p = p * q + 62.0f / 2835;
    p = p * q - 17.0f / 315;
    p = p * q + 2.0f / 15;
    p = p * q - 1.0f / 3;
    V small = v + v * q * p;
    V signed_large = (V)(bits<float>(large) | (bits<float>(v) & ~Lanes<float>::magnitude));
    return choose<float>(a < 0.4f, small, signed_large);
}

INLINE Vec<float> logistic(Vec<float> v) {
    Vec<float> e = exponential(-absolute<float>(v)), d = 1.0f / (1.0f + e);
    return choose<float>(v < 0.0f, e * d, d);
}

// in double the library does it, lane by lane
INLINE Vec<double> hyperbolic(Vec<double> v) {
    for (int i = 0; i < Lanes<double>::count; i++) v[i] = std::tanh(v[i]);
    return v;
}
INLINE Vec<double> logistic(Vec<double> v) {
    for (int i = 0; i < Lanes<double>::count; i++) v[i] = 1 / (1 + std::exp(-v[i]));
    return v;
}

template <class T, int kind> INLINE Vec<T> activate(Vec<T> z, T slope) {
    if constexpr (kind == kRelu) return choose<T>(z < T(0), Vec<T>{}, z);
    if constexpr (kind == kLeakyRelu) return choose<T>(z < T(0), z * slope, z);
    if constexpr (kind == kTanh) return hyperbolic(z);
    if constexpr (kind == kSigmoid) return logistic(z);
    return z;
}

template <class T> Vec<T> activate_as(int kind, Vec<T> z, T slope) {
    switch (kind) {
        case kRelu: return activate<T, kRelu>(z, slope);
        case kLeakyRelu: return activate<T, kLeakyRelu>(z, slope);
        case kTanh: return activate<T, kTanh>(z, slope);
        case kSigmoid: return activate<T, kSigmoid>(z, slope);
        default: return z;
    }
}

// φ' as a function of x = φ(z). NaN stays.
template <class T> INLINE Vec<T> slope_of(int kind, Vec<T> x, T slope) {
    const Vec<T> one = splat(T(1)), other = splat(kind == kLeakyRelu ? slope : T(0));
    switch (kind) {
        case kRelu:
        case kLeakyRelu: return choose<T>(x > T(0), one, choose<T>(x == x, other, x));
        case kTanh: return one - x * x;
        case kSigmoid: return x * (one - x);
        case kLinear: return x;  // what is given is the slope itself
        default: return one;
    }
}
