"""The transpose `K'` of each layer that has one: the adjoint of what PyTorch computes, and in matrix form."""

from __future__ import annotations

import types
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.errors import ImplicitError
from implicit_dsl.source import Source

torch.set_num_threads(1)

Weights = dict[str, Tensor]

LAYERS: dict[str, tuple[str, tuple[int, ...], Callable[[Tensor, Weights], Tensor]]] = {
    "average": (
        "AvgPool(2)",
        (3, 5, 4),
        lambda x, w: F.avg_pool2d(x, 2),
    ),
    "overlapping average": (
        "AvgPool([3, 2]; stride = [2, 1], pad = 1)",
        (2, 6, 4),
        lambda x, w: F.avg_pool2d(x, (3, 2), (2, 1), 1),
    ),
    "average of a volume": ("AvgPool(2)", (1, 4, 3, 2), lambda x, w: F.avg_pool3d(x, 2)),
    "average of all": ("GlobalAvgPool()", (3, 5, 4), lambda x, w: x.mean((-1, -2))),
    "averages to a size": (
        "AdaptiveAvgPool([2, 3])",
        (2, 5, 4),
        lambda x, w: F.adaptive_avg_pool2d(x, (2, 3)),
    ),
    "repeated": (
        "Upsample([3, 2])",
        (2, 5, 4),
        lambda x, w: x.repeat_interleave(3, 2).repeat_interleave(2, 3),
    ),
    "interpolated": (
        'Upsample(2; mode = "bilinear")',
        (2, 3, 4),
        lambda x, w: F.interpolate(x, scale_factor=2, mode="bilinear"),
    ),
    "interpolated between corners": (
        'Upsample(3; mode = "linear", align_corners = true)',
        (2, 4),
        lambda x, w: F.interpolate(x, scale_factor=3, mode="linear", align_corners=True),
    ),
    "padded": ("Pad([1, 0]; after = 2)", (2, 3, 4), lambda x, w: F.pad(x, (0, 2, 1, 2))),
    "scaled": ("Scale()", (2, 3), lambda x, w: x * w["K"][:, None]),
    **{
        f"padded, {mode}": (
            f'Pad([2, 1]; after = 1, mode = "{mode}")',
            (2, 3, 4),
            lambda x, w, mode=mode: F.pad(x, (1, 1, 2, 1), mode),
        )
        for mode in ("reflect", "circular", "replicate")
    },
    **{
        f"convolution, {mode}": (
            f'Conv(4, 3; stride = [2, 1], pad = [1, 2], groups = 2, mode = "{mode}", bias = false)',
            (2, 6, 4),
            lambda x, w, mode=mode: F.conv2d(
                F.pad(x, (2, 2, 1, 1), mode), w["K.weight"], stride=(2, 1), groups=2
            ),
        )
        for mode in ("reflect", "circular", "replicate")
    },
    **{
        f"convolution, same, {mode}": (
            f'Conv(3, 4; pad = "same", mode = "{mode}")',
            (2, 6),
            lambda x, w, mode=mode: F.conv1d(F.pad(x, (1, 2), mode), w["K.weight"]),
        )
        for mode in ("reflect", "circular", "replicate")
    },
    "each channel": (
        'DepthwiseConv(3; pad = 1, mode = "circular")',
        (2, 6, 4),
        lambda x, w: F.conv2d(F.pad(x, (1, 1, 1, 1), "circular"), w["K.weight"], groups=2),
    ),
}


def generated(text: str, standalone: bool = False) -> types.ModuleType:
    module = types.ModuleType("generated")
    exec(compile(implicit_dsl.compile(text, standalone=standalone), "generated.py", "exec"), module.__dict__)
    return module


def without_bias(layer: str) -> bool:
    return "Conv" not in layer or "bias = false" in layer


def test_what_is_transposed_twice_has_no_bias() -> None:
    text = "model M\ninput u[4]\nlayer K = Dense(4)\nparam W[4, 4]\noutput y = {}\nend\n"
    for twice in ("K''*u", "(K'*W)'*u", "(K' + W)'*u"):
        with pytest.raises(ImplicitError, match=r"E0207.*a transpose has no bias"):
            implicit_dsl.compile(text.format(twice))
        without = generated(text.format(twice).replace("Dense(4)", "Dense(4; bias = false)")).M()
        assert not without(torch.zeros(1, 4)).any()


def size_of(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


@pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_transpose_of_a_layer_is_its_adjoint(name: str, standalone: bool) -> None:
    """⟨K'y, x⟩ = ⟨y, K x⟩: what autograd makes of the function that PyTorch has."""
    layer, source, function = LAYERS[name]
    x = torch.randn(3, *source, dtype=torch.float64, requires_grad=True)
    first = generated(f"model M\ninput u{size_of(source)}\nlayer K = {layer}\noutput y = K*u\nend\n").M()
    target = tuple(first.double()(x).shape[1:])
    text = f"""model M
    input u{size_of(source)}, v{size_of(target)}
    layer K = {layer}
    h = K*u
    output y = K' * v, both = tanh(K' * h)
    {"output z = K'' * u - h" if without_bias(layer) else ""}
end
"""
    module = generated(text, standalone).M(dtype=torch.float64).eval()
    with torch.no_grad():
        for tensor in module.parameters():
            tensor.normal_()
    weights = dict(module.named_parameters())
    y = torch.randn(3, *target, dtype=torch.float64, requires_grad=True)
    bias = weights.get("K.bias")
    offset = 0.0 if bias is None else bias.reshape(-1, *(1,) * (len(target) - 1))

    found = module(x, y)
    linear = function(x, weights)
    (expected,) = torch.autograd.grad(linear, x, y, create_graph=True)

    torch.testing.assert_close(found.y, expected, rtol=1e-12, atol=1e-12)
    (both,) = torch.autograd.grad(linear, x, linear + offset, create_graph=True)
    torch.testing.assert_close(found.both, torch.tanh(both), rtol=1e-12, atol=1e-12)
    if without_bias(layer):
        torch.testing.assert_close(found.z, torch.zeros_like(found.z), rtol=1e-12, atol=1e-12)
    if not standalone:
        for one, other in zip(module.system().solve(x, y), found):
            torch.testing.assert_close(one, other)
        assert torch.autograd.gradcheck(lambda v: module(x, v).y, (y,))


@pytest.mark.parametrize(
    "layer",
    [
        'Conv(2, 3; pad = 1, mode = "circular", bias = false)',
        'Conv(2, 4; pad = "same", mode = "reflect", bias = false)',
        'Conv(2, 3; pad = 1, stride = 2, mode = "replicate", bias = false)',
    ],
)
def test_a_loop_through_a_transpose_keeps_its_bound(layer: str) -> None:
    text = f"""model M
    input u[2, 6, 5]
    layer K = {layer}
    state x[2, 6, 5] ~ tanh(K' * relu(K*x) + u)
    output y = x
    @wellposed norm(A, Inf) <= 0.9
end
"""
    module = generated(text).M(dtype=torch.float64).eval()
    with torch.no_grad():
        module.K.weight.normal_()
        module.project_()
        u = torch.randn(2, 2, 6, 5, dtype=torch.float64)
        x = module(u)
        torch.testing.assert_close(module.system().solve(u), x)
    A = module.system().A.to_numpy()
    assert np.abs(np.linalg.eigvals(np.abs(A))).max() <= 0.9**0.5
    assert "circular" not in layer or module.certify()["x"].proof is not None


def test_transposes_along_free_axes() -> None:
    text = """model M
    input u[2, _, _]
    layer K = Conv(3, 4; pad = "same", mode = "circular", bias = false), A = AvgPool(3; stride = 1, pad = 1)
    layer P = Pad(1; mode = "reflect"), Z = Pad(2)
    output y = K' * (K*u), a = A' * u, p = P' * (P*u), z = Z' * (Z*u)
end
"""
    module = generated(text).M(dtype=torch.float64).eval()
    for sizes in ((5, 4), (3, 7)):
        u = torch.randn(2, 2, *sizes, dtype=torch.float64, requires_grad=True)
        found = module(u)
        linear = F.conv2d(F.pad(u, (1, 2, 1, 2), "circular"), module.K.weight)
        torch.testing.assert_close(found.y, torch.autograd.grad(linear, u, linear)[0])
        torch.testing.assert_close(found.a, torch.autograd.grad(F.avg_pool2d(u, 3, 1, 1), u, u.detach())[0])
        padded = F.pad(u, (1, 1, 1, 1), "reflect")
        torch.testing.assert_close(found.p, torch.autograd.grad(padded, u, padded)[0])
        torch.testing.assert_close(found.z, u)
        for one, other in zip(module.system(u=tuple(u.shape[1:])).solve(u), found):
            torch.testing.assert_close(one, other)


def test_an_embedding_and_its_transpose_are_tied() -> None:
    text = """model M
    input t[_] in Tokens(7)
    layer E = Embedding(7, 4), W = Dense(4)
    output logits = E' * tanh(W * E(t))
end
"""
    module = generated(text).M(dtype=torch.float64).eval()
    assert set(module.state_dict()) == {"E.weight", "W.weight", "W.bias"}
    t = torch.randint(7, (3, 5))
    expected = torch.tanh(module.W(module.E(t))) @ module.E.weight.T
    torch.testing.assert_close(module(t), expected)
    torch.testing.assert_close(module.system(t=(5,)).solve(t), expected)


@pytest.mark.parametrize(
    ("layer", "shape", "code", "help"),
    [
        ("BatchNorm()", "[4, 3]", "E0900", "`Scale()`"),
        ("Dropout()", "[4, 3]", "E0900", "`Dropout` of its own"),
        ("Upsample(2)", "[4, 3]", "E0201", ""),
        ("Pad(2)", "[4, 3]", "E0201", ""),
        ('Pad(2; mode = "reflect")', "[4, 6]", "E0201", ""),
        ("Conv(2 => 4, 3; pad = 4)", "[4, 1]", "E0201", ""),
        ("AvgPool(2; stride = 1, pad = 1)", "[4, 1]", "E0201", ""),
        ("AvgPool(2)", "[4, 3]", "E0201", "in a line before"),
        ("GlobalAvgPool()", "[4]", "E0201", "in a line before"),
        ("Embedding(5, 3)", "[4, 2]", "E0201", ""),
        ("MaxPool(2)", "[4, 3]", "E0307", ""),
    ],
)
def test_what_has_no_transpose_says_what_to_write(layer: str, shape: str, code: str, help: str) -> None:
    (found,) = check(
        Source(f"model M\ninput u{shape}\nlayer K = {layer}\noutput y = K' * u\nend\n")
    ).diagnostics
    assert found.code == code
    assert help in (found.help or "")
