"""The linear program: the most that a linear function can be on the linear relaxation of a network.

Weak duality proves it: for multipliers λ ≥ 0 and y of any quality

    max q·v ≤ λ·most + y·given + Σ max over the box of (q − Lᵀλ − Eᵀy)·v,

which is computed here, rounded upwards. So the tolerances of the solver (HiGHS; Huangfu and Hall 2018) make
the bound looser, never wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.crown import Objectives, Relaxed
from implicit_dsl.analysis.network import Network
from implicit_dsl.analysis.regions import Region
from implicit_dsl.analysis.relaxation import Program, program_of
from implicit_dsl.runtime.certificates.rounding import growth

if TYPE_CHECKING:
    import numpy as np
    import scipy.optimize as optimize
else:
    np = lazy_module("numpy")
    optimize = lazy_module("scipy.optimize")


def upper_bounds(network: Network, region: Region, bounded: Relaxed, objectives: Objectives) -> np.ndarray:
    """Upper bounds [batch, k] of the objectives, each by a linear program."""
    rows = objectives.offset.shape[1]
    made = np.empty((region.batch, rows))
    for sample in range(region.batch):
        program = program_of(network, region, bounded, sample)
        for row in range(rows):
            wanted, offset = program.objective(objectives, sample, row)
            made[sample, row] = offset + _solved(program, wanted, region.part(slice(sample, sample + 1)))
    return made


def _solved(program: Program, wanted: np.ndarray, region: Region) -> float:
    bounds = np.stack((program.low, program.high), 1)
    found = optimize.linprog(
        -wanted, program.less, program.most, program.equal, program.given, bounds, method="highs"
    )
    inequal, equal = np.zeros(len(program.most)), np.zeros(len(program.given))
    if found.status == 0:
        inequal, equal = -found.ineqlin.marginals, -found.eqlin.marginals
    return dual_bound(program, wanted, region, np.maximum(inequal, 0.0), equal)


def dual_bound(
    program: Program, wanted: np.ndarray, region: Region, inequal: np.ndarray, equal: np.ndarray
) -> float:
    """The bound that multipliers prove, rounded upwards."""
    left = wanted - program.less.T @ inequal - program.equal.T @ equal
    most = np.maximum(np.abs(program.low), np.abs(program.high))
    size = np.abs(wanted) + abs(program.less).T @ inequal + abs(program.equal).T @ np.abs(equal)
    constant = inequal @ program.most + equal @ program.given
    constants = inequal @ np.abs(program.most) + np.abs(equal) @ np.abs(program.given)
    slopes = {name: left[program.places[name]][None, None] for name in region.lower}
    inside = np.ones(len(left), bool)
    for name in region.lower:
        inside[program.places[name]] = False
    over = np.where(left > 0, left * program.high, left * program.low)[inside].sum()
    terms = len(left) + len(program.most) + len(program.given)
    slack = 4 * growth(terms) * (float(size @ most) + constants)
    return float(constant + over + region.most(slopes)[0, 0] + slack)
