"""The implicit model of fitted matrices as a program, and compiled."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from implicit_dsl.loading import loads
from implicit_dsl.train.state_driven.activations import Layer


@dataclass(frozen=True)
class Matrices:
    """x = φ(A x + B u + b), y = C x + D u + d; the states in the order of `layers`."""

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    b: Tensor
    d: Tensor


def groups_of(layers: tuple[Layer, ...]) -> list[tuple[Layer, int]]:
    """One layer for each activation, with its number of states: layers of one activation stand together."""
    found: dict[tuple[str, float], tuple[Layer, int]] = {}
    for layer in layers:
        first, size = found.get(layer.group, (layer, 0))
        found[layer.group] = (first, size + layer.size)
    return list(found.values())


def source_of(
    name: str,
    layers: tuple[Layer, ...],
    kappa: float,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
) -> str:
    """The program: one state for each activation, and the bound on all of A."""
    groups, p, q = groups_of(layers), prod(input_shape), prod(output_shape)
    many = len(groups) > 1
    u = "u" if len(input_shape) == 1 else "flatten(u)"
    lines = [f"model {name}()", f"    input u[{_sizes(input_shape)}]"]
    names = [f"x{k + 1}" if many else "x" for k in range(len(groups))]
    tags = [f"{k + 1}" if many else "" for k in range(len(groups))]
    for (_, rows), row in zip(groups, tags):
        for (_, columns), column in zip(groups, tags):
            lines.append(f"    param A{_pair(row, column)}[{rows}, {columns}]")
        lines += [f"    param B{row}[{rows}, {p}]", f"    param b{row}[{rows}]"]
    lines += [f"    param C{tag}[{q}, {size}]" for (_, size), tag in zip(groups, tags)]
    lines += [f"    param D[{q}, {p}]", f"    param d[{q}]"]
    for (layer, size), x, row in zip(groups, names, tags):
        read = " + ".join(f"A{_pair(row, column)}*{other}" for column, other in zip(tags, names))
        lines.append(f"    state {x}[{size}] ~ {_activated(layer, f'{read} + B{row}*{u} + b{row}')}")
    lines.append(f"    @wellposed norm(A, Inf) <= {kappa!r}")
    read = " + ".join(f"C{tag}*{x}" for tag, x in zip(tags, names))
    y = f"{read} + D*{u} + d"
    if len(output_shape) == 1:
        lines.append(f"    output y = {y}")
    else:
        lines.append(f"    output y[{_sizes(output_shape)}] = reshape({y}, {_sizes(output_shape)})")
    return "\n".join([*lines, "end", ""])


def _sizes(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _pair(row: str, column: str) -> str:
    return f"{row}_{column}" if row else ""


def _activated(layer: Layer, z: str) -> str:
    if layer.kind == "identity":
        return z
    return f"leaky_relu({z}; slope = {layer.slope!r})" if layer.kind == "leaky_relu" else f"{layer.kind}({z})"


def model_of(source: str, name: str, layers: tuple[Layer, ...], matrices: Matrices) -> nn.Module:
    """The compiled model with the weights loaded, on their device and in their dtype."""
    module: nn.Module = getattr(loads(source), name)(device=matrices.A.device, dtype=matrices.A.dtype)
    sizes = [size for _, size in groups_of(layers)]
    tags = [f"{k + 1}" for k in range(len(sizes))] if len(sizes) > 1 else [""]
    made = {"D": matrices.D, "d": matrices.d}
    rows = zip(tags, *(torch.split(M, sizes) for M in (matrices.A, matrices.B, matrices.b)))
    for row, A, B, b in rows:
        made |= {f"B{row}": B, f"b{row}": b}
        made |= {f"A{_pair(row, column)}": part for column, part in zip(tags, torch.split(A, sizes, 1))}
    made |= {f"C{tag}": part for tag, part in zip(tags, torch.split(matrices.C, sizes, 1))}
    with torch.no_grad():
        module.load_state_dict(made, strict=True)
    return module.eval()
