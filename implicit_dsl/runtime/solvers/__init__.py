"""Solvers of x = f(x): one file for each family, and one loop for all."""

from implicit_dsl.runtime.solvers.anderson import Anderson
from implicit_dsl.runtime.solvers.base import Equation, Norm, Point, Solver, State
from implicit_dsl.runtime.solvers.counting import proved_steps
from implicit_dsl.runtime.solvers.picard import Picard
from implicit_dsl.runtime.solvers.solve import solve

__all__ = ["Anderson", "Equation", "Norm", "Picard", "Point", "Solver", "State", "proved_steps", "solve"]
