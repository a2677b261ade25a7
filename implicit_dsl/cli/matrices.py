"""`implicitc matrices`: A, B, C, D, b and d in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import Refusal, bold, write
from implicit_dsl.cli.options import Parser
from implicit_dsl.cli.table import table
from implicit_dsl.files import reason
from implicit_dsl.shapes import sizes

if TYPE_CHECKING:
    import numpy as np

    from implicit_dsl.matrices import Layout
    from implicit_dsl.runtime import System

_EXAMPLES = """
implicitc matrices net.impl                 # a table of the blocks
implicitc matrices net.impl -o net.npz --weights trained.pt
implicitc matrices conv.impl -o conv.mtx --size u=3,32,32 --order lower
"""
_ENDINGS = {".npz": "npz", ".mtx": "mtx"}
_MOST_COUNTED = 20_000_000  # entries, which take about a second


def main(words: Sequence[str]) -> int:
    """Make the matrices of the one model of a file, and save or list them."""
    options = _parser().read(words)
    from implicit_dsl.cli.artefacts import ending
    from implicit_dsl.cli.programs import bound, only, sound

    ending(options.output, _ENDINGS, "")
    found = sound(options.file, options)
    if found is None:
        return 1
    only(found)
    model = bound(found.models[0], options)
    from implicit_dsl.cli.weights import instance
    from implicit_dsl.runtime import System

    module = instance(found, options.seed, options.weights)

    shapes = {block.name: sizes(block.given) for block in model.inputs}
    try:
        _give(System.of(module, found.models[0].as_data(), shapes, options.order), options.output)
    except ValueError as error:  # too many entries
        raise Refusal(str(error)) from None
    return 0


def _parser() -> Parser:
    parser = Parser(
        "matrices",
        "Compute A, B, C, D, b, d of x = φ(Ax + Bu + b), y = Cx + Du + d.\n"
        "Without --weights they are those of a new module.",
        _EXAMPLES,
    )
    parser.file()
    parser.program()
    parser.sizes()
    parser.output("a file: .npz (NumPy), or .mtx (Matrix Market, one file for each matrix)")
    parser.add_argument("--weights", metavar="FILE", help="a state_dict: .pt, .safetensors or .npz")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for new weights (0)")
    parser.add_argument(
        "--order", choices=("upper", "lower"), default="upper", help="last state first (upper), or first"
    )
    return parser


def _give(system: System, output: str | None) -> None:
    if output is None or output == "-":
        write(_summary(system))
        return
    try:
        written = system.save(output)
    except OSError as error:
        raise Refusal(f"`{output}` cannot be written: {reason(error)}") from None
    for path in written:
        write(f"wrote {path}\n")


def _summary(system: System) -> str:
    from implicit_dsl.matrices import Layout

    rows = []
    for name in ("A", "B", "C", "D", "b", "d"):
        layout = Layout.of(system.model, name, system.order)
        rows.append(_row(name, layout))
        blocks = dict.fromkeys((summand.row, summand.col) for summand in layout.summands())
        if name.isupper():
            rows += [_row(f"  {name}[{row}, {col}]", layout.block(row, col)) for row, col in blocks]
    header = ("block", "shape", "entries", "parameters", "density")
    listed = table(rows, header, right="shape entries parameters density")
    return f"{bold(system.model.name)}  x = φ(Ax + Bu + b), y = Cx + Du + d\n\n{listed}\n"


def _row(name: str, layout: Layout) -> tuple[str, ...]:
    (rows, cols), entries = layout.shape, layout.nnz()
    share = 100 * entries / max(1, rows * cols)
    used = _parameters(layout)
    return (name, f"{rows:,} × {cols:,}", f"{entries:,}", used, f"{share:.3g} %")


def _parameters(layout: Layout) -> str:
    """How many numbers the entries are made of; "…" where counting them would take too long."""
    import numpy as np

    if layout.entry_count() > _MOST_COUNTED:
        return "…"
    slots: dict[str, list[np.ndarray]] = {}
    for tie in layout.ties():
        if tie.parameter is not None and tie.slots is not None:
            slots.setdefault(tie.parameter, []).append(tie.slots)
    return f"{sum(len(np.unique(np.concatenate(parts))) for parts in slots.values()):,}"
