"""`discover`: what is written back computes the same, whatever of the weights is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import RandomProgram, programs
from test_exactness import QUIET, outputs, twins
from torch import Tensor, nn

import implicit_dsl
from implicit_dsl.cli import main
from implicit_dsl.discovery import CannotWrite, tensors_of
from implicit_dsl.operators import OPERATORS
from implicit_dsl.shapes import sizes
from implicit_dsl.train import discover

torch.set_num_threads(1)
EXAMPLE_FILES = Path(__file__).parents[1] / "examples"


def again(model: nn.Module) -> tuple[Any, nn.Module]:
    """What is found of a model, and its own model with the weights."""
    found = discover(model)
    made: nn.Module = getattr(implicit_dsl.loads(found.source), found.name)(dtype=torch.float64).eval()
    made.load_state_dict(tensors_of(found, torch.float64))
    return found, made


def drawn(model: nn.Module) -> tuple[Tensor, ...]:
    """Three random samples of the inputs."""
    made = []
    for block in cast(Any, model).system().inputs:
        if block.tokens:
            made.append(torch.randint(sizes(block.shape)[-1], (3, *sizes(block.given))))
        else:
            made.append(torch.randn(3, *sizes(block.shape), dtype=torch.float64))
    return tuple(made)


def assert_same(model: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        for one, two in zip(outputs(model(*inputs)), outputs(other(*inputs))):
            scale = max(1.0, float(one.abs().max()) if one.numel() else 1.0)
            assert one.shape == two.shape
            assert not one.numel() or float((one - two).abs().max()) <= 1e-9 * scale


@given(program=programs(), share=st.sampled_from((0.0, 0.3, 0.8, 0.97)), seed=st.integers(0, 1000))
@settings(QUIET, max_examples=12)
def test_random_programs_are_written_back(program: RandomProgram, share: float, seed: int) -> None:
    module, _, inputs = twins(program)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.masked_fill_(torch.rand(parameter.shape, generator=generator) < share, 0.0)
            if parameter.ndim > 1 and share:
                parameter[torch.rand(len(parameter), generator=generator) < share / 2] = 0.0
    try:
        found, made = again(module)
    except CannotWrite as cannot:
        assert "step by step" in str(cannot)
        return
    assert_same(module, made, inputs)
    assert "state" not in found.source or found.source.count("\n") > 3


EXAMPLES = {kind: rule.example for kind, rule in OPERATORS.items() if rule.example}
STEPPED = ("timed_scale", "timed_constant")


@pytest.mark.parametrize("kind", [kind for kind in EXAMPLES if kind not in STEPPED])
def test_all_operators_are_written_back(kind: str) -> None:
    body = EXAMPLES[kind].replace("[3, _]", "[3, 4]").replace("\n", "\n    ")
    model = compiled(f"model M\n    {body}\nend\n")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    _, made = again(model)
    assert_same(model, made, drawn(model))


OTHERS = {
    "a kernel and its transpose": """
        input u[3, 8, 8]
        layer K = Conv(3 => 4, 3; pad = 1)
        state x[4, 8, 8] ~ relu(K*u)
        output y = K'*x
    """,
    "the transpose of a kernel first": """
        input u[3, 8, 8]
        layer K = Conv(4 => 3, 3; pad = 1)
        state x[4, 8, 8] ~ relu(K'*u)
        output y = K*x
    """,
    "a layer and its transpose": """
        input u[6]
        layer W = Dense(6 => 4)
        state x[4] ~ relu(W*u)
        output y = W'*x
    """,
    "tokens": """
        input t[5] in Tokens(9)
        layer E = Embedding(9, 4)
        state x[5, 4] ~ tanh(E(t))
        output y = E'*x
    """,
    "averages, shared out again": """
        input u[3, 6, 6]
        layer P = AvgPool(2), G = GlobalAvgPool(), Q = AdaptiveAvgPool(2)
        state x[3, 3, 3] ~ tanh(P*u), g[3] ~ tanh(G*u), q[3, 2, 2] ~ tanh(Q*u)
        output y = P'*x + G'*g + Q'*q
    """,
    "constant layers, turned": """
        input u[3, 6, 6]
        layer U = Upsample(2), P = Pad(1), S = Scale(; axis = 2)
        state x[3, 12, 12] ~ tanh(U*u), p[3, 8, 8] ~ tanh(P*u), s[3, 6, 6] ~ tanh(S*u)
        output y = U'*x + P'*p + S'*s
    """,
    "matrices behind each other": """
        input u[6]
        param V[4, 6], W[5, 4], g[]
        output y[3] = Dense(3)*(g*(W*(V*u)))
    """,
    "a layer of a normalisation, twice": """
        input u[4, 6]
        layer n = LayerNorm()
        state h[4, 6] ~ n(u), g[4, 6] ~ n(Dense(6)*h + h)
        output y = flatten(g + h)
    """,
    "attention": """
        input u[8, 4]
        state a[8, 4] ~ attend(Dense(4)*u, Dense(4)*u, u; causal = true, heads = 2)
        output y[2] = Dense(2)*flatten(a)
    """,
    "sums over axes": """
        input u[3, 4, 5]
        output y = mean(u), z = sum(sum(u; dim = 1); dim = 2), w = mean(reverse(u; dim = 2); dim = 1)
    """,
    "a function": """
        input u[6]
        f(z) = 0.5*z + max(z, 0.2*z) .* σ(-2*z) - min(z, 1) .* z .^ 2
        plateau(x) = tanh(x .* x .* x)
        @lipschitz plateau <= 3
        state x[6] ~ plateau(f(Dense(6)*u)), z[6] ~ (v -> sqrt(1 + v .^ 2) - exp(-abs(v)))(x)
        output y = z
    """,
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_what_operators_make_together_is_written_back(name: str, share: float) -> None:
    model = compiled(f"model M\n{OTHERS[name]}\nend\n")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_().masked_fill_(torch.rand(parameter.shape) < share, 0.0)
    _, made = again(model)
    assert_same(model, made, drawn(model))


def test_a_layer_of_a_transformer_is_written_as_it_was() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, dropout=0.0)
    taken = implicit_dsl.from_torch(layer.eval(), (torch.randn(2, 5, 8),))
    model = taken.model.double()
    found, made = again(model)
    assert_same(model, made, drawn(model))
    for text in ("attend(", "heads = 2", "LayerNorm()"):
        assert text in found.source
    assert found.weights[0] == found.weights[1]


def test_bounds_are_those_that_the_module_measures() -> None:
    """The matrices of kernels, down and up again, have a smaller root than what their channels say."""
    model = implicit_dsl.load(EXAMPLE_FILES / "multiscale_deq.impl").MultiscaleDEQ(dtype=torch.float64).eval()
    found, made = again(model)
    assert "@wellposed" in found.source and "unchecked" not in found.source
    assert_same(model, made, drawn(model))


LENET = """
model Net
    input u[1, 10, 10]
    layer K1 = Conv(1 => 4, 3), K2 = Conv(4 => 6, 3; pad = 1)
    state c1[4, 8, 8] ~ tanh(K1*u)
    state s2[4, 4, 4] ~ MaxPool(2)(c1)
    state c3[6, 4, 4] ~ relu(K2*s2)
    s4 = AvgPool(2)*c3
    state f5[12] ~ relu(Dense(12)*flatten(s4))
    output y[3] = Dense(3)*f5 + Dense(3)*flatten(c1)
end
"""
LOOP = """
model Loop(n = 8)
    input u[4]
    param A[n, n], B[n, 4], C[2, n], b[n]
    state x[n] ~ tanh(A*x + B*u + b)
    output y[2] = C*x
    @wellposed norm(A, Inf) <= 0.9
    @solver newton(tol = 1e-12)
end
"""


def compiled(text: str) -> nn.Module:
    torch.manual_seed(0)
    module = implicit_dsl.loads(text)
    model: nn.Module = getattr(module, module.__all__[0])(dtype=torch.float64).eval()
    return model


def test_channels_and_units_that_do_not_matter_are_gone() -> None:
    model = compiled(LENET)
    with torch.no_grad():
        model.K2.weight[[1, 4]] = 0.0  # type: ignore[union-attr]
        model.K2.bias[[1, 4]] = 0.0  # type: ignore[union-attr]
        model.f5_dense.weight[[0, 3, 7]] = 0.0  # type: ignore[union-attr]
        model.f5_dense.bias[[0, 3, 7]] = 0.0  # type: ignore[union-attr]
    u = torch.randn(4, 1, 10, 10, dtype=torch.float64)
    found, made = again(model)

    assert "c3[4, 4, 4]" in found.source and "f5[9]" in found.source and "c1[4, 8, 8]" in found.source
    assert ("c3", (6, 4, 4), (4, 4, 4)) in found.states and found.weights[1] < found.weights[0]
    assert_same(model, made, (u,))


def test_blocks_that_are_zero_are_not_written() -> None:
    model = compiled(LENET)
    with torch.no_grad():
        model.y_dense2.weight.zero_()  # type: ignore[union-attr]
        model.y_dense2.bias.zero_()  # type: ignore[union-attr]
    found, made = again(model)
    assert "flatten(c1)" not in found.source
    assert_same(model, made, (torch.randn(4, 1, 10, 10, dtype=torch.float64),))
    with torch.no_grad():
        model.y_dense.weight.zero_()  # type: ignore[union-attr]
    found, made = again(model)
    assert "state" not in found.source and all(after is None for _, _, after in found.states)
    assert_same(model, made, (torch.randn(4, 1, 10, 10, dtype=torch.float64),))


def test_loops_stay_loops_and_are_proved_again() -> None:
    model = compiled(LOOP)
    with torch.no_grad():
        model.A.masked_fill_(torch.rand(8, 8) < 0.7, 0.0)  # type: ignore[operator]
        model.C[:, 5] = 0.0  # type: ignore[index]
        model.A[:, 5] = 0.0  # type: ignore[index]
    found, made = again(model)
    assert "in Sparse([" in found.source and "x[7]" in found.source and found.source.count("@wellposed") == 1
    assert made.certify().proved  # type: ignore[operator]
    for mine, theirs in zip(model.system().solve(torch.eye(4)), made.system().solve(torch.eye(4))):  # type: ignore[operator]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("act", "size", "bound"),
    [
        ("σ", 3.0, "norm(system.A, Inf) <="),  # slopes up to 1/4, so that the rows may sum up to 4
        ("tanh", 0.9, "norm(system.A, Inf) <="),
        ("softmax", 1.5, "norm(system.A, Inf) <="),
        ("softmax", 30.0, "unchecked"),
        ("tanh", 1.5, "unchecked"),
    ],
)
def test_bounds_are_of_the_matrix_and_not_of_what_activations_make_of_it(
    act: str, size: float, bound: str
) -> None:
    source = f"""model M
    input u[3]
    param A[4, 4], B[4, 3]
    state x[4] ~ {act}(A*x + B*u)
    output y = x
    @wellposed unchecked
end"""
    torch.manual_seed(0)
    model = implicit_dsl.loads(source).M(dtype=torch.float64).eval()
    with torch.no_grad():
        model.A.mul_(size / model.A.abs().sum(1, keepdim=True))
    found, made = again(model)
    assert f"@wellposed {bound}" in found.source
    assert_same(model, made, (torch.randn(5, 3, dtype=torch.float64),))


def test_a_bound_of_the_perron_root_holds_where_slopes_are_small() -> None:
    """Three states around a circle, one of them a σ: the root of |A| is not that of its slopes times |A|."""
    model = implicit_dsl.loads("""model M
    input u[2]
    param V[3, 3], W[3, 3], P[3, 3], B[3, 2]
    state x[3], z[3], w[3]
    x ~ relu(V*w + B*u)
    z ~ tanh(W*x)
    w ~ σ(P*z)
    output y = z
    @wellposed spectral(abs(system.A)) <= 0.9
end""").M(dtype=torch.float64)
    with torch.no_grad():
        model.P.mul_(30)
    model.project_()
    found, made = again(model.eval())
    assert "@wellposed spectral(abs(system.A)) <= 0.9" in found.source
    assert_same(model, made, (torch.randn(5, 2, dtype=torch.float64),))


def test_what_is_not_written_back_is_named() -> None:
    recurrent = """
    model R
        input u[_, 2]
        recurrent v over u
            state h[3] = 0
            h ~ tanh(Dense(3)*prev(h) + Dense(3)*v)
        end
        output y = last(h)
    end
    """
    with pytest.raises(CannotWrite, match="recurrent"):
        discover(compiled(recurrent))
    with pytest.raises(TypeError, match="Linear"):
        discover(nn.Linear(2, 2))


@pytest.mark.parametrize("ending", [".pt", ".safetensors", ".npz"])
def test_the_command_writes_the_program_and_its_weights(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = compiled(LENET).float()
    with torch.no_grad():
        model.K2.weight[[1, 4]] *= 1e-4  # type: ignore[union-attr]
        model.K2.bias[[1, 4]] = 0.0  # type: ignore[union-attr]
    Path("net.impl").write_text(LENET)
    state = model.state_dict()
    if ending == ".pt":
        torch.save(state, "w.pt")
    elif ending == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, "w.safetensors")
    else:
        np.savez("w.npz", **{name: value.numpy() for name, value in state.items()})

    assert main(["discover", "net.impl", "--weights", f"w{ending}", "--tolerance", "1e-3"]) == 0

    said = capsys.readouterr().out
    assert "c3 [6, 4, 4] -> [4, 4, 4]" in said and "wrote net_discovered.impl" in said
    assert (
        main(["check", "net_discovered.impl"]) == 0 and main(["fmt", "--check", "net_discovered.impl"]) == 0
    )
    capsys.readouterr()
    assert main(["matrices", "net_discovered.impl", "--weights", f"net_discovered{ending}"]) == 0
    small = implicit_dsl.load("net_discovered.impl").NetDiscovered()
    if ending == ".pt":
        small.load_state_dict(torch.load("net_discovered.pt", weights_only=True))
        u = torch.randn(4, 1, 10, 10)
        torch.testing.assert_close(small(u), model(u), rtol=0, atol=1e-2)


def test_wrong_calls_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.impl").write_text(LENET)
    torch.save({"other": torch.zeros(2)}, "w.pt")
    assert main(["discover", "net.impl", "--weights", "w.pt"]) == 1
    assert main(["discover", "net.impl"]) == 2
    torch.save(compiled(LENET).state_dict(), "w.pt")
    assert main(["discover", "net.impl", "--weights", "w.pt", "--tolerance", "-1"]) == 2
    assert main(["discover", "net.impl", "--weights", "w.pt", "-o", "x.txt"]) == 2
    capsys.readouterr()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.impl", "w.pt"]


ROUGH = """
model Rough
    input u[4]
    param A[6, 6]
    state x[6] ~ tanh(A*x + Dense(6)*u)
    output y = x
    @wellposed unchecked
    @solver anderson(tol = 0.1, maxiter = 3, on_failure = "warn")
end
"""


def test_loops_are_compared_more_closely_than_they_are_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.impl").write_text(ROUGH)
    model = compiled(ROUGH)
    with torch.no_grad():
        cast(Any, model).A.normal_(std=0.3)
    torch.save(model.state_dict(), "w.pt")
    assert main(["discover", "net.impl", "--weights", "w.pt"]) == 0
    assert "wrote net_discovered.impl" in capsys.readouterr().out


def test_free_sizes_are_those_that_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no bound can be kept of the loop, whose kernels reach as far as the sequence."""
    monkeypatch.chdir(tmp_path)
    for name in ("DEQSequence", "TrellisDEQ"):
        made = getattr(implicit_dsl.load(EXAMPLE_FILES / "deq_sequence.impl"), name)()
        torch.save(made.state_dict(), "w.pt")
        words = ["discover", str(EXAMPLE_FILES / "deq_sequence.impl"), "--model", name, "--weights", "w.pt"]
        assert main([*words, "--size", "t=8", "-o", f"{name}.impl"]) == 0
        assert "wellposed" in Path(f"{name}.impl").read_text()
        assert main([*words, "--size", "t=8,2", "-o", "x.impl"]) == 2
        assert "`t` has shape [_], which [8, 2] does not fit" in capsys.readouterr().err


def test_steps_are_refused_before_a_length_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["discover", str(EXAMPLE_FILES / "elman.impl"), "--model", "ElmanNet", "--weights", "none.pt"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "step by step (`recurrent`, `ode`) is not written back" in said and "`--length" not in said


def test_without_an_equilibrium_nothing_is_compared_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = ROUGH.replace("tanh(A*x +", "exp(A*x + 1 +").replace("    @solver", "    # @solver")
    Path("net.impl").write_text(text)
    model = compiled(text)
    with torch.no_grad():
        cast(Any, model).A.copy_(torch.eye(6))  # exp(x + 1) is above x
    torch.save(model.state_dict(), "w.pt")
    assert main(["discover", "net.impl", "--weights", "w.pt"]) == 1
    assert "no equilibrium is found on random inputs" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.impl", "w.pt"]


def test_values_that_are_constant_are_no_parameters() -> None:
    text = """
    model M
        input u[1, 4]
        s = Dense(4)*relu(Dense(4)*u)
        state x[1, 3] ~ tanh(Dense(3)*s)
        output y[1, 3] = x
    end
    """
    model = compiled(text)
    with torch.no_grad():
        model.s_dense.weight.zero_()  # type: ignore[union-attr]
        model.s_dense2.weight.zero_()  # type: ignore[union-attr]
    _, made = again(model)
    assert_same(model, made, (torch.randn(4, 1, 4, dtype=torch.float64),))
