"""Fixed numbers of sweeps in place of solves: what they come to, what graphs hold, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from citizens import EXAMPLES, Citizen, citizens, loops_of
from loop_programs import PROGRAMS

import implicit_dsl
from implicit_dsl import runtime

PROVED = [one for one in citizens() if "@wellposed norm(" in one.own_text and "unchecked" not in one.text]
SPLIT = [one for one in citizens() if one.model in ("MonotoneDEQ", "NEMON")]
named = {"ids": lambda citizen: citizen.model}


@pytest.mark.parametrize("citizen", PROVED, **named)
@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
def test_a_proved_number_of_sweeps_reaches_its_tolerance(citizen: Citizen, tolerance: float) -> None:
    module, inputs = citizen.make(dtype=torch.float64), citizen.inputs(5, torch.float64)
    with runtime.unrolled(tolerance=tolerance):
        found = module(*inputs)
    for stats in module.stats.values():
        assert stats.residual <= tolerance and stats.unsolved == 0 and stats.status.solved
    assert float((found - module(*inputs)).detach().abs().max()) <= 100 * tolerance
    with runtime.unrolled():
        module(*inputs)
    assert all(stats.unsolved == 0 and stats.tolerance == 1e-10 for stats in module.stats.values())


@pytest.mark.parametrize("citizen", SPLIT, **named)
def test_loops_that_expand_converge_with_damping(citizen: Citizen) -> None:
    module, inputs = citizen.make(dtype=torch.float64), citizen.inputs(5, torch.float64)
    with runtime.unrolled(400, damping=0.1):
        found = module(*inputs)
    assert all(stats.residual <= 1e-6 for stats in module.stats.values())
    torch.testing.assert_close(found, module(*inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
@pytest.mark.parametrize("damping", [1.0, 0.5])
def test_sweeps_and_their_gradients_are_those_of_a_loop_by_hand(program: object, damping: float) -> None:
    module = implicit_dsl.loads(program.text).M(dtype=torch.float64)  # type: ignore[attr-defined]
    u = torch.randn(3, *program.shape, dtype=torch.float64)  # type: ignore[attr-defined]
    loops = [(loop, loop.step, loop.phi) for loop in loops_of(module)]

    class ByHand(torch.nn.Module):
        def __init__(self, step: object, phi: object) -> None:
            super().__init__()
            self.step, self.phi, self.stats = step, phi, None

        def forward(self, start, batched=(), shared=()):  # type: ignore[no-untyped-def]
            for _ in range(4):
                made = self.step(*start, *batched, *shared)
                made = made if isinstance(made, tuple) else (made,)
                made = made if self.phi is None else (self.phi(made[0]),)
                start = tuple((1 - damping) * old + damping * new for old, new in zip(start, made))
            return start

    with runtime.unrolled(4, damping=damping):
        found = module(u)
        ours = torch.autograd.grad(found.square().sum(), list(module.parameters()))
        for loop, step, phi in loops:
            by_hand = ByHand(step, phi)
            loop.forward = by_hand.forward  # type: ignore[method-assign]
        expected = module(u)
        theirs = torch.autograd.grad(expected.square().sum(), list(module.parameters()))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for one, other in zip(theirs, ours):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("standalone", [False, True])
def test_graphs_hold_plain_operations_and_run_without_the_package(standalone: bool, tmp_path: Path) -> None:
    generated = implicit_dsl.load(EXAMPLES / "conv_deq.impl", standalone=standalone, c=3)
    home: ModuleType = generated if standalone else runtime
    module, u = generated.ConvDEQ(), torch.randn(4, 1, 8, 8)
    with home.unrolled(7):
        exported = torch.export.export(module, (u,))
        expected = module(u)
    assert "implicitc" not in str(exported.graph)
    assert len(re.findall(r"aten\.relu_?\.default\]\(args", str(exported.graph))) == 7
    torch.testing.assert_close(exported.module()(u), expected)
    assert module.stats["z"].steps == 7


def test_a_compiled_module_follows_the_context() -> None:
    torch._dynamo.reset()
    module, u = implicit_dsl.load(EXAMPLES / "conv_deq.impl", c=3).ConvDEQ(), torch.randn(4, 1, 8, 8)
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    solved = compiled(u)
    with runtime.unrolled(2):
        torch.testing.assert_close(compiled(u), module(u))
        with runtime.unrolled(3):
            torch.testing.assert_close(compiled(u), module(u))
        assert not torch.equal(compiled(u), solved)
    assert torch.equal(compiled(u), solved)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # PyTorch's own, in forward mode
def test_transforms_go_through_the_sweeps() -> None:
    module, u = implicit_dsl.load(EXAMPLES / "implicit.impl", n=6).Implicit(), torch.randn(3, 64)
    with runtime.unrolled(5):
        jacobian = torch.vmap(torch.func.jacrev(lambda u: module(u[None])[0]))(u)
        forward = torch.func.jvp(module, (u,), (u,))[1]
        torch.testing.assert_close(torch.einsum("bij,bj->bi", jacobian, u), forward)


def test_what_makes_no_sense_is_refused() -> None:
    for steps, more, message in (
        (0, {}, "steps must be at least 1"),
        (3, {"tolerance": 1e-3}, "give one of them"),
        (None, {"tolerance": 2.0}, r"tolerance must be in \(0, 1\)"),
        (3, {"damping": 0.0}, "damping must be"),
    ):
        with pytest.raises(ValueError, match=message), runtime.unrolled(steps, **more):
            pass
    module = implicit_dsl.load(EXAMPLES / "residual_deq.impl").ResidualDEQ()
    refused = pytest.raises(ValueError, match=r"no number of sweeps is proved.*`z` \(line 17\).*steps=30")
    with refused, runtime.unrolled():
        module(torch.randn(2, 1, 8, 8))
    module(torch.randn(2, 1, 8, 8))  # the context has ended


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx_without_the_context_is_refused_with_advice(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    for name, advice in (
        (
            "conv_deq",
            r"`z` \(line 8\).*unrolled\(steps=30\).*as are proved to suffice",
        ),
        ("residual_deq", r"`z` \(line 17\).*unrolled\(steps=30\)"),
    ):
        generated = implicit_dsl.load(EXAMPLES / f"{name}.impl")
        module, u = getattr(generated, generated.__all__[0])(), torch.randn(2, 1, 8, 8)
        with pytest.raises(torch.onnx.errors.OnnxExporterError, match=advice):
            torch.onnx.export(module, (u,), str(tmp_path / "m.onnx"), dynamo=True, verbose=False)
