"""`implicitc plot`: where the matrices have entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import Refusal
from implicit_dsl.cli.options import Parser

if TYPE_CHECKING:
    from implicit_dsl.pictures import Spy

_EXAMPLES = """
implicitc plot net.impl                     # A, in the terminal
implicitc plot net.impl -o A.svg
implicitc plot net.impl --matrix all -o system.png
implicitc plot conv.impl --size u=3,32,32
"""
_ENDINGS = {".svg": "svg", ".png": "png", ".txt": "text"}


def main(words: Sequence[str]) -> int:
    """Draw a matrix of the one model of a file. Needs no weights."""
    about = "Draw where A has entries (or B, C, D, or all four). Needs no weights."
    parser = Parser("plot", about, _EXAMPLES)
    parser.file()
    parser.program()
    parser.sizes()
    parser.output("a picture: .svg, .png or .txt; without it, text for the terminal")
    parser.add_argument("--matrix", choices=("A", "B", "C", "D", "all"), default="A", help="which (A)")
    options = parser.read(words)
    from implicit_dsl.cli.artefacts import deliver, ending
    from implicit_dsl.cli.programs import bound, only, sound

    kind = ending(options.output, _ENDINGS, "text")
    found = sound(options.file, options)
    if found is None:
        return 1
    only(found)
    model = bound(found.models[0], options)
    from implicit_dsl.pictures import spy_of

    try:
        made = _drawn(spy_of(model, options.matrix), kind)
    except (ValueError, ImportError) as error:  # too large, or no Pillow
        raise Refusal(str(error)) from None
    deliver(made, options.output)
    return 0


def _drawn(spy: Spy, kind: str) -> str | bytes:
    from implicit_dsl import pictures

    match kind:
        case "svg":
            return pictures.spy_svg(spy)
        case "png":
            return pictures.spy_png(spy)
        case _:
            import shutil

            return pictures.spy_text(spy, min(shutil.get_terminal_size().columns, 160))
