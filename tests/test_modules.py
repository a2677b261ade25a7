"""Generated modules among the tools of PyTorch."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

import implicit_dsl
from implicit_dsl.compiler import compile, read_source
from implicit_dsl.runtime import convolution

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_state_dict_keys_follow_the_names_in_the_source() -> None:
    program = """block Cell(n)
    input x[_]
    param W[n, n]
    output y = tanh(W*x + Dense(n)*x)
end
model Net()
    input u[4]
    layer K = Dense(4), T[i in 1:2] = Dense(4)
    param b[4] = ones(), κ[4, 4]
    layer cell = Cell(4)
    h[1] ~ relu(K*u + b)
    h[2] ~ relu(T[1]*h[1] + T[2]*(κ*h[1]) + Dense(4)*h[1] + Dense(4)*u)
    output y = cell(cell(h[2]))
end
"""
    keys = list(implicit_dsl.loads(program).Net().state_dict())

    weights = {key.removesuffix(".weight") for key in keys if not key.endswith(".bias")}
    assert {"K", "T_1", "T_2", "b", "kappa", "h_2_dense", "h_2_dense2", "cell_W", "cell_dense"} == weights


def test_initialisers_start_parameters_as_they_say() -> None:
    program = """model Net()
    input u[400]
    param A[400, 400] = zeros(), B[400, 400] = ones(), C[400, 400] = constant(0.25), D[400, 400] = normal(0.1)
    param E[400, 400] = uniform(0.1), F1[400, 400] = glorot(), G[400, 400] = kaiming()
    param H[400, 400] = orthogonal(), I1[400, 400], c[400]
    output y = (A + B + C + D + E + F1 + G + H + I1)*u + c
end
"""
    torch.manual_seed(0)
    net = implicit_dsl.loads(program).Net()
    assert not net.A.any() and bool((net.B == 1).all()) and bool((net.C == 0.25).all()) and not net.c.any()
    assert 0.098 < net.D.std().item() < 0.102
    assert 0.099 < net.E.abs().max().item() <= 0.1
    assert 0.085 < net.F1.abs().max().item() <= (6 / 800) ** 0.5 + 1e-6
    for bounded in (net.G, net.I1):
        assert 0.0499 < bounded.abs().max().item() <= 0.05
    torch.testing.assert_close(torch.eye(400), net.H @ net.H.T, atol=1e-4, rtol=0)
    before = net.D.clone()
    net.reset_parameters()
    assert not torch.equal(before, net.D)


def test_compile_time_parameters_change_the_module() -> None:
    source = read_source(str(EXAMPLES / "lenet5.impl"), "lenet5.impl")
    assert "84, 100" in compile(source, parameters={"classes": 100})
    assert "[7, 5]" in compile(
        read_source(str(EXAMPLES / "mlp.impl")), parameters={"widths": "[7, 5]"}, model="MLP"
    )


def test_an_activation_may_get_its_settings_before_it_is_applied() -> None:
    program = "model Net()\n input u[5]\n phi = leaky_relu(slope = 0.2)\n output y = u |> phi |> phi\nend\n"
    u = torch.randn(3, 5)

    expected = torch.nn.functional.leaky_relu(torch.nn.functional.leaky_relu(u, 0.2), 0.2)
    assert torch.equal(expected, implicit_dsl.loads(program).Net()(u))


@pytest.mark.parametrize(
    "body",
    [
        "h = relu(Conv(4, 5)*u)\noutput y = MaxPool(2)(h), z = h",
        "layer K = Conv(4, 5)\noutput y = relu(K*u) |> MaxPool(2), z = tanh(K*u)",
        "layer K = Conv(4, 5)\noutput y = relu(K*u) |> MaxPool(2), z = relu(K(-u)) |> MaxPool(2)",
        "h = relu(Conv(4, 5)*u + Conv(4, 5)*u)\noutput y = MaxPool(2)(h), z = relu(MaxPool(2)(Conv(3, 3)*u))",
        "output y = MaxPool(2; stride = 1)(relu(Conv(4, 5)*u)), z = relu(MaxPool(3)(Conv(4, 5)*u))",
        "output y = u |> Conv(4, 5; stride = 2) |> relu |> MaxPool(2), z = u |> relu |> MaxPool(2)",
        "state b[4] ~ tanh(Dense(4)*a)\nstate a[4] ~ tanh(Dense(4)*flatten(u))\noutput y = b, z = a",
    ],
)
def test_faster_paths_are_taken_only_where_they_compute_the_same(
    body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_MANY", "_MANY_FOR_GRADIENT", "_MANY_FOR_CORNERS", "_MANY_IMAGES"):
        monkeypatch.setattr(convolution, name, 0)
    lines = "\n    ".join(body.split("\n"))
    net = implicit_dsl.loads(f"model Net()\n    input u[2, 12, 12]\n    {lines}\nend\n").Net(
        dtype=torch.float64
    )
    u = torch.randn(3, 2, 12, 12, dtype=torch.float64)
    solved = net.system().solve(u)
    with torch.no_grad():
        inferred = net(u)
    for one, other, third in zip(solved, inferred, net(u)):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one, third, rtol=1e-12, atol=1e-12)


def test_the_tuple_of_several_outputs_gives_way_to_a_model_of_its_name() -> None:
    module = implicit_dsl.loads("""
model NetOutput
    input u[2]
    output y = 3*u
end
model Net
    input u[2]
    output y = u, z = 2*u
end
""")
    u = torch.ones(1, 2)

    assert torch.equal(module.NetOutput()(u), 3 * u)
    assert torch.equal(module.Net()(u).z, 2 * u) and isinstance(module.Net()(u), module.NetOutput_)


@pytest.mark.parametrize(
    "body",
    [
        "output y = relu(u)",  # the input belongs to the caller
        "h = Conv(2, 3; pad = 1)*u\noutput y = relu(h) + h",  # read twice
        "h = Conv(2, 3; pad = 1)*u\noutput y = relu(h), z = tanh(h)",
        "a = relu(Conv(2, 3; pad = 1)*u)\noutput y = relu(flatten(a)), z = tanh(a)",  # a view of what is read
        "a = tanh(Conv(2, 3; pad = 1)*u)\noutput y = relu(a)",  # whose gradient needs it
        "a = tanh(Conv(2, 3; pad = 1)*u)\noutput y = a |> Dropout(0.5) |> relu",  # itself, in evaluation mode
        "a = σ(u)\noutput y = relu(a - 0.5), z = relu(2*a), w = relu(a)",
        "a = tanh(u)\noutput y = relu(cat(a, u)), z = relu(cat(a)), w = a + u",
        "a = tanh(u)\noutput y = relu(a[1:1, :, :]), w = a",
        "h = BatchNorm()(Conv(2, 3; pad = 1)*u)\noutput y = relu(h), z = relu(AvgPool(2)(relu(h)))",
    ],
)
def test_activations_overwrite_only_what_nothing_else_reads(body: str) -> None:
    lines = "\n    ".join(body.split("\n"))
    net = implicit_dsl.loads(f"model Net()\n    input u[2, 4, 4]\n    {lines}\nend\n").Net(
        dtype=torch.float64
    )
    u = torch.randn(2, 2, 4, 4, dtype=torch.float64)
    before = u.clone()
    solved, found = net.eval().system().solve(u), net(u)
    for one, other in zip(*((part,) if isinstance(part, torch.Tensor) else part for part in (solved, found))):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert torch.equal(before, u)
    leaves = [u.requires_grad_(), *net.parameters()]
    torch.autograd.gradcheck(lambda *_: net(u), leaves, fast_mode=True)


def test_large_values_are_let_go_when_they_have_been_read() -> None:
    """Without gradients: of ten images at most three are there at a time."""
    layers = "\n".join(f"h[{i}] = tanh(Conv(8, 3; pad = 1)*h[{i - 1}])" for i in range(1, 11))
    net = implicit_dsl.loads(
        f"model Net()\ninput u[8, 32, 32]\nh[0] = u\n{layers}\noutput y = GlobalAvgPool()*h[10]\nend\n"
    ).Net()
    alive: list[weakref.ref[torch.Tensor]] = []
    most = 0

    def count(_: object, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal most
        alive.extend([weakref.ref(given[0]), weakref.ref(output)])
        most = max(most, len({id(found) for ref in alive if (found := ref()) is not None}))

    for layer in net.children():
        layer.register_forward_hook(count)
    with torch.no_grad():
        net(torch.randn(2, 8, 32, 32))
    assert len(alive) == 20 and most <= 3


def test_what_hooks_have_seen_is_not_overwritten() -> None:
    """The value of a layer belongs to its hooks, too: only what stands between layers is overwritten."""
    net = implicit_dsl.loads(
        "model Net()\ninput u[2, 4, 4]\nlayer K = Conv(2, 3; pad = 1)\noutput y = relu(K*u)\nend\n"
    ).Net()
    seen: list[torch.Tensor] = []
    net.K.register_forward_hook(lambda _, given, output: seen.extend((output, output.clone())))
    net.K.register_full_backward_hook(lambda *_: None)
    net(torch.randn(1, 2, 4, 4, requires_grad=True)).sum().backward()
    assert torch.equal(seen[0], seen[1])
