// The native kernels of implicitc: plain functions, called by ctypes, that keep no state.
// Shapes, types and contiguity are checked by the caller. REAL is float or double.
#ifndef REAL
#define REAL float
#endif
#include "mixing.hpp"
#include "projection.hpp"
#include "single.hpp"
#include "solve.hpp"

template <class T> static int solve(Problem<T>& p, double* norm) {
    if (p.batch * 2 < Lanes<T>::count) {
        for (int64_t row = 0; row < p.batch; row++)
            if (!solve_row(p, row, norm)) return 1;
        return 0;
    }
    if (*norm < 0) *norm = norm_of(p.A, p.n);
    p.contracts = p.contracts_at(*norm);
    Buffer<T> packed = buffer<T>(packed_size(p.n));
    if (!packed) return 1;
    pack(p.A, p.n, p.transposed, packed.get());
    return solve_panels(p, packed.get()) ? 0 : 1;
}

// Settings as they come from Python: one array of doubles, so that no signature grows.
template <class T>
static int solve_from(const T* A, const T* c, const T* slope, T* x, T* report, double* settings) {
    Problem<T> p{};
    p.A = A, p.c = c, p.slope = slope, p.x = x;
    p.n = int64_t(settings[0]), p.batch = int64_t(settings[1]);
    p.residual = report, p.steps = report + p.batch;
    p.kind = int(settings[2]), p.slope_kind = int(settings[3]), p.negative_slope = T(settings[4]);
    p.transposed = settings[5] != 0, p.started = settings[6] != 0, p.adjoint = p.kind == kLinear;
    p.tolerance = settings[7], p.floor = settings[8], p.max_steps = int(settings[9]), p.memory = int(settings[10]);
    p.threads = int(settings[11]);
    const int failed = solve(p, settings + 12);  // ‖A‖, negative if it is not known: filled in if it is found
    T worst = 0;
    for (int64_t i = 0; i < p.batch && !failed; i++) worst = worst != worst || report[i] <= worst ? worst : report[i];
    settings[13] = worst;
    return failed;
}

extern "C" {
int implicitc_solve(const REAL* A, const REAL* c, const REAL* slope, REAL* x, REAL* report, double* settings) {
    return solve_from(A, c, slope, x, report, settings);
}
void implicitc_differences(const REAL* r, const REAL* r_before, const REAL* t, const REAL* t_before, REAL* dr,
                           REAL* dt, double* found, int64_t batch, int64_t n, int64_t memory, int64_t used,
                           int64_t slot, int64_t threads) {
    differences(r, r_before, t, t_before, dr, dt, found, batch, n, memory, used, slot, threads);
}
void implicitc_residuals(const REAL* f, const REAL* x, REAL* r, double* found, int64_t batch, int64_t n, int64_t dual,
                         int64_t threads) {
    residuals(f, x, r, found, batch, n, dual != 0, threads);
}
void implicitc_combine(const REAL* t, const REAL* dt, const double* gamma, REAL* out, int64_t batch, int64_t n,
                       int64_t memory, int64_t used, int64_t threads) {
    combine(t, dt, gamma, out, batch, n, memory, used, threads);
}
int implicitc_project(const REAL* a, const double* radius, const REAL* weights, int64_t row_weights, REAL* out,
                      int64_t rows, int64_t n, int64_t threads) {
    return project(a, radius, weights, row_weights != 0, out, rows, n, threads) ? 0 : 1;
}
void implicitc_magnitude(const REAL* a, const double* v, double* out, int64_t rows, int64_t n, int64_t threads) {
    magnitude(a, v, out, rows, n, threads);
}
void implicitc_sums(const REAL* a, const REAL* weights, int64_t row_weights, double* out, int64_t rows, int64_t n,
                    int64_t threads) {
    sums(a, weights, row_weights != 0, out, rows, n, threads);
}
}
