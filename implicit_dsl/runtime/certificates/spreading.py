"""How far a change of the slots spreads: δ ≥ |x − x'| for |z − z'| ≤ |A||x − x'| + r, proved.

With the majorant M of φ, every δ with M(|A| δ + r) ≤ δ is one, if there is a v > 0 with M(|A| v) < v: then
σ ↦ M(|A| σ + r) is a monotone contraction in max σᵢ ∕ vᵢ, whose iterates from |x − x'| rise to its fixed
point, and those from δ fall to it. States follow one another by substitution, so that only loops need a v.

Where M(σ) = K σ, rows can be had from behind: t ≥ p + (K |A|)ᵀ t has t·K r ≥ p·δ for the least δ of all r,
by the same argument for the transposed matrix. One sparse factorisation of I − K |A| for each loop serves
both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from implicit_dsl._lazy import lazy_module
from implicit_dsl.model import Loop
from implicit_dsl.runtime.certificates.contraction import proving
from implicit_dsl.runtime.certificates.majorants import Majorant, NoBound, magnitudes, majorants, product
from implicit_dsl.runtime.certificates.roots import PerronBounds, perron_bounds
from implicit_dsl.runtime.certificates.rounding import greatest_ratio
from implicit_dsl.runtime.reference import check_order, groups, indices
from implicit_dsl.runtime.system import System
from implicit_dsl.shapes import count

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sparse
    import scipy.sparse.linalg as linalg
else:
    np = lazy_module("numpy")
    sparse = lazy_module("scipy.sparse")
    linalg = lazy_module("scipy.sparse.linalg")

Step: TypeAlias = "Callable[[np.ndarray], np.ndarray]"
Proof: TypeAlias = "tuple[np.ndarray, np.ndarray]"
_SUMS = 4_000  # steps of v ← 1 + M(|A| v)
_STEPS = 20_000  # towards the least δ
_STEADY = 1e-12
_CLOSE, _ROUGH = 1e-3, 0.02  # bounds of a Perron root, relatively, and of one that is above 1
_LARGEST = 1e100  # entry of v
_ROOMS = (0.0, 1.0, 1.01, 10.0, 1e3, 1e6)  # of what is missing, beside what v makes up for


class Spread:
    """The states of a system, part by part: single ones, and loops with what proves that they contract.

    Raises NoBound for an activation without a bounded slope where anything reaches it, and for a loop
    without v; ValueError if its states stand in no solvable order.
    """

    def __init__(
        self,
        system: System,
        within: bool = True,
        entered: np.ndarray | None = None,
        prove: bool = True,
    ) -> None:
        """`within`: see `majorants`. Changes come in at slots `entered` [slots], or else from the inputs.

        Unless `prove` is asked for, `prove()` has to be called before anything is bounded.
        """
        for id, values in system.weights.items():
            if not np.isfinite(values).all():
                raise NoBound(
                    f"the tensor `{id}` holds values that are not finite: nothing bounds the outputs"
                )
        self.system = system
        self.slots, self.states = system.partition("slots"), system.partition("states")
        self.A, self.B = magnitudes(system, "A"), magnitudes(system, "B")
        self.majorants = {made.block.name: made for made in majorants(system, within)}
        self.parts = parts_of(system, self.A, self.majorants)
        self._entered = self.B.sum(1) > 0 if entered is None else entered
        if prove:
            self.prove()

    def prove(self) -> None:
        """Raises NoBound unless all slopes that changes reach are bounded, and all loops contract."""
        self._refuse_unbounded(self._entered)
        for part in self.parts:
            _ = part.proof

    @cached_property
    def is_linear(self) -> bool:
        """Whether M is linear, so that nothing is lost from behind."""
        return all(part.is_linear for part in self.parts)

    def forward(self, given: np.ndarray) -> np.ndarray:
        """δ [states, k] for changes r [slots, k]. Exact but for rounding, which is upwards."""
        delta = np.zeros((self.states.total, given.shape[1]))
        for part in self.parts:
            incoming = product(part.before, delta, given[part.here])
            delta[part.there] = part.spread(incoming)
        return delta

    def swept(self, change: np.ndarray) -> np.ndarray:
        """M(σ) [states, k] for changes σ [slots, k], without what these make of other slots."""
        made = np.zeros((self.states.total, change.shape[1]))
        for part in self.parts:
            made[part.there] = part.majorant(change[part.here])
        return made

    def backward(self, pulled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """t [states, k] and w = Kᵀ t [slots, k] for p [states, k]: p·δ ≤ w·r.

        If the states themselves are moved by s, it is p·δ ≤ t·s.
        Raises NoBound for an activation whose matrix K is too large to be made.
        """
        t, w = pulled.copy(), np.zeros((self.slots.total, pulled.shape[1]))
        for part in reversed(self.parts):
            found = part.pulled(t[part.there])
            t[part.there] = found
            w[part.here] = product(part.matrix_t, found)
            reads = part.reads
            t[reads] = product(part.before_t[reads], w[part.here], t[reads])
        return t, w

    def _refuse_unbounded(self, entered: np.ndarray) -> None:
        """Raises NoBound for a slope without a bound, where changes reach its slots."""
        moving = np.zeros(self.states.total)
        pattern = self.A.copy()
        pattern.data[:] = 1.0
        while True:
            made = np.zeros(self.states.total)
            slots = np.asarray(entered | (pattern @ moving > 0), float)
            for name, majorant in self.majorants.items():
                own = majorant(slots[self.slots[name]][:, None])[:, 0]
                if not np.isfinite(own).all():
                    raise NoBound(_steep(majorant))
                made[self.states[name]] = own > 0
            if (made <= moving).all():
                return
            moving = np.maximum(moving, made)


@dataclass(frozen=True)
class Part:
    """A state, or the states of a loop: z = before · x + inner · (its own x), as magnitudes."""

    loop: Loop | None
    majorants: tuple[Majorant, ...]
    here: np.ndarray  # its slots
    there: np.ndarray  # its states
    before: sparse.csr_array  # [its slots, states], zero at its own
    inner: sparse.csr_array  # [its slots, its states]

    @cached_property
    def before_t(self) -> sparse.csr_array:
        return self.before.T.tocsr()

    @cached_property
    def reads(self) -> np.ndarray:
        """The states outside that it reads."""
        return np.flatnonzero(np.diff(self.before_t.indptr))

    @cached_property
    def is_linear(self) -> bool:
        return all(majorant.is_linear for majorant in self.majorants)

    @cached_property
    def matrix_t(self) -> sparse.csr_array:
        """Kᵀ [its slots, its states]. Raises NoBound if it is too large to be made."""
        made = []
        for majorant in self.majorants:
            if majorant.matrix is None:
                raise NoBound(
                    f"`{majorant.block.phi}` of `{majorant.block.name}` has too many slots for a bound that "
                    "goes back through it"
                )
            made.append(majorant.matrix)
        return sparse.block_diag(made, format="csr").T.tocsr()

    @cached_property
    def step_matrix(self) -> sparse.csr_array:
        """K |A| [its states, its states]."""
        return (self.matrix_t.T @ self.inner).tocsr()

    @cached_property
    def factors(self) -> Any:
        """Those of I − K |A|; None if there are none."""
        size = self.inner.shape[1]
        try:
            return linalg.splu((sparse.eye_array(size, format="csc") - self.step_matrix).tocsc())
        except RuntimeError:  # exactly singular
            return None

    def majorant(self, change: np.ndarray) -> np.ndarray:
        """M on its slots [slots, k]."""
        made, start = [], 0
        for majorant in self.majorants:
            stop = start + count(majorant.block.slots)
            made.append(majorant(change[start:stop]))
            start = stop
        return np.concatenate(made)

    def step(self, delta: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
        """No less than M(|A| δ + r)."""
        return self.majorant(product(self.inner, delta, given))

    @cached_property
    def proof(self) -> Proof | None:
        """v > 0 and gap > 0 with M(|A| v) ≤ v − gap; None for a state that is in no loop.

        Raises NoBound if none is found.
        """
        if self.loop is None:
            return None
        starts = self._vectors("N") if self.is_linear else iter(())
        found = _vector(lambda v: self.step(v[:, None])[:, 0], self.inner.shape[1], starts)
        if found is None:
            raise NoBound(_uncontracting(self))
        return found

    @cached_property
    def proof_behind(self) -> Proof:
        """The same for the transposed matrix. Raises NoBound if none is found, as K may be more than M."""
        step: Step = lambda t: self._step_behind(t[:, None])[:, 0]  # noqa: E731
        found = _vector(step, self.inner.shape[1], self._vectors("T"))
        if found is None:
            raise NoBound(_uncontracting(self))
        return found

    def _vectors(self, side: str) -> Iterator[np.ndarray]:
        """(I − K |A|)⁻¹ 1, and Perron vectors, or those of the transposed matrix ("T")."""
        if self.factors is not None:
            yield self.factors.solve(np.ones(self.inner.shape[1]), trans=side)
        if self.perron.lower < 1:
            matrix = self.step_matrix if side == "N" else self.step_matrix.T.tocsr()
            yield from proving(matrix, np.ones(matrix.shape[0]))

    @cached_property
    def perron(self) -> PerronBounds:
        """Bounds of the Perron root of K |A|; infinite where K is unbounded or too large to be made."""
        unknown = any(majorant.matrix is None for majorant in self.majorants)
        if unknown or not np.isfinite(self.step_matrix.data).all():
            return PerronBounds(0.0, float("inf"), None)
        solved = None if self.factors is None else self.factors.solve(np.ones(self.inner.shape[1]))
        contracts = solved is not None and bool((solved > 0).all())
        return perron_bounds(self.step_matrix, gap=_CLOSE if contracts else _ROUGH)

    def _step_behind(self, t: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
        return product(self._inner_t, product(self.matrix_t, t), given)

    @cached_property
    def _inner_t(self) -> sparse.csr_array:
        return self.inner.T.tocsr()

    @cached_property
    def rate(self) -> float:
        """κ < 1 with M(|A| v) ≤ κ v, the least that is found: 0 for a state that is in no loop."""
        if self.proof is None:
            return 0.0
        v, _ = self.proof
        found = greatest_ratio(self.step(v[:, None])[:, 0], v)
        return min(found, self.perron.upper) if self.is_linear else found

    def spread(self, given: np.ndarray) -> np.ndarray:
        """δ [its states, k] for r [its slots, k]."""
        if self.proof is None:
            return self.majorant(given)
        start = None
        if self.is_linear and self.factors is not None:
            start = self.factors.solve(self.majorant(given))
        return _closed(lambda delta: self.step(delta, given), self.proof, given.shape[1], start)

    def pushed(self, p: np.ndarray) -> np.ndarray:
        """δ [its states, k] with M(|A| δ) + p ≤ δ: how far its states end, if they are pushed by p."""
        if self.proof is None:
            return p

        def step(delta: np.ndarray) -> np.ndarray:
            made = self.step(delta) + p
            return np.where(made > 0, np.nextafter(made, np.inf), 0.0)

        start = self.factors.solve(p) if self.is_linear and self.factors is not None else None
        return _closed(step, self.proof, p.shape[1], start)

    def pulled(self, p: np.ndarray) -> np.ndarray:
        """t ≥ p + (K |A|)ᵀ t, [its states, k]."""
        if self.proof is None:
            return p
        start = None if self.factors is None else self.factors.solve(p, trans="T")
        return _closed(lambda t: self._step_behind(t, p), self.proof_behind, p.shape[1], start)


def parts_of(system: System, A: sparse.csr_array, bounds: Mapping[str, Majorant]) -> tuple[Part, ...]:
    """Single states and whole loops in the order in which they are computed, for |A| and majorants by state.

    Whether loops contract is not asked yet. Raises ValueError if states stand in no solvable order.
    """
    check_order(system.model)
    member = {name: loop for loop in system.model.loops for name in loop.states}
    slots, states, made = system.partition("slots"), system.partition("states"), []
    for blocks in groups(system.model):
        here, there = indices(slots, blocks), indices(states, blocks)
        rows = A[here]
        outside = np.ones(states.total, bool)
        outside[there] = False
        before = (rows * outside[None, :]).tocsr()
        before.eliminate_zeros()
        held = tuple(bounds[block.name] for block in blocks)
        made.append(Part(member.get(blocks[0].name), held, here, there, before, rows[:, there]))
    return tuple(made)


def _vector(step: Step, size: int, starts: Iterable[np.ndarray]) -> Proof | None:
    """v > 0 and gap > 0 with step(v) ≤ v − gap: from good vectors, or Σ stepᵗ(1); None if none is found."""
    for v in starts:
        if np.isfinite(v).all() and (v > 0).all() and (step(v) < v).all():
            return v, _gap(step, v)
    v = np.ones(size)
    for _ in range(_SUMS):
        image = step(v)
        if (image < v).all():
            return v, _gap(step, v)
        if not (image < _LARGEST).all():
            break
        v = 1 + image
    return None


def _gap(step: Step, v: np.ndarray) -> np.ndarray:
    return np.asarray((v - step(v)) * (1 - 1e-9))


def _closed(step: Step, proof: Proof, columns: int, start: np.ndarray | None) -> np.ndarray:
    """δ [n, columns] with step(δ) ≤ δ, close to the least one, from `start` or by iteration."""
    v, gap = proof
    if start is None or not np.isfinite(start).all():
        start = _iterated(step, v, columns)
    start = np.maximum(start, 0.0)
    missing = (np.maximum(step(start) - start, 0.0) / gap[:, None]).max(0, initial=0.0)
    for room in _ROOMS:
        delta = start + room * missing * v[:, None]
        image = step(delta)
        if (image <= delta).all():
            return image  # M(|A| δ + r) ≤ δ holds for it, too
    raise NoBound("rounding keeps the bound from closing: its loop contracts too slowly")


def _iterated(step: Step, v: np.ndarray, columns: int) -> np.ndarray:
    delta = np.zeros((len(v), columns))
    for _ in range(_STEPS):
        risen = step(delta)
        change = (np.abs(risen - delta) / v[:, None]).max(0, initial=0.0)
        delta = np.maximum(delta, risen)
        if (change <= _STEADY * (delta / v[:, None]).max(0, initial=0.0)).all():
            break
    return delta


def _steep(majorant: Majorant) -> str:
    block = majorant.block
    return (
        f"`{block.phi}` of `{block.name}` has no bounded slope for all inputs: bounds on boxes of inputs "
        "(`output_bounds`) may exist, as may slopes at a point (`jacobian`)"
    )


def _uncontracting(part: Part) -> str:
    """Why a loop has no bound, and what to do."""
    loop = part.loop
    assert loop is not None
    names = ", ".join(loop.states[:6]) + (", …" if len(loop.states) > 6 else "")
    lower, _, _ = part.perron
    known = part.is_linear and lower >= 1
    root = f", as its Perron root with the slopes of φ is at least {lower:.4g}" if known else ""
    return (
        f"the loop {{{names}}}: no v > 0 with |A| v < v is found{root}, so nothing bounds what goes round "
        "in it. Make it contract, as by `@wellposed norm(A, Inf) <= 0.95` and `project_()`, or by smaller "
        "weights"
    )


__all__ = ["NoBound", "Part", "Spread", "parts_of"]
