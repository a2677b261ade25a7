"""Where a faster path computes the same: chosen from the structure, tested against the plain path."""

from __future__ import annotations

from dataclasses import dataclass

from implicit_dsl.model import Block, ImplicitModel


@dataclass(frozen=True, slots=True)
class Fusion:
    """A state computed by one function of the runtime, from the pre-activation of `start`.

    The states in `absorbed` are read by nothing else and get no line of their own.
    """

    function: str
    start: str
    absorbed: tuple[str, ...]


def find_fusions(model: ImplicitModel) -> dict[str, Fusion]:
    """By the state that is computed. relu and max commute: either may come first."""
    readers: dict[str, list[str]] = {}
    for term in model.terms:
        if term.source is not None:
            readers.setdefault(term.source, []).append(term.target)
    found: dict[str, Fusion] = {}
    for block in model.states:
        terms = model.terms_of[block.name]
        if len(terms) != 1 or terms[0].chain or terms[0].source is None:
            continue
        before = model.blocks[terms[0].source]
        kinds = {block.phi, before.phi}
        if kinds != {"relu", "max_pool"} or readers[before.name] != [block.name]:
            continue
        if before.name in found or not _halves(block if block.phi == "max_pool" else before):
            continue
        found[block.name] = Fusion("relu_max_pool2d", before.name, (before.name,))
    return found


def _halves(block: Block) -> bool:
    """Whether max-pooling halves two even axes."""
    pool = block.activation
    assert pool is not None
    even = all(isinstance(size, int) and size % 2 == 0 for size in pool.source[1:])
    return even and pool["kernel"] == pool["stride"] == (2, 2) and pool["pad"] == (0, 0)
