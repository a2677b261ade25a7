"""What a step uses beside its arguments: found by one evaluation, and handed in from then on.

An operation of autograd or of torch.func must be given every tensor that its gradients reach.
A step may close over tensors, as `lambda z: torch.tanh(W @ z + c)` does and as every `nn.Module`
does. These are found, given to the operation like the others, and where the step is evaluated
again, what stands for them is put in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from implicit_dsl.runtime.implicit.holding import Place, restored
from implicit_dsl.runtime.implicit.linearisation import Linearisation, Tensors

HAND_IN = "hand it in with the other tensors, through `batched` or `shared`"


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """The tensors that the step of an equilibrium `name` uses beside its arguments.

    `tensors` were seen in an evaluation; `followed` are those of them that a gradient, a tangent
    or a transform of torch.func follows; `places` is where modules held them.
    """

    name: str
    tensors: Tensors = ()
    followed: Tensors = ()
    places: tuple[Place, ...] = ()

    def per_sample(self, batch: int) -> bool:
        """Whether one may have the batch as an axis, so that no sample can be solved without the others."""
        return batch > 1 and any(batch in tensor.shape for tensor in self.tensors)

    def applied(self, step: Callable[..., Any], arguments: Tensors, given: Tensors) -> Any:
        """step(*arguments), where it finds `given` in the place of the tensors that are followed.

        Raises RuntimeError if it uses others that are to be followed.
        """
        plain = not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
        with restored(self.places):
            if plain and all(new is old for new, old in zip(given, self.followed)):
                return step(*arguments)
            with _StandingIn(self.name, self.followed, given, arguments) as mode:
                return mode.put(step(*arguments))


def surroundings(name: str, step: Callable[..., Tensors], arguments: Tensors) -> Surroundings:
    """What a step uses, found by evaluating it: without places.

    Raises ValueError for a step that draws random numbers or uses batch statistics, and
    RuntimeError for one that uses tensors in a way that cannot be seen.
    """
    transformed = torch._C._are_functorch_transforms_active()
    graphed = torch.is_grad_enabled() and not transformed
    own = tuple(tensor.detach() for tensor in arguments) if graphed else arguments
    leaves = tuple(t.requires_grad_() for t in own if t.is_floating_point()) if graphed else ()
    random = _random_state(arguments[0].device)
    with _Watching(name, own) as watch, torch.set_grad_enabled(graphed):
        images = step(*own)
    watch.note(images)
    if not torch.equal(random, _random_state(arguments[0].device)):
        raise ValueError(_random_text(name))
    seen = tuple(watch.found.values())
    followed = tuple(tensor for tensor in seen if _is_followed(tensor, transformed))
    if graphed and (stranger := _stranger(images, (*leaves, *followed))) is not None:
        raise RuntimeError(_unseen_text(name, stranger))
    return Surroundings(name, seen, followed)


def _is_followed(tensor: Tensor, transformed: bool) -> bool:
    if transformed:
        return tensor.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    if forward_ad._current_level >= 0:
        tangent: Tensor | None = forward_ad.unpack_dual(tensor).tangent  # type: ignore[no-untyped-call]
        if tangent is not None:
            return True
    return torch.is_grad_enabled() and tensor.requires_grad


class _Watching(TorchFunctionMode):
    """Notes the tensors that come into operations, and are neither known at first nor made by others."""

    def __init__(self, name: str, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.name = name
        self.known = {id(tensor): tensor for tensor in known}  # held, so that no number is given twice
        self.found: dict[int, Tensor] = {}

    def note(self, given: object) -> None:
        """What comes in."""
        for tensor in _tensors_in(given):
            if id(tensor) not in self.known:
                self.found[id(tensor)] = tensor

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.note((args, kwargs))
        if getattr(function, "__name__", "") == "batch_norm" and _in_training(args, kwargs):
            raise ValueError(_batch_text(self.name))
        made = function(*args, **kwargs)
        for tensor in _tensors_in(made):
            if id(tensor) not in self.found:
                self.known[id(tensor)] = tensor
        return made


class _StandingIn(TorchFunctionMode):
    """Puts tensors in the place of others. Refuses those that have come in between."""

    def __init__(self, name: str, replaced: Tensors, given: Tensors, arguments: Tensors) -> None:
        super().__init__()
        self.name = name
        self.stands = {id(old): new for old, new in zip(replaced, given)}
        self.known = {id(tensor): tensor for tensor in (*replaced, *given, *arguments)}

    def put(self, given: Any) -> Any:
        """The same arguments or results with the others in their place."""
        match given:
            case Tensor():
                stand_in = self.stands.get(id(given), given)
                if id(stand_in) not in self.known and _is_followed(stand_in, True):
                    raise RuntimeError(_changed_text(self.name))
                return stand_in
            case tuple() if type(given) is not tuple and not hasattr(given, "_fields"):
                return given  # torch.Size and the like
            case tuple() if hasattr(given, "_fields"):
                return type(given)(*map(self.put, given))
            case tuple():
                return tuple(map(self.put, given))
            case list():
                return list(map(self.put, given))
            case dict():
                return {key: self.put(value) for key, value in given.items()}
            case _:
                return given

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = function(*self.put(args), **self.put(kwargs or {}))
        for tensor in _tensors_in(made):
            self.known[id(tensor)] = tensor
        return made


def check_followed(name: str, point: Linearisation) -> None:
    """Raise RuntimeError if gradients lead to other tensors than the arguments of the linearised step."""
    if _stranger(*point.graph) is not None:
        raise RuntimeError(_changed_text(name))


def _stranger(images: Tensors, known: Tensors) -> Tensor | None:
    """A leaf that the graph of `images` leads to by a way that passes none of the tensors `known`."""
    ends = {_edge(tensor) for tensor in known if tensor.requires_grad}
    edges = [_edge(tensor) for tensor in images if tensor.requires_grad]
    passed: set[object] = set()
    while edges:
        edge = edges.pop()
        node, _ = edge
        if node is None or edge in ends or node in passed:
            continue
        leaf: Tensor | None = getattr(node, "variable", None)
        if leaf is not None:
            return leaf
        passed.add(node)
        edges += node.next_functions
    return None


def _edge(tensor: Tensor) -> tuple[Node | None, int]:
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _tensors_in(given: object) -> Iterator[Tensor]:
    match given:
        case Tensor():
            yield given
        case tuple() | list():
            for part in given:
                yield from _tensors_in(part)
        case dict():
            for part in given.values():
                yield from _tensors_in(part)


def _random_state(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    state: Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def _in_training(args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a call of batch_norm(x, mean, variance, weight, bias, training, …) uses batch statistics."""
    # torch.batch_norm has its weight before its mean, and training at the same place
    return bool(args[5] if len(args) > 5 else kwargs.get("training", False))


def _random_text(name: str) -> str:
    return (
        f"the step of `{name}` draws random numbers, so that no two sweeps are of the same equation: draw "
        "them before, a dropout mask for instance, and hand them in through `batched`; or call .eval()"
    )


def _batch_text(name: str) -> str:
    return (
        f"the step of `{name}` normalises by the statistics of the batch, so that samples depend on each "
        "other, and on which of them are still being solved: call .eval(), which uses running statistics, or "
        "normalise each sample, as GroupNorm does"
    )


def _unseen_text(name: str, tensor: Tensor) -> str:
    return (
        f"the step of `{name}` uses a tensor {tuple(tensor.shape)} that requires a gradient, but not through "
        f"operations that can be followed; {HAND_IN}"
    )


def _changed_text(name: str) -> str:
    return (
        f"the step of `{name}` uses tensors that require gradients and that it did not use when it was "
        "solved: what it closes over has been replaced since, or goes through a custom autograd.Function; "
        f"{HAND_IN}"
    )
