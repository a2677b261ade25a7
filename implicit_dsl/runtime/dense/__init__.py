"""x = φ(A x + c) with one dense matrix: the fast path of equilibria."""

from implicit_dsl.runtime.dense.equilibrium import DenseEquilibrium
from implicit_dsl.runtime.dense.route import Method, Route, dispatch

__all__ = ["DenseEquilibrium", "Method", "Route", "dispatch"]
