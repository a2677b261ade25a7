"""Under torch.compile, a generated network is the graph of the one by hand: no operation more, none other.

The networks are those of `benchmarks/architectures.py`, which measures them; here nothing is timed.
"""

from __future__ import annotations

import warnings
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FREE = {"aten.view.default", "aten.unsqueeze.default", "aten.detach.default"}  # move nothing, compute nothing


def operations(network: nn.Module, u: torch.Tensor, training: bool) -> list[Counter[str]]:
    """How often each operation stands in the forward graph, and in the backward graph."""
    graphs: list[Counter[str]] = []

    def collect(module: torch.fx.GraphModule, _: Any) -> torch.fx.GraphModule:
        called = (str(node.target) for node in module.graph.nodes if node.op == "call_function")
        graphs.append(Counter(name for name in called if name not in FREE))
        return module

    torch.compiler.reset()
    compiled = torch.compile(
        network.train(training), backend=aot_autograd(fw_compiler=collect), fullgraph=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a graph that is run as it was traced takes no boxed arguments
        if training:
            compiled(u).sum().backward()
        else:
            with torch.no_grad():
                compiled(u)
    return graphs


@pytest.mark.parametrize("name", ["resnet18", "inception", "unet", "transformer"])
def test_the_compiled_graph_has_the_operations_of_the_one_by_hand(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    architectures = import_module("architectures")
    by_hand, generated = architectures.pair(name)
    u = torch.randn(2, *architectures.CASES[name][1])

    for training in (False, True):
        assert operations(generated, u, training) == operations(by_hand, u, training)
