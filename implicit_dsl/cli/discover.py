"""`implicitc discover`: the architecture that is left in trained weights, as a program."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from implicit_dsl.cli.messages import Refusal, write
from implicit_dsl.cli.options import USAGE, Parser
from implicit_dsl.files import reason

if TYPE_CHECKING:
    import torch
    from torch import nn

    from implicit_dsl.compiler import Checked
    from implicit_dsl.discovery import Discovered
    from implicit_dsl.model import Block
    from implicit_dsl.runtime import System

_EXAMPLES = """
implicitc discover net.impl --weights trained.safetensors           # net_discovered.impl, .safetensors
implicitc discover net.impl --weights trained.pt --tolerance 1e-3 -o small.impl
"""
_INSTEAD = "`implicitc plot` and `matrices` show what is left of it"
_SAMPLES = 16  # random inputs on which the two are compared
_AGREE = 1e-9  # in float64, relative to the largest output
_SIZES = (1.0, 0.1, 0.01)  # of random inputs


def main(words: Sequence[str]) -> int:
    """Write the program of what matters, and its weights; both are compared with the model first."""
    options = _parser().read(words)
    from implicit_dsl.cli.programs import bound, only, sound
    from implicit_dsl.cli.weights import instance

    found = sound(options.file, options)
    if found is None:
        return 1
    only(found)
    if found.models[0].recurrences:  # before a length is asked for, which would not help
        from implicit_dsl.discovery import STEPPED

        raise Refusal(STEPPED, _INSTEAD)
    model = bound(found.models[0], options)
    module = instance(_without_solvers(found), weights=options.weights).double()
    from implicit_dsl.discovery import CannotWrite, discover
    from implicit_dsl.formatting import formatted
    from implicit_dsl.runtime.pruning import prune_
    from implicit_dsl.shapes import sizes
    from implicit_dsl.source import Source

    shapes = {block.name: sizes(block.given) for block in model.inputs}
    data = found.models[0].as_data()
    module.eval()
    try:
        pruned = prune_(module, data, options.tolerance, (), shapes)
        made = discover(module, data, options.name or "", shapes)
    except CannotWrite as cannot:
        raise Refusal(str(cannot), _INSTEAD) from None
    except ValueError as error:
        raise Refusal(str(error), code=USAGE) from None
    text, wrong = formatted(Source(made.source))
    assert text is not None, wrong
    _check(module, made, shapes)
    written = _give(text, made, options.output, options.file, options.weights)
    write(f"{pruned}\n{made}\n" + "".join(f"wrote {path}\n" for path in written))
    return 0


def _parser() -> Parser:
    parser = Parser(
        "discover",
        "Write what is left of a model with trained weights as a program of its own: without\n"
        "what is zero, what no output depends on, and weights up to --tolerance. The program and\n"
        "its weights compute the same function, which is checked before they are written.",
        _EXAMPLES,
    )
    parser.file()
    parser.program()
    parser.sizes()
    parser.output("the program; its weights are written beside it. FILE_discovered.impl if not given")
    parser.add_argument(
        "--weights", metavar="FILE", required=True, help="a state_dict: .pt, .safetensors or .npz"
    )
    parser.add_argument(
        "--tolerance", type=_tolerance, default=0.0, metavar="ε", help="weights up to this are zero (0)"
    )
    parser.add_argument("--name", metavar="NAME", help="what the model is called")
    return parser


def _tolerance(text: str) -> float:
    from argparse import ArgumentTypeError

    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ArgumentTypeError(f"`{text}` is no number of at least 0")
    return value


def _without_solvers(found: Checked) -> Checked:
    """The same program with the usual solvers: the two are compared more closely than it may ask for."""
    from dataclasses import replace

    certified = []
    for one in found.certified:
        demands = replace(one.graph.demands, solvers=())
        certified.append(replace(one, graph=replace(one.graph, demands=demands)))
    return replace(found, certified=tuple(certified))


def _check(module: nn.Module, made: Discovered, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises Refusal unless the program computes what the module does, in float64 on random inputs.

    The loops of both are solved to the usual tolerance of float64, which is far below what tells.
    """
    import torch

    from implicit_dsl.discovery import tensors_of
    from implicit_dsl.loading import loads
    from implicit_dsl.runtime import ConvergenceError

    model = getattr(loads(made.source), made.name)(dtype=torch.float64).eval()
    model.load_state_dict(tensors_of(made, torch.float64))
    system: System = cast(Any, module).system(**shapes)
    generator = torch.Generator().manual_seed(0)
    drawn = [_random(block, generator) for block in system.inputs]
    for size in _SIZES:  # what is large may have no equilibrium, where nothing says that there is one
        inputs = [size * one if one.dtype.is_floating_point else one for one in drawn]
        try:
            with torch.no_grad():
                apart = _apart(module(*inputs), model(*inputs))
            break
        except ConvergenceError:
            continue
    else:
        raise Refusal(
            "no equilibrium is found on random inputs, so that the program that was found cannot be "
            "compared with the model, and is not written",
            "bound the weights of its loop with @wellposed, and train it with `project_()`",
        )
    if not apart <= _AGREE:
        raise Refusal(
            f"the program that was found is apart from the model by {apart:.3g} on random inputs, and is not "
            "written",
            "a loop with several equilibria may be why: bound its weights with @wellposed",
        )


def _apart(some: Any, others: Any) -> float:
    """The largest difference of outputs, relative to the largest of them."""
    pairs = zip(_tuple(some), _tuple(others))
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1.0)) for a, b in pairs)


def _random(block: Block, generator: torch.Generator) -> torch.Tensor:
    import torch

    from implicit_dsl.shapes import sizes

    if block.tokens:
        most = sizes(block.shape)[-1]
        return torch.randint(most, (_SAMPLES, *sizes(block.given)), generator=generator)
    return torch.randn(_SAMPLES, *sizes(block.shape), dtype=torch.float64, generator=generator)


def _tuple(outputs: Any) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _give(text: str, made: Discovered, output: str | None, file: str, weights: str) -> tuple[str, ...]:
    """Write the program and its weights, in the format of those given."""
    from implicit_dsl.files import write_whole

    stem, ending = os.path.splitext(
        output or f"{os.path.splitext(os.path.basename(file))[0]}_discovered.impl"
    )
    if ending != ".impl":
        raise Refusal(f"`{output}` must end in .impl", code=USAGE)
    beside = stem + os.path.splitext(weights)[1].lower()
    try:
        write_whole(beside, _packed(made, beside))
        write_whole(f"{stem}.impl", text.encode())
    except OSError as error:
        raise Refusal(f"`{stem}.impl` cannot be written: {reason(error)}") from None
    return f"{stem}.impl", beside


def _packed(made: Discovered, path: str) -> bytes:
    """The weights in float32, as a file."""
    import io

    import numpy as np
    import torch

    from implicit_dsl.discovery import tensors_of

    held = tensors_of(made, torch.float32)
    if path.endswith(".safetensors"):
        from safetensors.torch import save

        return bytes(save(held))
    buffer = io.BytesIO()
    if path.endswith(".npz"):
        arrays: dict[str, Any] = {name: value.numpy() for name, value in held.items()}
        np.savez(buffer, **arrays)
    else:
        torch.save(held, buffer)
    return buffer.getvalue()
