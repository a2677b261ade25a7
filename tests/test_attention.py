"""Attention with masks, as graph, matrices and generated code, against a twin written by other means."""

from __future__ import annotations

import types
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.source import Source


def generated(text: str) -> types.ModuleType:
    module = types.ModuleType("generated")
    exec(compile(implicit_dsl.compile(text), "generated.py", "exec"), module.__dict__)
    return module


def by_definition(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, heads: int) -> Tensor:
    """Sums over the keys that each query may see [batch, t, s], with no key: zeros."""
    made = []
    for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
        weights = torch.exp(a @ b.mT / a.shape[-1] ** 0.5) * seen
        total = weights.sum(-1, keepdim=True)
        made.append(torch.where(total > 0, weights / torch.where(total > 0, total, 1.0), 0.0) @ c)
    return torch.cat(made, -1)


PADDED = """
model M(heads = 2, causal = false)
    input q[_, 4], k[size(q, 1), 4], v[size(q, 1), 6], m[size(q, 1)]
    output y = attend(q, k, v; heads = heads, causal = causal, mask = m)
end
"""
MASKS = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 0, 1, 1]])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float64])
def test_a_padding_mask_leaves_keys_out(causal: bool, heads: int, dtype: torch.dtype) -> None:
    text = PADDED.replace("heads = 2", f"heads = {heads}").replace(
        "causal = false", f"causal = {causal}".lower()
    )
    model, m = generated(text).M(), MASKS.to(dtype)
    q, k, v = (torch.randn(4, 5, n, dtype=torch.float64, requires_grad=True) for n in (4, 4, 6))
    seen = (MASKS != 0)[:, None].expand(4, 5, 5)
    expected = by_definition(q, k, v, seen.tril() if causal else seen, heads)
    g = torch.randn_like(expected)

    made = model(q, k, v, m)

    torch.testing.assert_close(made, expected)
    assert not made[2].any()
    pulled, pulled_expected = (torch.autograd.grad(y, (q, k, v), g) for y in (made, expected))
    torch.testing.assert_close(pulled, pulled_expected)
    given = m.double() if dtype == torch.int64 else m
    system = model.system(q=(5, 4))
    torch.testing.assert_close(system.solve(q, k, v, given), expected)


@pytest.mark.parametrize("heads", [1, 2])
def test_a_mask_of_pairs_and_cross_attention(heads: int) -> None:
    text = f"""
    model M
        input x[3, 4], memory[5, 4], pairs[3, 5]
        output y = attend(x, memory, Dense(6)*memory; heads = {heads}, mask = pairs)
    end
    """
    model = generated(text).M().double()
    x, memory = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 4).double()
    pairs = torch.rand(2, 3, 5) > 0.5
    pairs[0, 1] = False
    expected = by_definition(x, memory, model.y_dense(memory), pairs, heads)

    torch.testing.assert_close(model(x, memory, pairs), expected)
    torch.testing.assert_close(model.system().solve(x, memory, pairs), expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_onnx_gives_zeros_to_a_query_without_keys(
    causal: bool, heads: int, masked: bool, tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    text = PADDED.replace("heads = 2, causal = false", f"heads = {heads}, causal = {causal}".lower())
    given = (torch.randn(4, 5, 4), torch.randn(4, 5, 4), torch.randn(4, 5, 6), MASKS.float())
    if not masked:
        text, given = text.replace(", m[size(q, 1)]", "").replace(", mask = m", ""), given[:3]
    model = generated(text).M().eval()
    path = str(tmp_path / "model.onnx")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, given, path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    (made,) = session.run(None, {name: value.numpy() for name, value in zip(names, given)})

    torch.testing.assert_close(torch.from_numpy(made), model(*given), atol=1e-5, rtol=1e-5)
    assert made[2].any() != masked


def test_inputs_that_share_a_free_size_are_checked() -> None:
    model = generated(PADDED).M()
    q, k, v = (torch.randn(1, 5, n) for n in (4, 4, 6))

    with pytest.raises(ValueError, match="axis 1 of `m` is 4, but axis 1 of `q` is 5"):
        model(q, k, v, torch.ones(1, 4))
    with pytest.raises(ValueError, match="does not fit other inputs"):
        model.system(q=(5, 4), m=(4,))


LOOP = """
model M(d = 4)
    input u[3, d], m[3]
    layer W = Dense(d; bias = false)
    state z[3, d] ~ tanh(W*attend(z, z, z; mask = m) + u)
    output y = z
    @wellposed unchecked
    @wellposed norm(W, Inf) <= 0.1
end
"""


def test_a_loop_through_masked_attention_is_solved_differentiated_and_certified() -> None:
    model = generated(LOOP).M().double()
    u, m = torch.randn(4, 3, 4, dtype=torch.float64, requires_grad=True), torch.rand(4, 3) > 0.4
    y = model(u, m)
    y.sum().backward()
    gradients = model.system().parameter_gradients((u.detach(), m), torch.ones_like(y))

    torch.testing.assert_close(model.system().solve(u, m), y.detach(), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(
        torch.from_numpy(gradients["W.weight"]), model.W.weight.grad, rtol=1e-8, atol=1e-8
    )
    assert model.certify().proved  # the mask stays as it is during a solve


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("attend(x, x, x; mask = x)", "a mask has one number for each key"),
        ("attend(x, x, x; mask = 1)", "a value of the network is needed here"),
        ("attend(; mask = m)(x, x, x)", "`mask` is given where `attend` is applied"),
        ("attend(x, x, x, m)", "`attend` takes 3 arguments"),
        ("attend(x, x, x; masks = m)", "`attend` has no argument `masks`"),
    ],
)
def test_wrong_masks_are_explained(call: str, says: str) -> None:
    found = check(Source(f"model M\ninput x[3, 4], m[3]\noutput y = {call}, z = m\nend\n")).diagnostics

    assert says in found[0].message


def test_settings_may_come_before_the_mask() -> None:
    text = "model M\ninput x[3, 4], m[3]\natt = attend(; heads = 2)\noutput y = att(x, x, x; mask = m)\nend\n"
    x, m = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [0, 1, 1]])
    parts = torch.unflatten(x, -1, (2, -1)).transpose(1, 2)
    expected = F.scaled_dot_product_attention(parts, parts, parts, attn_mask=(m != 0)[:, None, None])

    torch.testing.assert_close(generated(text).M()(x, m), expected.transpose(1, 2).flatten(2))
