// A panel: as many rows as a vector has lanes, each at its own step of its own solve.
#pragma once
#include "problem.hpp"
#include "products.hpp"

template <class T> struct Panel {
    static constexpr int L = Lanes<T>::count;
    typedef Vec<T> V;
    typedef Int<T> I;

    int64_t row[L];       // of the batch; -1: the lane is free
    int32_t steps[L];
    T before[L];          // the residual of the step before
    Progress<T> progress[L];
    int live = 0;
    T *x, *f, *c, *d;     // iterate, image, offset, slope: (n, L)
    T *r, *past;          // residual and image of the step before
    T *dr[kMemory], *df[kMemory];
    V size, scale;        // of this step, as sums or as the bits of maxima
    Wide<T> gram[kMemory][kMemory];
    WideInt<T> valid[kMemory];
    int slot = 0;
    bool recorded = false;  // whether histories are cleared and in use

    static size_t arrays(bool linear, int memory) { return 3 + linear + (memory ? 2 + 2 * kMemory : 0); }

    void place(T* memory, int64_t n, const Problem<T>& p) {
        auto next = [&] { T* here = memory; memory += n * L; return here; };
        x = next(), f = next(), c = next();
        d = p.kind == kLinear ? next() : nullptr;
        if (p.memory) {
            r = next(), past = next();
            for (int i = 0; i < kMemory; i++) dr[i] = next(), df[i] = next();
        }
        for (int i = 0; i < L; i++) row[i] = -1, steps[i] = 0, before[i] = 0;
        std::memset(c, 0, n * L * sizeof(T));  // lanes that are never filled stay finite
        std::memset(x, 0, n * L * sizeof(T));
        if (d) std::memset(d, 0, n * L * sizeof(T));
    }

    // Take a row of the batch into a free lane.
    void fill(const Problem<T>& p, int lane, int64_t number) {
        const int64_t n = p.n;
        const T *source = p.c + number * n, *given = p.x + number * n;
        for (int64_t k = 0; k < n; k += L) {
            const int here = int(std::min<int64_t>(L, n - k));
            V z = {}, y;
            for (int i = 0; i < here; i++) z[i] = source[k + i];
            if (p.kind == kLinear) {
                V s = {};
                for (int i = 0; i < here; i++) s[i] = slope_of(p.slope_kind, p.slope[number * n + k + i], p.negative_slope);
                for (int i = 0; i < here; i++) d[(k + i) * L + lane] = s[i];
                y = z * s;
            } else {
                y = activate_as(p.kind, z, p.negative_slope);
            }
            for (int i = 0; i < here; i++) c[(k + i) * L + lane] = z[i];
            for (int i = 0; i < here; i++) x[(k + i) * L + lane] = p.started ? given[k + i] : y[i];
        }
        row[lane] = number, steps[lane] = 0, before[lane] = T(INFINITY), progress[lane] = {}, live++;
        if (recorded) forget(lane, n);
    }

    // No history for this lane, and nothing in it that is not finite.
    void forget(int lane, int64_t n) {
        for (int i = 0; i < kMemory; i++) valid[i][lane] = 0;
        for (int64_t k = 0; k < n; k++) {
            r[k * L + lane] = past[k * L + lane] = 0;
            for (int i = 0; i < kMemory; i++) dr[i][k * L + lane] = df[i][k * L + lane] = 0;
        }
    }

    void write(const Problem<T>& p, int lane, T size, T scale) {
        const T* from = p.contracts ? f : x;
        T* to = p.x + row[lane] * p.n;
        for (int64_t k = 0; k < p.n; k++) to[k] = from[k * L + lane];
        p.residual[row[lane]] = relative(size, scale);
        p.steps[row[lane]] = steps[lane];
        row[lane] = -1, live--;
    }

    // Take over a lane of another panel, with its history.
    void adopt(const Problem<T>& p, int lane, Panel& from, int other) {
        row[lane] = from.row[other], steps[lane] = from.steps[other], before[lane] = from.before[other];
        progress[lane] = from.progress[other];
        from.row[other] = -1, from.live--, live++;
        auto copy = [&](T* to, const T* source) {
            for (int64_t k = 0; k < p.n; k++) to[k * L + lane] = source[k * L + other];
        };
        copy(x, from.x), copy(c, from.c);
        if (d) copy(d, from.d);
        if (from.recorded && !recorded) clear(p.n);
        if (!recorded) return;
        forget(lane, p.n);
        if (!from.recorded) return;
        const int used = std::min(p.memory, kMemory);
        copy(r, from.r), copy(past, from.past);
        auto here = [&](int i) { return (slot + used - (from.slot + used - i) % used) % used; };
        for (int i = 0; i < used; i++) {
            if (!from.valid[i][other]) continue;
            copy(dr[here(i)], from.dr[i]), copy(df[here(i)], from.df[i]);
            valid[here(i)][lane] = -1;
            for (int j = 0; j < used; j++) gram[here(i)][here(j)][lane] = from.gram[i][j][other];
        }
    }

    void clear(int64_t n) {
        recorded = true;
        const size_t bytes = n * L * sizeof(T);
        std::memset(r, 0, bytes), std::memset(past, 0, bytes);
        for (int i = 0; i < kMemory; i++) {
            std::memset(dr[i], 0, bytes), std::memset(df[i], 0, bytes);
            valid[i] = WideInt<T>{};
            for (int j = 0; j < kMemory; j++) gram[i][j] = Wide<T>{};
        }
    }

    // After f = image of x: let the rows go that are done, and make the next iterate of the others.
    void advance(const Problem<T>& p) {
        bool recording = false;
        I running = {}, outrun = {}, tired = {};
        for (int i = 0; i < L; i++) {
            if (row[i] < 0) continue;
            const T now = size[i], reference = p.adjoint ? scale[i] : std::max(T(1), scale[i]);
            steps[i]++;
            if (is_done(p, steps[i], now, reference, before[i])) {
                write(p, i, now, reference);
                continue;
            }
            if (p.memory && steps[i] >= kAccelerateFrom - 1) recording = true;
            if (p.memory) progress[i].note(steps[i], now);
            if (p.memory && steps[i] >= kAccelerateFrom && !progress[i].tired) running[i] = -1;
            if (progress[i].tired) tired[i] = -1;
            if (now > T(kRestartGrowth) * before[i]) outrun[i] = -1;
            before[i] = now;
        }
        if (!live) return;
        if (recording) accelerate(p, running, outrun, tired);
        else std::swap(x, f);
    }

    void accelerate(const Problem<T>& p, I running, I outrun, I tired) {
        const int64_t count = p.n * L;
        if (!recorded) clear(p.n);
        slot = (slot + 1) % std::min(p.memory, kMemory);
        Wide<T> newest[kMemory] = {}, h[kMemory] = {};
        remember(p.n, running & ~outrun, newest, h);
        const WideInt<T> lanes = __builtin_convertvector(running & ~outrun, WideInt<T>);
        for (int i = 0; i < kMemory; i++) valid[i] &= lanes;
        valid[slot] = lanes;
        Wide<T> G[kMemory][kMemory];
        for (int i = 0; i < kMemory; i++) gram[slot][i] = gram[i][slot] = newest[i];
        for (int i = 0; i < kMemory; i++) {
            h[i] = (Wide<T>)((WideInt<T>)h[i] & valid[i]);
            for (int j = 0; j < kMemory; j++) G[i][j] = (Wide<T>)((WideInt<T>)gram[i][j] & valid[i] & valid[j]);
        }
        V gamma[kMemory];
        coefficients<T>(G, h, gamma);
        std::swap(f, past);
        // where acceleration does not help: plain steps if they are proved to converge, averages otherwise
        const V kept = choose<T>(tired, splat(p.contracts ? T(0) : T(0.5)), V{});
        for (int64_t k = 0; k < count; k += L) {
            V y = load(past + k);
            y += kept * (load(x + k) - y);
            for (int i = 0; i < kMemory; i++) y -= gamma[i] * load(df[i] + k);
            store(x + k, y);
        }
    }

    // The newest differences in place of the oldest, and their products with all and with the residual.
    void remember(int64_t n, I lanes, Wide<T> (&with)[kMemory], Wide<T> (&h)[kMemory]) {
        constexpr int64_t chunk = 128;  // numbers added in single precision
        T *newest = dr[slot], *image = df[slot];
        for (int64_t from = 0; from < n; from += chunk) {
            V g[kMemory] = {}, b[kMemory] = {};
            const int64_t until = std::min(n, from + chunk) * L;
            for (int64_t k = from * L; k < until; k += L) {
                const V y = load(f + k), now = y - load(x + k);
                const V step = choose<T>(lanes, now - load(r + k), V{});
                store(newest + k, step);
                store(image + k, choose<T>(lanes, y - load(past + k), V{}));
                store(r + k, now);
                for (int i = 0; i < kMemory; i++) {
                    const V v = load(dr[i] + k);
                    g[i] += v * step;
                    b[i] += v * now;
                }
            }
            for (int i = 0; i < kMemory; i++) with[i] += widen<T>(g[i]), h[i] += widen<T>(b[i]);
        }
    }
};
