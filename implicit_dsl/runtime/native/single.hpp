// One row: products with A itself, which is read once for each step and never packed.
#pragma once
#include "problem.hpp"

// out_i = Σ_j A_ij x_j, and with `measured` max_i Σ_j |A_ij| on the way: the matrix is read once for both.
template <class T, bool measured> double multiply_row(const T* A, int64_t n, const T* x, T* out) {
    constexpr int L = Lanes<T>::count, R = 4;
    double largest = 0;
    auto rows = [&](int64_t i, auto together) {
        constexpr int many = decltype(together)::value;
        Vec<T> s[many] = {}, t[many] = {}, m[many] = {};
        const T* a = A + i * n;
        int64_t j = 0;
        for (; j + 2 * L <= n; j += 2 * L)
            UNROLL for (int r = 0; r < many; r++) {
                const Vec<T> v = load(a + r * n + j), w = load(a + r * n + j + L);
                s[r] += v * load(x + j), t[r] += w * load(x + j + L);
                if (measured) m[r] += absolute<T>(v) + absolute<T>(w);
            }
        for (int r = 0; r < many; r++) {
            T rest = 0, size = 0;
            for (int64_t k = j; k < n; k++) rest += a[r * n + k] * x[k], size += std::fabs(a[r * n + k]);
            out[i + r] = sum<T>(s[r] + t[r]) + rest;
            if (!measured) continue;
            const double total = sum<T>(m[r]) + size;
            largest = largest != largest || total <= largest ? largest : total;  // NaN stays
        }
    };
    int64_t i = 0;
    for (; i + R <= n; i += R) rows(i, std::integral_constant<int, R>{});
    for (; i < n; i++) rows(i, std::integral_constant<int, 1>{});
    return largest;
}

// out_j = Σ_i A_ij x_i. Rows whose x_i is zero, as half of them are behind relu, are not read.
template <class T> void multiply_row_transposed(const T* A, int64_t n, const T* x, T* out, int32_t* active) {
    constexpr int L = Lanes<T>::count, R = 8;
    int64_t count = 0, k = 0;
    for (int64_t i = 0; i < n; i++) active[count] = int32_t(i), count += x[i] != 0;
    std::memset(out, 0, n * sizeof(T));
    auto rows = [&](auto together) {
        constexpr int many = decltype(together)::value;
        const T* a[many];
        T factor[many];
        for (int r = 0; r < many; r++) a[r] = A + active[k + r] * n, factor[r] = x[active[k + r]];
        int64_t j = 0;
        for (; j + L <= n; j += L) {
            Vec<T> s = load(out + j), t = {};
            UNROLL for (int r = 0; r < many; r++) (r & 1 ? t : s) += splat(factor[r]) * load(a[r] + j);
            store(out + j, s + t);
        }
        for (; j < n; j++)
            for (int r = 0; r < many; r++) out[j] += factor[r] * a[r][j];
    };
    for (; k + R <= count; k += R) rows(std::integral_constant<int, R>{});
    for (; k < count; k++) rows(std::integral_constant<int, 1>{});
}

template <class T> T dot(const T* a, const T* b, int64_t padded) {
    Vec<T> s = {};
    for (int64_t j = 0; j < padded; j += Lanes<T>::count) s += load(a + j) * load(b + j);
    return sum<T>(s);
}

// The iteration for one row of the batch. Vectors are padded with zeros to whole registers.
template <class T> struct Row {
    static constexpr int L = Lanes<T>::count;
    const Problem<T>& p;
    double norm;  // ‖A‖, negative until it is known
    int64_t n, padded;
    T *x, *f, *c, *d, *r, *past, *dr[kMemory], *df[kMemory];
    double gram[kMemory][kMemory] = {};
    int used = 0, slot = -1;

    template <int kind> void image(T& size, T& scale) {
        if (kind == kLinear && p.transposed) multiply_row_transposed(p.A, n, x, f, active.get());
        else if (norm >= 0) multiply_row<T, false>(p.A, n, x, f);
        else norm = multiply_row<T, true>(p.A, n, x, f);
        for (int64_t j = n; j < padded; j++) f[j] = 0;  // then φ(0) in the padding, from the start on
        Int<T> largest = {}, extent = {};
        Vec<T> total = {}, all = {};
        for (int64_t j = 0; j < padded; j += L) {
            const Vec<T> z = load(f + j) + load(c + j);
            const Vec<T> y = kind == kLinear ? z * load(d + j) : activate<T, kind>(z, p.negative_slope);
            const Vec<T> change = y - load(x + j);
            store(f + j, y);
            if (kind == kLinear) {
                total += absolute<T>(change), all += absolute<T>(y);
            } else {
                largest = larger<T>(largest, magnitude<T>(change)), extent = larger<T>(extent, magnitude<T>(y));
            }
        }
        if (kind == kLinear) {
            size = sum<T>(total), scale = sum<T>(all);
        } else {
            size = greatest(largest), scale = greatest(extent);
        }
    }
    // The size of x, as that of f is measured.
    template <int kind> T extent() const {
        Int<T> largest = {};
        Vec<T> all = {};
        for (int64_t j = 0; j < padded; j += L) {
            const Vec<T> v = j + L <= n ? load(x + j) : start_of(x + j, n - j);
            largest = larger<T>(largest, magnitude<T>(v)), all += absolute<T>(v);
        }
        if (kind == kLinear) return sum<T>(all);
        return p.adjoint ? greatest(largest) : std::max(T(1), greatest(largest));
    }
    static Vec<T> start_of(const T* from, int64_t count) {
        Vec<T> v = {};
        std::memcpy(&v, from, count * sizeof(T));
        return v;
    }
    static T greatest(Int<T> v) {
        auto best = v[0];
        for (int i = 1; i < L; i++) best = v[i] > best ? v[i] : best;
        T value;
        std::memcpy(&value, &best, sizeof value);
        return value;
    }

    Buffer<T> memory;
    Buffer<int32_t> active;
    bool place() {
        padded = (n + L - 1) / L * L;
        const int64_t arrays = 4 + (p.memory ? 2 + 2 * kMemory : 0);
        memory = buffer<T>(arrays * padded), active = buffer<int32_t>(n + 1);
        if (!memory || !active) return false;
        T* at = memory.get();
        auto next = [&] { T* here = at; at += padded; return here; };
        x = next(), f = next(), c = next(), d = next();
        std::memset(memory.get(), 0, 4 * padded * sizeof(T));
        if (p.memory) {
            r = next(), past = next();
            for (int i = 0; i < kMemory; i++) dr[i] = next(), df[i] = next();
        }
        return true;
    }

    template <int kind> void solve(int64_t number) {
        used = 0, slot = -1;
        std::memcpy(c, p.c + number * n, n * sizeof(T));
        if (kind == kLinear)
            std::memcpy(d, p.slope + number * n, n * sizeof(T));
        if (kind == kLinear)
            for (int64_t j = 0; j < padded; j += L) store(d + j, slope_of<T>(p.slope_kind, load(d + j), p.negative_slope));
        for (int64_t j = 0; j < padded; j += L)
            store(x + j, kind == kLinear ? load(c + j) * load(d + j) : activate<T, kind>(load(c + j), p.negative_slope));
        if (p.started) std::memcpy(x, p.x + number * n, n * sizeof(T));
        T size, scale, before = T(INFINITY);
        T least = T(INFINITY), mark = least;
        bool tired = false;
        for (int step = 1;; step++) {
            image<kind>(size, scale);
            if (!p.adjoint) scale = std::max(T(1), scale);
            // x is what is returned unless f contracts: then its own size counts, and not that of f
            const bool candidate = is_done(p, step, size, scale, before);
            if (candidate && !p.contracts_at(norm)) scale = extent<kind>();
            if (candidate && is_done(p, step, size, scale, before)) {
                std::memcpy(p.x + number * n, p.contracts_at(norm) ? f : x, n * sizeof(T));
                p.residual[number] = relative(size, scale), p.steps[number] = step;
                return;
            }
            least = std::min(least, size);
            if (p.memory && step >= p.accelerate_from() && (step - p.accelerate_from()) % kPatience == 0) {
                tired |= step > p.accelerate_from() && !(least < T(kProgress) * mark);
                mark = least;
            }
            if (tired) average();
            else if (p.memory && step >= p.accelerate_from() - 1) accelerate(step, size > T(kRestartGrowth) * before);
            else std::swap(x, f);
            before = size;
        }
    }

    // Where acceleration does not help: a plain step if those are proved to converge, else an average.
    void average() {
        const T kept = p.contracts_at(norm) ? T(0) : T(0.5);
        for (int64_t j = 0; j < padded; j += L) store(x + j, load(f + j) + kept * (load(x + j) - load(f + j)));
    }

    void accelerate(int step, bool outrun) {
        const int most = std::min(p.memory, kMemory);
        if (step < p.accelerate_from() || outrun) {
            used = 0, slot = -1;
            for (int64_t j = 0; j < padded; j += L) store(r + j, load(f + j) - load(x + j));
            std::swap(past, f);
            std::memcpy(x, past, padded * sizeof(T));
            return;
        }
        slot = (slot + 1) % most, used = std::min(used + 1, most);
        for (int64_t j = 0; j < padded; j += L) {
            const Vec<T> y = load(f + j), now = y - load(x + j);
            store(dr[slot] + j, now - load(r + j)), store(df[slot] + j, y - load(past + j)), store(r + j, now);
        }
        Vec<double> G[kMemory][kMemory] = {}, h[kMemory] = {};
        Int<double> valid[kMemory] = {};
        for (int i = 0; i < used; i++) {
            gram[slot][i] = gram[i][slot] = dot(dr[i], dr[slot], padded);
            h[i][0] = dot(dr[i], r, padded), valid[i][0] = -1;
        }
        for (int i = 0; i < used; i++)
            for (int j = 0; j < used; j++) G[i][j][0] = gram[i][j];
        coefficients_part(G, h, valid);
        std::swap(past, f);
        for (int64_t j = 0; j < padded; j += L) {
            Vec<T> y = load(past + j);
            for (int i = 0; i < used; i++) y -= T(h[i][0]) * load(df[i] + j);
            store(x + j, y);
        }
    }
};

template <class T> bool solve_row(const Problem<T>& p, int64_t number, double* norm) {
    Row<T> row{p, *norm, p.n, 0, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, {}, {}, {}, 0, -1, nullptr, nullptr};
    if (!row.place()) return false;
    switch (p.kind) {
        case kRelu: row.template solve<kRelu>(number); break;
        case kLeakyRelu: row.template solve<kLeakyRelu>(number); break;
        case kTanh: row.template solve<kTanh>(number); break;
        case kSigmoid: row.template solve<kSigmoid>(number); break;
        case kLinear: row.template solve<kLinear>(number); break;
        default: row.template solve<kIdentity>(number);
    }
    *norm = row.norm;
    return true;
}
