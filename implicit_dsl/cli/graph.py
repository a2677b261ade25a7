"""`implicitc graph`: the network as a diagram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from implicit_dsl.cli.options import Parser

if TYPE_CHECKING:
    from implicit_dsl.graph import SignalGraph

_EXAMPLES = """
implicitc graph net.impl                    # Mermaid, which GitHub draws
implicitc graph net.impl -o net.svg
implicitc graph net.impl --format dot | dot -Tpdf -o net.pdf
"""
_ENDINGS = {".svg": "svg", ".mmd": "mermaid", ".dot": "dot", ".gv": "dot", ".json": "json"}


def main(words: Sequence[str]) -> int:
    """Draw the one model of a file."""
    parser = Parser("graph", "Draw the network as a diagram. Needs no Graphviz.", _EXAMPLES)
    parser.file()
    parser.program()
    parser.output("a file: .svg, .mmd, .dot or .json; without it, standard output")
    formats = ("mermaid", "dot", "svg", "json")
    parser.add_argument("--format", choices=formats, help="by default what the file name says, or Mermaid")
    options = parser.read(words)
    from implicit_dsl.cli.artefacts import deliver, ending
    from implicit_dsl.cli.programs import only, sound

    kind = options.format or ending(options.output, _ENDINGS, "mermaid")
    found = sound(options.file, options)
    if found is None:
        return 1
    deliver(_drawn(only(found).graph, kind), options.output)
    return 0


def _drawn(graph: SignalGraph, kind: str) -> str:
    if kind == "json":
        import json

        from implicit_dsl.cli.stages import graph_data

        return json.dumps({"version": 1, **graph_data(graph)}, indent=2, ensure_ascii=False) + "\n"
    from implicit_dsl import pictures

    draw = {"mermaid": pictures.mermaid, "dot": pictures.dot, "svg": pictures.diagram_svg}[kind]
    text = draw(pictures.folded(graph))
    return text if text.endswith("\n") else text + "\n"
