"""x = φ(A x + c) with one dense matrix: the fast path of equilibria."""
