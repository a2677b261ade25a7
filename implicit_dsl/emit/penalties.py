"""`penalty()`: what the source asks to add to the loss."""

from __future__ import annotations

from implicit_dsl.demands import PenaltyDemand
from implicit_dsl.emit.equilibria import Network
from implicit_dsl.emit.wording import fitted
from implicit_dsl.model import ImplicitModel, Tensor


def penalty(model: ImplicitModel, network: Network) -> list[str]:
    """The lines of its body; none if nothing is asked."""
    terms = model.demands.penalties
    if not terms:
        return []
    tensors = {tensor.id: tensor for tensor in model.tensors}
    lines = []
    if any(id in network.made for term in terms for id in term.tensors):
        lines.append("weights = self.effective_weights()")
    values = [_value(term, tensors, network) for term in terms]
    if len(values) == 1:
        return [*lines, *fitted(f"value: Tensor = {values[0]}", f"  # line {terms[0].line}"), "return value"]
    lines.append("terms = (")
    for term, value in zip(terms, values):
        lines += ["    " + line for line in fitted(value, f",  # line {term.line}", 12)]
    return [*lines, ")", "return torch.stack(terms).sum()"]


def _value(term: PenaltyDemand, tensors: dict[str, Tensor], network: Network) -> str:
    measured = _measured(term, _weight(term, tensors, network), len(tensors[term.tensors[0]].shape), network)
    return measured if term.factor == 1 else f"{term.factor!r} * {measured}"


def _weight(term: PenaltyDemand, tensors: dict[str, Tensor], network: Network) -> str:
    """The matrix or kernel that is measured, as Python."""
    texts = []
    for id in term.tensors:
        text, within = network.made.get(id, f"self.{id}"), tensors[id].within
        diagonal = within is not None and within.linear is not None and within.linear.is_diagonal
        texts.append(f"torch.diag({text})" if diagonal else text)
    if term.product:
        return f"({' @ '.join(texts)})"
    if len(texts) > 1:
        return f"torch.cat(({', '.join(texts)}), {int(term.measure == 'rows')})"
    return texts[0]


def _measured(term: PenaltyDemand, weight: str, axes: int, network: Network) -> str:
    others = tuple(range(2, axes))
    match term.measure:
        case "columns":
            return f"{weight}.abs().amax({(0, *others) if others else 0}).sum()"
        case "rows":
            return f"{weight}.abs().amax({(1, *others) if others else 1}).sum()"
        case "frobenius":
            return f"torch.linalg.vector_norm({weight})"
        case "squares":
            return f"{weight}.square().sum()"
        case "largest_row":
            return f"{weight}.abs().flatten(1).sum(1).amax()"
        case "spectral":
            network.runtime_calls.add("spectral_norm")
            return f"{network.names('spectral_norm')}({weight})"
        case "entries":
            return f"{weight}.abs().sum()"
        case other:
            raise AssertionError(f"unknown measure {other}")
