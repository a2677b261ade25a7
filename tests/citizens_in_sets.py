"""Models whose matrices are in sets: one with every set of the registry, and loops that bounds certify.

A newly registered set is among them by itself, through the example of its rule.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from types import ModuleType

from citizens import Citizen

import implicit_dsl
from implicit_dsl.errors import ImplicitError
from implicit_dsl.sets import SETS

# What may be demanded of a loop: what x reads of itself, and the bound. A set admits some of them.
SMALL = 0.3  # a rate with which few sweeps are needed
WAYS = ("Project", "Parametrize")
BOUNDS: dict[str, tuple[str, str]] = {
    f"{name}{method}": ("W*x", f'@wellposed {bound}, method = "{method.lower()}"')
    for name, bound in {
        "Rows": "norm(W, Inf) <= 0.8",
        "Spectral": "norm(W, 2) <= 0.8",
        "Monotone": "monotone(W) >= 0.2",
        "Measure": "nemon(W) <= 0.8",
        "Perron": "pf(W) <= 0.8",
    }.items()
    for method in WAYS
} | {
    "Scaled": ("0.8*W*x", "@wellposed norm(0.8*W, 2) <= 0.8"),
    "Structure": ("W*x", ""),
}


@dataclass(frozen=True)
class SetCitizen(Citizen):
    """A model that is written here. Its text is its `example`."""

    @property
    def text(self) -> str:
        return self.example

    @property
    def module(self) -> ModuleType:
        return implicit_dsl.loads(self.example, model=self.model)


@dataclass(frozen=True)
class Member:
    """A parameter in a set, as the example of its rule declares it. Without `text` it is a full matrix."""

    name: str
    rows: int
    columns: int
    text: str

    def declared(self, name: str) -> str:
        """Its declaration under another name."""
        return f"param {name}[{self.rows}, {self.columns}]" + (f" in {self.text}" if self.text else "")


FULL = Member("Full", 4, 4, "")


@cache
def members() -> tuple[Member, ...]:
    """All parameters of all examples of rules. Raises AssertionError for a rule without one."""
    found = []
    for name, rule in SETS.items():
        listed = re.findall(r"^param \w+\[(\d+), (\d+)\] in (.+)$", rule.example, re.MULTILINE)
        assert listed, f"the example of {name} declares no `param W[m, n] in {name}(…)`"
        assert all(text.startswith(f"{name}(") for _, _, text in listed)
        found += [Member(name, int(rows), int(columns), text) for rows, columns, text in listed]
    return tuple(found)


@cache
def square_members() -> tuple[Member, ...]:
    """A square one of each set: those of examples, or such with as many rows as columns."""
    found = {}
    for member in sorted(members(), key=lambda member: member.rows != member.columns):
        found.setdefault(member.name, Member(member.name, member.columns, member.columns, member.text))
    return tuple(found[name] for name in SETS)


def feed_forward() -> SetCitizen:
    """Every set, plain and transposed, side by side."""
    lines, read = [], []
    for number, member in enumerate(members(), 1):
        lines += [
            f"    {member.declared(f'W{number}')}",
            f"    state h{number}[{member.rows}] ~ tanh(W{number}*(Dense({member.columns})*u))",
        ]
        read.append(f"h{number}, W{number}'*h{number}")
    lines.append(f"    output y = Dense(8)*cat({', '.join(read)})")
    return SetCitizen("\n".join(["model Sets", "    input u[5]", *lines, "end", ""]), "Sets")


def looped(member: Member, bound: str) -> SetCitizen | None:
    """A loop with one matrix in a set, or None where the set does not admit the bound."""
    reads, demand = BOUNDS[bound]
    model = f"{member.name}{bound}"
    text = f"""model {model}
    input u[3]
    {member.declared("W")}
    state x[{member.rows}] ~ tanh({reads} + Dense({member.rows})*u)
    output y = Dense(4)*tanh(Dense(32)*x)
    {demand}
end
"""
    try:
        implicit_dsl.compile(text)
    except ImplicitError as refused:
        codes = {finding.code for finding in refused.diagnostics}
        assert codes <= {"E0404", "E0402", "E0401", "E0403"}, (codes, text)
        return None
    return SetCitizen(text, model)


def kernel(bound: str) -> SetCitizen:
    """A loop through a convolution."""
    model = f"Kernel{bound}"
    text = f"""model {model}
    input u[2, 6]
    K = Conv(2, 3; pad = 1)
    state x[2, 6] ~ tanh(K*x + u)
    output y = Dense(4)*tanh(Dense(32)*flatten(x))
    {BOUNDS[bound][1].replace("(W", "(K")}
end
"""
    return SetCitizen(text, model)


def together(method: str) -> SetCitizen:
    """Every set whose row sums can be bounded by a method: one loop for each size, with all of them in it."""
    sizes: dict[int, list[Member]] = {}
    for member in square_members():
        if looped(member, f"Rows{method}") is not None:
            sizes.setdefault(member.rows, []).append(member)
    lines, bounds = [], []
    for size, held in sizes.items():
        names = [f"{member.name}{size}" for member in held]
        lines += [f"    {member.declared(name)}" for member, name in zip(held, names)]
        total = " + ".join(names)
        lines.append(f"    state x{size}[{size}] ~ tanh(({total})*x{size} + Dense({size})*u)")
        bounds.append(f'    @wellposed norm({total}, Inf) <= 0.8, method = "{method.lower()}"')
    model = f"SetsBy{method.title()}"
    read = ", ".join(f"x{size}" for size in sizes)
    lines.append(f"    output y = Dense(4)*tanh(Dense(32)*cat({read}))")
    return SetCitizen("\n".join([f"model {model}", "    input u[5]", *lines, *bounds, "end", ""]), model)


def by_bounds() -> SetCitizen:
    """One loop for each other bound, and for each set that admits none of the rows, after one another."""
    held: dict[str, tuple[Member, str]] = {}
    for bound in BOUNDS:
        admitting = [member for member in square_members() if looped(member, bound) is not None]
        alone = [one for one in admitting if all(looped(one, f"Rows{way}") is None for way in WAYS)]
        if not bound.startswith("Rows"):
            held |= {f"{one.name}{bound}": (one, bound) for one in alone or admitting[-1:]}
    lines, bounds, read = [], [], "u"
    for name, (member, bound) in held.items():
        reads, demand = (part.replace("W", name) for part in BOUNDS[bound])
        lines.append(f"    {member.declared(name)}")
        reads = reads.replace("*x", f"*x{name}")
        lines.append(f"    state x{name}[{member.rows}] ~ tanh({reads} + Dense({member.rows})*{read})")
        bounds.append(f"    {demand}")
        read = f"x{name}"
    lines.append(f"    output y = Dense(4)*tanh(Dense(32)*cat(u, {read}))")
    text = ["model SetsByBounds", "    input u[5]", *lines, *filter(str.strip, bounds), "end", ""]
    return SetCitizen("\n".join(text), "SetsByBounds")


def set_citizens() -> list[Citizen]:
    """Those of the default run."""
    return [feed_forward(), *map(together, WAYS), by_bounds()]


def set_citizens_one_by_one() -> list[Citizen]:
    """Each set with each bound that it admits, full matrices, and kernels."""
    made = [looped(member, bound) for member in (*square_members(), FULL) for bound in BOUNDS]
    kernels = [kernel(f"{bound}{method}") for bound in ("Rows", "Perron") for method in WAYS]
    return [one for one in made if one is not None] + kernels
