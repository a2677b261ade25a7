"""The parameters of a generated module, in PyTorch's own layers where there are such."""

from __future__ import annotations

from implicit_dsl.emit.naming import Names
from implicit_dsl.emit.wording import INDENT, fitted, place
from implicit_dsl.model import ImplicitModel, Tensor
from implicit_dsl.operators import OPERATORS
from implicit_dsl.sets import MatrixSet

_FACTORY = "device=device, dtype=dtype"


def attributes(model: ImplicitModel, classes: dict[str, str], names: Names) -> list[str]:
    """What `__init__` assigns, in the order of use, each with its line of the source.

    `classes` names the layers that a class of the runtime holds.
    """
    holders = {holder.name: holder for holder in model.holders}
    lines: list[str] = []
    done: set[str] = set()
    for tensor in model.tensors:
        name = tensor.id.split(".")[0]
        if name in done:
            continue
        done.add(name)
        thing = holders.get(name, tensor)
        if name in holders:
            operator = holders[name].operator
            made = OPERATORS[operator.kind].holder(operator)
            assert made is not None
            if name in classes:
                made = f"{names(classes[name])}({made.partition('(')[2]}"
            separator = "" if made.endswith("()") else ", "
            value = f"{made[:-1]}{separator}{_FACTORY})"
        elif tensor.fixed:
            lines += fitted(f"self.{name}: Tensor", f"  # {place(thing)}, not trained")
            empty = f"torch.empty({tensor.shape!r}, {_FACTORY})"
            lines += fitted(f'self.register_buffer("{name}", {empty}, persistent=False)')
            continue
        else:
            value = f"nn.Parameter(torch.empty({tensor.trained!r}, {_FACTORY}))"
        lines += fitted(f"self.{name} = {value}", f"  # {place(thing)}")
    return lines


def structures(model: ImplicitModel, names: Names) -> list[str]:
    """What `__init__` assigns to `self.structures`: the sets that parameters are in."""
    held = [(tensor.id, tensor.within) for tensor in model.tensors if tensor.within is not None]
    if not held:
        return []
    lines = [f"self.structures: dict[str, {names('Structure')}] = {{"]
    for id, within in held:
        lines += ["    " + line for line in fitted(f'"{id}": {structure(within, names)}', ",", INDENT + 4)]
    return [*lines, "}"]


def structure(within: MatrixSet, names: Names) -> str:
    """A set as the runtime makes it: `runtime.Banded(4, 4, -1, 1)`."""
    return f"{names(within.kind)}({', '.join(map(repr, within.arguments))})"


def initialisers(model: ImplicitModel, names: Names) -> list[str]:
    """How the parameters start that no layer holds."""
    lines: list[str] = []
    for tensor in model.tensors:
        if tensor.initialiser is None:
            continue
        if len(tensor.fixed) > 1:  # reading them is exact
            given = f'torch.tensor(_NUMBERS["{model.name}", "{tensor.id}"], dtype=torch.float64)'
            lines += fitted(f"self.{tensor.id}.copy_({given}.reshape({tensor.shape!r}))")
            continue
        lines.append(_initialiser(tensor))
        if tensor.within is not None and tensor.within.kind == "Nonneg":
            lines.append(f"{names('start_nonneg_')}(self.{tensor.id})")
    return lines


def _initialiser(tensor: Tensor) -> str:
    assert tensor.initialiser is not None
    weight, numbers = f"self.{tensor.id}", tensor.initialiser.numbers
    number = numbers[0] if numbers else 1.0
    match tensor.initialiser.name:
        case "zeros":
            return f"nn.init.zeros_({weight})"
        case "ones":
            return f"nn.init.ones_({weight})"
        case "constant" | "fixed":
            return f"nn.init.constant_({weight}, {number!r})"
        case "normal":
            return f"nn.init.normal_({weight}, std={number!r})"
        case "uniform":
            return f"nn.init.uniform_({weight}, {-number!r}, {number!r})"
        case "glorot":
            return f"nn.init.xavier_uniform_({weight})"
        case "kaiming":
            # within ±1/√(inputs), as `nn.Linear` starts
            return f"nn.init.kaiming_uniform_({weight}, a=5**0.5)"
        case "orthogonal":
            return f"nn.init.orthogonal_({weight})"
        case other:
            raise AssertionError(f"unknown initialiser {other}")
