"""Recurrences in diagrams: each step once, with lines from the step before."""

from __future__ import annotations

import json

import pytest

from implicit_dsl.cli import main
from implicit_dsl.compiler import check
from implicit_dsl.pictures import diagram_svg, dot, folded, mermaid
from implicit_dsl.pictures.layers import delayed, layered, looped
from implicit_dsl.source import Source

TEXT = """
model M(n = 4)
    input u[_, n], v[_, n], s[n]
    param W[n, n]
    layer R = Dense(n)
    recurrent x over u
        state h[n] = s, c[n] = 1
        recurrent w over v
            state g[n] = x
            g ~ tanh(R*prev(g) + w)
        end
        c ~ 0.5*prev(c, 2) + last(g)
        h ~ 0.5*tanh(W*(h + prev(h)) + c)
    end
    recurrent x over h
        state k[n] = 0
        k ~ tanh(R*prev(k) + x + s)
    end
    output y = k, z = last(k), e = c
    @wellposed norm(W, Inf) <= 1.5
end
"""


def drawing() -> object:
    checked = check(Source(TEXT))
    assert not [one for one in checked.diagnostics if one.code.startswith("E")], checked.diagnostics
    return folded(checked.certified[0].graph)


def test_each_step_is_drawn_once() -> None:
    graph = drawing()
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == len(names) and {"h", "c", "g", "k", "k.last"} <= set(names)
    assert {edge.source for edge in graph.edges} - {None} <= set(names)
    assert {edge.target for edge in graph.edges} <= set(names)
    assert not graph.recurrences and {node.name for node in graph.nodes if node.role.value == "input"} == set(
        "uvs"
    )

    late = {(edge.source, edge.target, edge.chain[0].kind) for edge in graph.edges if delayed(edge)}
    assert ("c", "c", "prev 2") in late and ("k", "k", "prev") in late and ("g", "g", "prev") in late
    starts = {(edge.source, edge.target) for edge in graph.edges for op in edge.chain if op.kind == "start"}
    assert ("s", "h") in starts and ("u", "g") in starts


def test_loops_are_those_of_one_step() -> None:
    graph = drawing()
    assert "h" in looped(graph) and not {"g", "k", "c"} & looped(graph)
    assert all(line.edge in graph.edges for line in layered(graph).lines)


@pytest.mark.parametrize("draw", [diagram_svg, mermaid, dot])
def test_every_format_draws_them(draw: object) -> None:
    text = draw(drawing())
    assert "prev 2" in text and text == draw(drawing())


def test_graphs_without_recurrences_are_themselves() -> None:
    graph = check(Source("model M\n    input u[3]\n    output y = relu(u)\nend\n")).certified[0].graph
    assert folded(graph) is graph


def test_as_data(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.impl"
    path.write_text(TEXT)
    assert main(["graph", str(path), "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    first, second = data["recurrences"]
    assert first["sequences"] == [{"input": "x", "of": "u"}]
    assert [one["name"] for one in second["gives"]] == ["k", "k.last"]
    assert first["step"]["recurrences"][0]["carried"][0]["start"] == "x"
