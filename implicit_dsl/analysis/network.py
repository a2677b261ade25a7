"""The blocks of a system in the order in which they are computed: what bounds walk along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from implicit_dsl._lazy import lazy_module
from implicit_dsl.analysis.matrices import MOST_ENTRIES, Block, block_of
from implicit_dsl.analysis.sensitivities import Sensitivity
from implicit_dsl.matrices import Layout
from implicit_dsl.model import Block as Named
from implicit_dsl.model import Loop
from implicit_dsl.operators import activation_rule
from implicit_dsl.runtime.certificates.majorants import NoBound
from implicit_dsl.runtime.certificates.prove import certify_system
from implicit_dsl.runtime.certificates.result import Certificate
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import count, sizes

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy_module("numpy")


@dataclass(frozen=True)
class Node:
    """A state or an output: z = Σ blocks · values + offset, x = φ(z). All values are flat."""

    name: str
    block: Named
    reads: Mapping[str, Block]  # input or state -> the part of its row of A and B, or C and D
    offset: np.ndarray

    @property
    def slots(self) -> int:
        return count(self.block.slots)

    @property
    def size(self) -> int:
        return count(self.block.shape)

    @cached_property
    def terms(self) -> int:
        """How many products z adds up, at most."""
        return sum(block.terms for block in self.reads.values()) + len(self.reads) + 1

    @property
    def is_linear(self) -> bool:
        """Whether it is a linear function of what it reads."""
        return self.block.activation is None or self.block.activation.kind == "identity"

    def pre_activation(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """z [..., slots] for the values [..., size] that it reads."""
        like = next(iter(values.values()))
        made = np.broadcast_to(self.offset, (*like.shape[:-1], self.slots))
        for source, block in self.reads.items():
            made = made + block.apply(values[source])
        return np.asarray(made)

    def activated(self, z: np.ndarray) -> np.ndarray:
        """φ(z) [batch, size]."""
        if self.block.activation is None:
            return z
        rule = activation_rule(self.block.activation)
        made = rule.reference(self.block.activation, z.reshape(len(z), *sizes(self.block.slots)))
        return np.asarray(made).reshape(len(z), self.size)


@dataclass(frozen=True)
class Network:
    """The states in order, the outputs, and the loops. `system` has the matrices."""

    system: System
    states: tuple[Node, ...]
    outputs: tuple[Node, ...]

    @staticmethod
    def of(system: System, most: int = MOST_ENTRIES) -> Network:
        """That of a system. Blocks of up to `most` entries are made, others applied.

        Raises NoBound for weights that are not finite.
        """
        for id, values in system.weights.items():
            if not np.isfinite(values).all():
                raise NoBound(
                    f"the tensor `{id}` holds values that are not finite: nothing bounds the outputs"
                )
        parts = [
            tuple(_node(system, block, "A", "B", "b", most) for block in system.model.states),
            tuple(_node(system, block, "C", "D", "d", most) for block in system.model.outputs),
        ]
        return Network(system, *parts)

    @cached_property
    def node(self) -> dict[str, Node]:
        """The states by name."""
        return {node.name: node for node in self.states}

    @cached_property
    def loop_of(self) -> dict[str, Loop]:
        """The loop of each state that is in one."""
        return {name: loop for loop in self.system.model.loops for name in loop.states}

    @cached_property
    def certificate(self) -> Certificate:
        """Why each loop has one equilibrium, or what stands against it."""
        return certify_system(self.system)

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """How far outputs move with inputs, everywhere. Raises NoBound where nothing bounds that."""
        return Sensitivity(self.system)

    def parts(self) -> Iterator[tuple[Loop | None, tuple[Node, ...]]]:
        """Single states and whole loops, in the order in which they are computed."""
        done: set[str] = set()
        for node in self.states:
            loop = self.loop_of.get(node.name)
            if loop is None:
                yield None, (node,)
            elif loop.name not in done:
                done.add(loop.name)
                yield loop, tuple(self.node[name] for name in loop.states)


def _node(system: System, block: Named, inner: str, outer: str, offset: str, most: int) -> Node:
    """A state, or an output, which is no activation of anything."""
    model, reads = system.model, {}
    for matrix, names in ((inner, model.states), (outer, model.inputs)):
        layout = Layout.of(model, matrix, "lower")
        known = {one.name for one in names}
        for source in dict.fromkeys(t.source for t in model.terms_of[block.name] if t.source in known):
            assert source is not None
            chains = [term.chain for term in model.terms_of[block.name] if term.source == source]
            own = layout.block(block.name, source)
            shapes = model.blocks[source].shape, block.slots
            reads[source] = block_of(own, chains, system.weights, *shapes, most)
    constant = np.asarray(system.offset(offset, block.name), np.float64).reshape(-1)
    return Node(block.name, block, reads, constant)


__all__ = ["Network", "NoBound", "Node"]
