"""What a translation leaves alone, and what its result promises."""

from __future__ import annotations

import pickle
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from translating import assert_same, randomised

import implicit_dsl
from implicit_dsl import from_torch
from implicit_dsl.compiler import check
from implicit_dsl.source import Source
from implicit_dsl.translation import Translated, TranslationError


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.4), nn.Flatten(), nn.Linear(12, 2)
    )


def test_the_module_is_left_as_it_is() -> None:
    module = small().train()
    module[1].eval()
    before, modes = deepcopy(module.state_dict()), [part.training for part in module.modules()]
    hooked: list[str] = []
    module[0].register_forward_hook(lambda *_: hooked.append("conv"))
    torch.manual_seed(3)
    state, example = torch.get_rng_state(), torch.ones(1, 2, 4, 4)

    from_torch(module, example)

    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(example, torch.ones(1, 2, 4, 4))
    assert all(parameter.grad is None for parameter in module.parameters())
    assert torch.is_grad_enabled() and torch.backends.mha.get_fastpath_enabled()


def test_the_result_is_frozen_and_its_weights_are_copies() -> None:
    module = small().eval()

    made = from_torch(module, torch.randn(1, 2, 4, 4))

    assert isinstance(made, Translated) and not made.model.training
    with pytest.raises(AttributeError):
        made.source = ""  # type: ignore[misc]
    with pytest.raises(TypeError):
        made.keys["0.weight"] = "x"  # type: ignore[index]
    with torch.no_grad():
        module[0].weight.zero_()
    assert made.model.state_dict()[made.keys["0.weight"]].abs().sum() > 0


def test_the_source_compiles_without_findings_and_takes_the_weights() -> None:
    module = randomised(small())

    made = from_torch(module, torch.randn(1, 2, 4, 4))

    assert not check(Source(made.source)).diagnostics
    again = implicit_dsl.loads(made.source).Sequential().eval()
    again.load_state_dict({made.keys[key]: value for key, value in module.state_dict().items()})
    x = torch.randn(5, 2, 4, 4)
    torch.testing.assert_close(again(x), module(x))


def test_it_can_be_trained_on_and_dropout_is_still_there() -> None:
    made = from_torch(small(), torch.randn(1, 2, 4, 4))
    model, x = made.model.train(), torch.randn(8, 2, 4, 4)

    first, second = model(x), model(x)

    assert not torch.equal(first, second)
    assert model.state_dict()["batchnorm2d_1.num_batches_tracked"] == 2
    first.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_what_is_frozen_stays_frozen() -> None:
    module = small()
    module[0].requires_grad_(False)

    made = from_torch(module, torch.randn(1, 2, 4, 4))

    trained = {key for key, parameter in made.model.named_parameters() if parameter.requires_grad}
    assert made.keys["0.weight"] not in trained and made.keys["5.weight"] in trained


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_number_type_is_that_of_the_module(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2)).to(dtype).eval()
    x = torch.randn(5, 3, dtype=dtype)

    made = from_torch(module, x)

    assert made.model(x).dtype == dtype
    torch.testing.assert_close(made.model(x), module(x))


def test_a_batch_of_one_stands_for_any() -> None:
    module = small().eval()

    made = from_torch(module, torch.randn(1, 2, 4, 4))

    for batch in (1, 2, 7):
        x = torch.randn(batch, 2, 4, 4)
        torch.testing.assert_close(made.model(x), module(x))


def test_keywords_and_nested_inputs() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 2)

        def forward(self, pair: tuple[Tensor, Tensor], *, extra: Tensor) -> Tensor:
            return self.first(pair[0] - pair[1]) * extra

    a, b, c = torch.randn(2, 3), torch.randn(2, 3), torch.randn(2, 2)
    module = Nested().eval()

    made = from_torch(module, ((a, b),), {"extra": c})

    torch.testing.assert_close(made.model(a, b, c), module((a, b), extra=c))


def test_a_factor_for_the_last_axis_is_linear() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.gamma = nn.Linear(3, 4), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.enter(x) * self.gamma + 1

    made = assert_same(Scaled(), torch.randn(2, 5, 3))

    assert "gamma[4, 4] in Diagonal()" in made.source
    assert [state.activation for state in made.system().states if state.activation] == []


def test_what_is_the_users_mistake_is_said_as_such() -> None:
    module = nn.Linear(3, 2)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        from_torch(module, torch.randn(2, 4))
    with pytest.raises(TranslationError, match="no batch axis"):
        from_torch(module, torch.tensor(1.0))
    with pytest.raises(TranslationError, match="inputs of a program are tensors"):
        from_torch(module, (torch.randn(2, 3), 5))
    with pytest.raises(TranslationError, match="batches of 2, 3 samples"):
        from_torch(nn.Bilinear(3, 3, 2), (torch.randn(2, 3), torch.randn(3, 3)))
    with pytest.raises(TranslationError, match="no example inputs"):
        from_torch(module, ())
    with pytest.raises(TranslationError, match="`free_axes` names `y`"):
        from_torch(module, torch.randn(2, 3), free_axes={"y": 1})
    with pytest.raises(TranslationError, match="`free_axes` names axis 0"):
        from_torch(module, torch.randn(2, 3), free_axes={"input": 0})
    with pytest.raises(TranslationError, match="has no shape yet"):
        from_torch(nn.LazyLinear(2), torch.randn(2, 3))
    with pytest.raises(TranslationError, match="meta device"):
        from_torch(nn.Linear(3, 2, device="meta"), torch.randn(2, 3))
    assert issubclass(TranslationError, ValueError)


def test_buffers_that_change_are_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * self.calls

    class Assigning(Counting):
        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return x * self.calls

    for module in (Counting(), Assigning()):
        with pytest.raises(TranslationError, match="the buffer `calls`"):
            from_torch(module, torch.randn(2, 3))
        assert module.calls == 0


def test_a_wrong_translation_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from implicit_dsl.translation.rules import RULES

    monkeypatch.setitem(RULES, "aten.tanh.default", RULES["aten.sin.default"])

    with pytest.raises(TranslationError, match="other numbers"):
        from_torch(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.randn(2, 3))


def test_importing_the_package_does_not_load_it() -> None:
    shown = "[name for name in sys.modules if 'translation' in name or name == 'torch']"
    code = f"import sys, implicit_dsl; implicit_dsl.compile; print({shown})"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert made.stdout.strip() == "[]"


def test_errors_can_be_sent_to_other_processes() -> None:
    with pytest.raises(TranslationError) as caught:
        from_torch(nn.Sequential(nn.Flatten(0)), torch.randn(2, 3))

    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_many_known_numbers_are_held_like_weights() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.rand(40, 40) < 0.5)
            self.enter = nn.Linear(3, 40)

        def forward(self, x: Tensor) -> Tensor:
            return self.enter(x).masked_fill(self.seen, 0.3)

    made = assert_same(Masked(), torch.randn(2, 40, 3))

    assert "known[40, 40]" in made.source and len(made.source) < 1000
    assert not made.model.known.requires_grad
