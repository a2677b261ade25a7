// A panel: as many rows as a vector has lanes, each at its own step of its own solve.
#pragma once
#include "problem.hpp"
#include "products.hpp"

template <class T> struct Panel {
    static constexpr int L = Lanes<T>::count;
    typedef Vec<T> V;
    typedef Int<T> I;

    int64_t row[L];       // of the batch; -1: the lane is free
    I held = {};          // the lanes that are not free
    I steps = {};
    V before = {};        // the residual of the step before
    V least = {}, mark = {};  // the least residual so far, and that at the last look
    I tired = {};         // the lanes that acceleration does not help
    int live = 0;
    T *x, *f, *c, *d;     // iterate, image, offset, slope: (n, L)
    T *r, *past;          // residual and image of the step before
    T *dr[kMemory], *df[kMemory];
    V size, scale;        // of this step, as sums or as the bits of maxima
    Wide<T> gram[kMemory][kMemory];  // the lower triangle
    I valid[kMemory];                // which lanes have a difference in a slot
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
        for (int i = 0; i < L; i++) row[i] = -1;
        std::memset(c, 0, n * L * sizeof(T));  // lanes that are never filled stay finite
        std::memset(x, 0, n * L * sizeof(T));
        if (d) std::memset(d, 0, n * L * sizeof(T));
    }

    // Take rows of the batch into free lanes: number[lane] < 0 leaves a lane as it is.
    void fill(const Problem<T>& p, const int64_t (&number)[L]) {
        const int64_t n = p.n;
        I taken = {};
        for (int i = 0; i < L; i++)
            if (number[i] >= 0) {
                taken[i] = held[i] = -1, row[i] = number[i], steps[i] = 0, tired[i] = 0;
                before[i] = least[i] = mark[i] = T(INFINITY), live++;
                if (recorded) for (int m = 0; m < kMemory; m++) valid[m][i] = 0;
            }
        auto block = [&](const T* source, int64_t k, V* v) {  // columns k… of these rows, one column in each vector
            const int64_t here = std::min<int64_t>(L, n - k);
            for (int i = 0; i < L; i++) {
                v[i] = V{};
                if (number[i] < 0) continue;
                if (here == L) v[i] = load(source + number[i] * n + k);
                else std::memcpy(&v[i], source + number[i] * n + k, here * sizeof(T));
            }
            transpose<T>(v);
            return here;
        };
        for (int64_t k = 0; k < n; k += L) {
            V z[L], s[L], y[L];
            const int64_t here = block(p.c, k, z);
            if (p.kind == kLinear) block(p.slope, k, s);
            if (p.started) block(p.x, k, y);
            for (int64_t i = 0; i < here; i++) {
                const int64_t at = (k + i) * L;
                if (p.kind == kLinear) {
                    s[i] = slope_of<T>(p.slope_kind, s[i], p.negative_slope);
                    store(d + at, choose<T>(taken, s[i], load(d + at)));
                    if (!p.started) y[i] = z[i] * s[i];
                } else if (!p.started) {
                    y[i] = activate_as(p.kind, z[i], p.negative_slope);
                }
                store(c + at, choose<T>(taken, z[i], load(c + at)));
                store(x + at, choose<T>(taken, y[i], load(x + at)));
            }
        }
    }

    // Rows that are done, given by their lanes, to where results go.
    void write(const Problem<T>& p, const bool (&done)[L]) {
        const T* from = p.contracts ? f : x;
        for (int64_t k = 0; k < p.n; k += L) {
            const int64_t here = std::min<int64_t>(L, p.n - k);
            V v[L];
            for (int64_t i = 0; i < here; i++) v[i] = load(from + (k + i) * L);
            for (int64_t i = here; i < L; i++) v[i] = V{};
            transpose<T>(v);
            for (int i = 0; i < L; i++)
                if (done[i]) {
                    if (here == L) store(p.x + row[i] * p.n + k, v[i]);
                    else std::memcpy(p.x + row[i] * p.n + k, &v[i], here * sizeof(T));
                }
        }
        for (int i = 0; i < L; i++)
            if (done[i]) {
                if (!(before[i] < T(INFINITY)) && recorded) forget(i, p.n);
                row[i] = -1, held[i] = 0, live--;
            }
    }

    // No history for this lane, and nothing in it that is not finite.
    void forget(int lane, int64_t n) {
        for (int i = 0; i < kMemory; i++) valid[i][lane] = 0;
        for (int64_t k = 0; k < n; k++) {
            x[k * L + lane] = f[k * L + lane] = r[k * L + lane] = past[k * L + lane] = 0;
            for (int i = 0; i < kMemory; i++) dr[i][k * L + lane] = df[i][k * L + lane] = 0;
        }
    }

    // Take over a lane of another panel, with its history.
    void adopt(const Problem<T>& p, int lane, Panel& from, int other) {
        row[lane] = from.row[other], steps[lane] = from.steps[other], before[lane] = from.before[other];
        least[lane] = from.least[other], mark[lane] = from.mark[other], tired[lane] = from.tired[other];
        from.row[other] = -1, from.held[other] = 0, from.live--, held[lane] = -1, live++;
        auto copy = [&](T* to, const T* source) {
            for (int64_t k = 0; k < p.n; k++) to[k * L + lane] = source[k * L + other];
        };
        if (from.recorded && !recorded) clear(p.n);
        if (recorded) forget(lane, p.n);
        copy(x, from.x), copy(c, from.c);
        if (d) copy(d, from.d);
        if (!from.recorded) return;
        const int used = std::min(p.memory, kMemory);
        copy(r, from.r), copy(past, from.past);
        auto here = [&](int i) { return (slot + used - (from.slot + used - i) % used) % used; };
        for (int i = 0; i < used; i++) {
            if (!from.valid[i][other]) continue;
            copy(dr[here(i)], from.dr[i]), copy(df[here(i)], from.df[i]);
            valid[here(i)][lane] = -1;
            for (int j = 0; j < used; j++) entry(here(i), here(j))[lane] = from.entry(i, j)[other];
        }
    }

    double* entry(int i, int j) { return (double*)&gram[std::max(i, j)][std::min(i, j)]; }

    void clear(int64_t n) {
        recorded = true;
        const size_t bytes = n * L * sizeof(T);
        std::memset(r, 0, bytes), std::memset(past, 0, bytes);
        for (int i = 0; i < kMemory; i++) {
            std::memset(dr[i], 0, bytes), std::memset(df[i], 0, bytes);
            valid[i] = I{};
            for (int j = 0; j < kMemory; j++) gram[i][j] = Wide<T>{};
        }
    }

    // What residuals are relative to.
    static V compared(const Problem<T>& p, V size) {
        const V one = splat(T(1));
        return p.adjoint ? size : choose<T>(size < one, one, size);
    }

    // The size of x in each lane, as that of f is measured.
    V extent(const Problem<T>& p) const {
        I largest = {};
        V sum = {};
        for (int64_t k = 0; k < p.n * L; k += L) {
            largest = larger<T>(largest, magnitude<T>(load(x + k)));
            sum += absolute<T>(load(x + k));
        }
        return p.kind == kLinear ? sum : (V)largest;
    }

    // After f = image of x: let the rows go that are done, and make the next iterate of the others.
    void advance(const Problem<T>& p) {
        V reference = compared(p, scale);
        steps += 1;
        I done = ~(size > T(p.tolerance) * reference) | ~(size < T(INFINITY)) | (steps >= p.max_steps);
        if (p.floor > 0) done |= (size <= T(p.floor) * reference) & (size >= before);
        done &= held;
        if (!p.contracts && any(done)) {  // x is what is returned: its own size counts, and not that of f
            reference = compared(p, extent(p));
            I still = (size > T(p.tolerance) * reference) & (size < T(INFINITY)) & (steps < p.max_steps);
            if (p.floor > 0) still &= (size > T(p.floor) * reference) | (size < before);
            done &= ~still;
        }
        const V previous = before;
        before = size;
        if (any(done)) {
            bool leaving[L];
            for (int i = 0; i < L; i++) {
                leaving[i] = done[i] != 0;
                if (leaving[i]) p.residual[row[i]] = relative(size[i], reference[i]), p.steps[row[i]] = T(steps[i]);
            }
            write(p, leaving);
            if (!live) return;
        }
        if (!p.memory || !any(held & (steps >= p.accelerate_from() - 1))) return std::swap(x, f);
        least = choose<T>(size < least, size, least);
        const I look = held & ((steps - p.accelerate_from()) % kPatience == 0);
        if (any(look)) {
            tired |= look & (steps > p.accelerate_from()) & ~(least < T(kProgress) * mark);
            mark = choose<T>(look, least, mark);
        }
        accelerate(p, held & ~tired & (steps >= p.accelerate_from()), size > T(kRestartGrowth) * previous);
    }

    void accelerate(const Problem<T>& p, I running, I outrun) {
        const int64_t count = p.n * L;
        if (!recorded) clear(p.n);
        slot = (slot + 1) % std::min(p.memory, kMemory);
        const I lanes = running & ~outrun;
        Wide<T> newest[kMemory] = {}, h[kMemory] = {};
        remember(p.n, lanes, newest, h);
        for (int i = 0; i < kMemory; i++) valid[i] &= lanes;
        valid[slot] = lanes;
        for (int i = 0; i < kMemory; i++) gram[std::max(i, slot)][std::min(i, slot)] = newest[i];
        for (int part = 0; part < Wide<T>::parts; part++) {
            Vec<double> G[kMemory][kMemory], b[kMemory];
            Int<double> mask[kMemory];
            for (int i = 0; i < kMemory; i++) {
                b[i] = h[i].part[part];
                for (int j = 0; j <= i; j++) G[i][j] = gram[i][j].part[part];
                mask[i] = wide_mask(valid[i], part, T());
            }
            coefficients_part(G, b, mask);
            for (int i = 0; i < kMemory; i++) h[i].part[part] = b[i];
        }
        V gamma[kMemory];
        for (int i = 0; i < kMemory; i++) gamma[i] = narrow(h[i]);
        std::swap(f, past);
        // where acceleration does not help: plain steps if they are proved to converge, averages otherwise
        const V kept = choose<T>(tired, splat(p.contracts ? T(0) : T(0.5)), V{});
        const T *image = past, *difference[kMemory];  // kept in registers: a store may change members
        T* next = x;
        std::copy(df, df + kMemory, difference);
        for (int64_t k = 0; k < count; k += L) {
            const V y = load(image + k);
            V mixed = y + kept * (load(next + k) - y), other = {};
            UNROLL for (int i = 0; i < kMemory; i++) (i & 1 ? other : mixed) -= gamma[i] * load(difference[i] + k);
            store(next + k, mixed + other);
        }
    }

    // The newest differences in place of the oldest, and their products with all and with the residual.
    void remember(int64_t n, I lanes, Wide<T> (&with)[kMemory], Wide<T> (&h)[kMemory]) {
        constexpr int64_t chunk = 128;  // numbers added in single precision
        T *newest = dr[slot], *image = df[slot], *residual = r;
        const T *y_ = f, *x_ = x, *past_ = past, *older[kMemory];  // in registers: a store may change members
        std::copy(dr, dr + kMemory, older);
        for (int64_t from = 0; from < n; from += chunk) {
            V g[kMemory] = {}, b[kMemory] = {};
            const int64_t until = std::min(n, from + chunk) * L;
            for (int64_t k = from * L; k < until; k += L) {
                const V y = load(y_ + k), now = y - load(x_ + k);
                const V step = choose<T>(lanes, now - load(residual + k), V{});
                store(newest + k, step);
                store(image + k, choose<T>(lanes, y - load(past_ + k), V{}));
                store(residual + k, now);
                UNROLL for (int i = 0; i < kMemory; i++) {
                    const V v = load(older[i] + k);
                    g[i] += v * step;
                    b[i] += v * now;
                }
            }
            for (int i = 0; i < kMemory; i++) add_wide(with[i], g[i]), add_wide(h[i], b[i]);
        }
    }
};
