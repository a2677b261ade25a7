"""Solvers of x = f(x): one file for each family, and one loop for all."""

from implicit_dsl.runtime.solvers.anderson import Anderson
from implicit_dsl.runtime.solvers.auto import RULES, Auto, Choice, Features, choose
from implicit_dsl.runtime.solvers.base import Equation, Norm, Point, Solver, State
from implicit_dsl.runtime.solvers.broyden import Broyden
from implicit_dsl.runtime.solvers.counting import proved_steps
from implicit_dsl.runtime.solvers.newton import Newton
from implicit_dsl.runtime.solvers.picard import Picard
from implicit_dsl.runtime.solvers.solve import solve
from implicit_dsl.runtime.solvers.splitting import ForwardBackward, PeacemanRachford

__all__ = [
    "RULES",
    "Anderson",
    "Auto",
    "Broyden",
    "Choice",
    "Equation",
    "Features",
    "ForwardBackward",
    "Newton",
    "Norm",
    "PeacemanRachford",
    "Picard",
    "Point",
    "Solver",
    "State",
    "choose",
    "proved_steps",
    "solve",
]
