"""A network in the notations of other tools: Mermaid, which GitHub draws, and Graphviz."""

from __future__ import annotations

from implicit_dsl.graph import Edge, SignalGraph
from implicit_dsl.pictures import wording
from implicit_dsl.pictures.colours import accent, css, outline
from implicit_dsl.pictures.layers import layered, looped
from implicit_dsl.pictures.lettering import clean

_BRACKETS = {
    "input": ("([", "])"),
    "state": ("(", ")"),
    "lifted": ("(", ")"),
    "output": ("([", "])"),
}
_LOOKS = {
    "input": "fill:#e0f2f1,stroke:#0f766e,color:#134e4a",
    "state": f"fill:#fff,stroke:{css(1)},color:{css(1)}",
    "lifted": f"fill:#fff,stroke:{css(0.5)},color:{css(0.66)},stroke-dasharray:4 3",
    "output": f"fill:{css(1)},stroke:{css(1)},color:#fff",
}


def _backward(graph: SignalGraph) -> set[int]:
    """The identities of the edges that close a cycle."""
    return {id(line.edge) for line in layered(graph).lines if line.backward}


def _label(edge: Edge, newline: str) -> str:
    held = wording.held(edge)
    return wording.chain(edge) + (newline + held if held else "")


def mermaid(graph: SignalGraph) -> str:
    """The network as a Mermaid flowchart, top to bottom.

    Ties share a colour, the blocks of a loop are outlined in one, and edges that close it are dotted.
    """
    numbers = {node.name: f"n{i}" for i, node in enumerate(graph.nodes)}
    ties, backward = wording.Ties.of(graph), _backward(graph)
    lines = ["flowchart TD"]
    for node in graph.nodes:
        before, after = _BRACKETS[wording.kind(node)]
        text = f"{_mermaid(wording.name(node))}<br/>{_mermaid(wording.detail(graph, node))}"
        lines.append(f'    {numbers[node.name]}{before}"{text}"{after}:::{wording.kind(node)}')
    styles = []
    drawn = [edge for edge in graph.edges if edge.source is not None]
    for number, edge in enumerate(drawn):
        arrow = "-.->" if id(edge) in backward else "-->"
        label = "<br/>".join(_mermaid(part) for part in _label(edge, "\n").split("\n") if part)
        middle = f'|"{label}"|' if label else ""
        lines.append(f"    {numbers[edge.source or '']} {arrow}{middle} {numbers[edge.target]}")
        if (tie := ties.number(edge)) is not None:
            styles.append(
                f"    linkStyle {number} stroke:{accent(tie)},stroke-width:2px,stroke-dasharray:6 3"
            )
    kinds = [kind for kind in _LOOKS if any(wording.kind(node) == kind for node in graph.nodes)]
    looks = [f"    classDef {kind} {_LOOKS[kind]}" for kind in kinds]
    inside = [numbers[node.name] for node in graph.nodes if node.name in looped(graph)]
    if inside:
        looks += [
            f"    classDef loop stroke:{outline()},stroke-width:2px",
            f"    class {','.join(inside)} loop",
        ]
    return "\n".join((*lines, *styles, *looks, ""))


def _mermaid(text: str) -> str:
    """Text that Mermaid takes as it stands: whatever could be markup becomes the code of its character."""
    return "".join(c if c.isalnum() or c in " [],.()=+:_/·×÷→…−-" else f"#{ord(c)};" for c in clean(text))


def dot(graph: SignalGraph) -> str:
    """The network for Graphviz: ties, loops and the edges that close them as in `mermaid`."""
    numbers = {node.name: f"n{i}" for i, node in enumerate(graph.nodes)}
    ties, backward = wording.Ties.of(graph), _backward(graph)
    lines = [
        f"digraph {_quoted(graph.name)} {{",
        '    node [shape=box, style="rounded,filled", fillcolor=white, fontname=Helvetica];',
        "    edge [fontname=Helvetica, fontsize=11];",
    ]
    looks = {
        "input": ', fillcolor="#e0f2f1"',
        "state": "",
        "lifted": ', style="rounded,filled,dashed"',
        "output": f', fillcolor="{css(1)}", fontcolor=white',
    }
    inside = looped(graph)
    for node in graph.nodes:
        text = f"{wording.name(node)}\n{wording.detail(graph, node)}"
        look = looks[wording.kind(node)]
        if node.name in inside:
            look += f', color="{outline()}", penwidth=2'
        lines.append(f"    {numbers[node.name]} [label={_quoted(text)}{look}];")
    for edge in graph.edges:
        if edge.source is None:
            continue
        given = [f"label={_quoted(_label(edge, chr(10)))}"]
        if (tie := ties.number(edge)) is not None:
            given.append(f'color="{accent(tie)}", fontcolor="{accent(tie)}", penwidth=2')
        if id(edge) in backward:
            given.append("style=dashed, constraint=false")
        lines.append(f"    {numbers[edge.source]} -> {numbers[edge.target]} [{', '.join(given)}];")
    return "\n".join((*lines, "}", ""))


def _quoted(text: str) -> str:
    r"""A string of DOT. Backslashes are doubled: Graphviz reads \N, \G and the like inside labels."""
    lines = (clean(line).replace("\\", "\\\\").replace('"', '\\"') for line in text.split("\n"))
    return '"' + "\\n".join(lines) + '"'
