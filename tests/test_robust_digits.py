"""The example of certified training: its ways to train, its figures in small, and its picture."""

from __future__ import annotations

import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_examples import ROOT

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    path = ROOT / "examples" / "robust_digits.py"
    spec = importlib.util.spec_from_file_location("robust_digits", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_it_trains_for_certainty_and_draws_what_it_costs(example: Any) -> None:
    example.EPSILONS = (0.01, 0.05)
    images, labels, test_images, test_labels = example.digits(0)
    assert images.shape == (1347, 64) and 0 <= float(images.min()) <= float(images.max()) <= 1
    results: dict[str, list[Any]] = {}
    for recipe in example.recipes(quick=True):
        model = example.train(recipe, images, labels, 5, 0)
        expected = float(model.system().A.to_numpy().__abs__().sum(1).max())
        assert expected <= 0.95 + 1e-6
        results[recipe.name] = [example.measured(model, test_images, test_labels, 10, 0.0)]
    plain, price, worst = (found[0] for found in results.values())
    for one in (plain, price, worst):
        assert one.clean > 0.85
        for interval, crown, attacked in zip(one.interval, one.crown, one.attacked):
            assert interval <= crown <= attacked
    assert price.sensitivity < plain.sensitivity / 4
    assert price.interval[1] > plain.interval[1] and worst.interval[1] > plain.interval[1]

    table = example.table(results)
    assert table.count("\n") == 12 and "ε = 0.05" in table
    root = ElementTree.fromstring(example.curve(results))
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 6
