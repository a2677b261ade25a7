"""Sizes that are known only when the module is called: their arithmetic, and what works along them."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import implicit_dsl
from implicit_dsl.compiler import check
from implicit_dsl.emit.loops import size_text
from implicit_dsl.errors import ImplicitError
from implicit_dsl.shapes import Dim, Size, affine, bind, floor_affine
from implicit_dsl.source import Source

torch.set_num_threads(1)

steps = st.lists(st.tuples(st.integers(1, 4), st.integers(-5, 5), st.integers(1, 4)), max_size=5)


def generated(text: str, standalone: bool = False) -> types.ModuleType:
    module = types.ModuleType("generated")
    exec(compile(implicit_dsl.compile(text, standalone=standalone), "generated.py", "exec"), module.__dict__)
    return module


def made(taken: list[tuple[int, int, int]], start: Dim) -> Dim:
    for step in taken:
        start = affine(start, *step)
    return start


# --------------------------------------------------------------------------- arithmetic


@settings(max_examples=500, deadline=None)
@given(steps, st.integers(0, 50))
def test_a_size_is_what_its_steps_make_of_a_number(taken: list[tuple[int, int, int]], number: int) -> None:
    size = made(taken, Size("u", 0))
    assert isinstance(size, Size)
    expected = made(taken, number)

    assert bind((size,), {("u", 0): number}) == (expected,)
    assert eval(size_text(size, {"u": "u"}), {"u": torch.empty(number)[None]}) == expected


@settings(max_examples=500, deadline=None)
@given(steps, steps)
def test_equal_sizes_are_equal_numbers(
    one: list[tuple[int, int, int]], other: list[tuple[int, int, int]]
) -> None:
    """And the other way round where one floor is enough."""
    left, right = made(one, Size("u", 0)), made(other, Size("u", 0))
    assert isinstance(left, Size) and isinstance(right, Size)
    alike = all(made(one, number) == made(other, number) for number in range(-500, 500))

    if left == right:
        assert alike
    elif left.of is None and right.of is None:
        assert not alike


def test_what_comes_back_is_proved() -> None:
    s = Size("u", 0)
    assert affine(affine(s, 2, 0, 1), 1, 0, 2) == s  # 2 s ÷ 2
    assert affine(floor_affine(s, 0, 2), 2, 0, 1) != s  # not of an odd s
    assert floor_affine(floor_affine(s, -1, 2), 3, 2, 1) == floor_affine(s, 5, 4, 1)


# --------------------------------------------------------------------------- operators


BODY = """
    input u[3, _, _], v[2, _], s[3], fine[2, size(Upsample(2)*v, 2)]
    layer T = ConvTranspose(4, 3; stride = 2, pad = 1, output_pad = 1), K = Conv(3, 3; stride = 2, pad = 1)
    layer D = ConvTranspose(2, 2; stride = [2, 3], dilation = 2, bias = false)
    output a[3, _, _] = Upsample([2, 3])*u, b = Upsample(2; mode = "bilinear")*u, c = T * relu(K*u), d = D*u
    output e = Upsample(3; mode = "linear", align_corners = true) * v
    output f = AvgPool(2) * (Upsample(2)*u) + u, g = Upsample(2)*v + fine, h = u .* expand(s, u)
    output i = Upsample(2)' * (Upsample(2)*u) - 4*u, j = AdaptiveAvgPool(2) * (T' * (T * relu(K*u)))
    output k = K * (Pad(1) * (Upsample(2) * MaxPool(2)(u))), l = AvgPool(3; stride = 2, pad = 1) * u
    output m[1, _, _] = PixelShuffle(2) * cat(u, u[1:1, :, :]), n = AvgPool(2)*m + u[2:2, :, :]
"""


def twin(module: Any, u: Tensor, v: Tensor, s: Tensor, fine: Tensor) -> tuple[Tensor, ...]:
    K, T, D = module.K, module.T, module.D
    h = torch.relu(F.conv2d(u, K.weight, K.bias, 2, 1))
    c = F.conv_transpose2d(h, T.weight, T.bias, 2, 1, 1)
    cells = torch.stack([u[:, 0], u[:, 1], u[:, 2], u[:, 0]], -1).unflatten(-1, (2, 2))  # [b, h, w, 2, 2]
    shuffled = cells.transpose(2, 3).flatten(3).flatten(1, 2)[:, None]
    repeated = u.repeat_interleave(2, -1).repeat_interleave(2, -2)
    coarse = F.max_pool2d(u, 2).repeat_interleave(2, -1).repeat_interleave(2, -2)
    return (
        u.repeat_interleave(2, 2).repeat_interleave(3, 3),
        F.interpolate(u, scale_factor=2, mode="bilinear"),
        c,
        F.conv_transpose2d(u, D.weight, None, (2, 3), 0, 0, 1, 2),
        F.interpolate(v, scale_factor=3, mode="linear", align_corners=True),
        F.avg_pool2d(repeated, 2) + u,
        v.repeat_interleave(2, -1) + fine,
        u * s[..., None, None],
        torch.zeros_like(u),
        F.adaptive_avg_pool2d(F.conv2d(c, T.weight, None, 2, 1), 2),
        K(F.pad(coarse, (1, 1, 1, 1))),
        F.avg_pool2d(u, 3, 2, 1),
        shuffled,
        F.avg_pool2d(shuffled, 2) + u[:, 1:2],
    )


@pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
def test_operators_work_along_free_axes(standalone: bool) -> None:
    module = generated(f"model M\n{BODY}\nend\n", standalone).M(dtype=torch.float64).eval()
    for height, width, length in ((5, 4, 3), (8, 9, 4)):
        shapes = ((3, height, width), (2, length), (3,), (2, 2 * length))
        inputs = [torch.randn(2, *shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        found, expected = module(*inputs), twin(module, *inputs)
        for name, one, other in zip(found._fields, found, expected):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12, msg=name)
        if not standalone:
            given = dict(zip(("u", "v", "s", "fine"), shapes))
            for one, other in zip(module.system(**given).solve(*inputs), expected):
                torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match=r"axis 2 of `fine` is 7, but must be 8, as axis 2 of `v` is 4"):
        module(*inputs[:3], inputs[3][..., :7])


def test_squeeze_and_excitation_along_free_axes_in_a_loop() -> None:
    text = """import std.vision: SqueezeExcite
model M
    input u[4, _, _]
    layer K = Conv(4, 3; pad = 1, bias = false)
    state x[4, _, _] ~ tanh(K*x + 0.5*expand(tanh(GlobalAvgPool()(x)), x) + u)
    output y = SqueezeExcite(2)(x), z = x
    @wellposed norm(K, Inf) <= 0.4
    @solver auto(tol = 1e-13)
end
"""
    module = generated(text).M(dtype=torch.float64).eval()
    module.project_()
    for sizes in ((3, 5), (4, 2)):
        u = torch.randn(2, 4, *sizes, dtype=torch.float64)
        y, z = module(u)
        x = torch.zeros_like(u)
        for _ in range(300):
            x = torch.tanh(
                F.conv2d(x, module.K.weight, padding=1)
                + 0.5 * torch.tanh(x.mean((2, 3)))[..., None, None]
                + u
            )
        torch.testing.assert_close(z, x)
        for one, other in zip(module.system(u=(4, *sizes)).solve(u), (y, z)):
            torch.testing.assert_close(one, other)


# --------------------------------------------------------------------------- attention to another sequence


CROSS = """model M(d = 8)
    input x[_, d], memory[_, d], present[size(memory, 1)], pairs[size(x, 1), size(memory, 1)]
    layer q = Dense(d), k = Dense(d), v = Dense(6)
    output y = attend(q*x, k*memory, v*memory; heads = 2), z = attend(q*x, k*memory, memory; mask = present)
    output w = attend(x, memory, memory; heads = 4, mask = pairs)
end
"""


@pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
def test_queries_and_keys_may_have_two_free_lengths(standalone: bool) -> None:
    module = generated(CROSS, standalone).M(dtype=torch.float64).eval()

    def attended(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
        split = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v)]
        return F.scaled_dot_product_attention(*split, attn_mask=mask).transpose(1, 2).flatten(2)

    for t, s in ((3, 5), (4, 1), (2, 2)):
        x, memory = (torch.randn(2, n, 8, dtype=torch.float64, requires_grad=True) for n in (t, s))
        present, pairs = torch.rand(2, s).round(), torch.rand(2, t, s).round()
        present[:, 0] = pairs[..., 0] = 1
        q, k, v = module.q(x), module.k(memory), module.v(memory)
        expected = (
            attended(q, k, v, 2),
            attended(q, k, memory, 1, (present != 0)[:, None, None]),
            attended(x, memory, memory, 4, (pairs != 0)[:, None]),
        )

        found = module(x, memory, present, pairs)

        for one, other in zip(found, expected):
            torch.testing.assert_close(one, other)
            ours, theirs = (
                torch.autograd.grad(y.sum(), (x, memory), retain_graph=True) for y in (one, other)
            )
            torch.testing.assert_close(ours, theirs)
        if not standalone:
            system = module.system(x=(t, 8), memory=(s, 8), present=(s,), pairs=(t, s))
            for one, other in zip(system.solve(x, memory, present, pairs), expected):
                torch.testing.assert_close(one, other)


def test_two_free_lengths_are_exported_apart() -> None:
    text = CROSS.replace(", present[size(memory, 1)], pairs[size(x, 1), size(memory, 1)]", "")
    text = text.replace(", z = attend(q*x, k*memory, memory; mask = present)", "")
    text = text.replace("    output w = attend(x, memory, memory; heads = 4, mask = pairs)\n", "")
    module = generated(text).M().eval()
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    lengths = {name: {1: torch.export.Dim(f"{name}_length", max=100)} for name in ("x", "memory")}
    program = torch.export.export(module, (x, memory), dynamic_shapes=lengths).module()
    x, memory = torch.randn(2, 7, 8), torch.randn(2, 4, 8)
    torch.testing.assert_close(program(x, memory), module(x, memory))


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("input q[_, 4], k[_, 4]\noutput y = attend(q, k, k; causal = true)", "E0201", "one number is free"),
        ("input u[2, _]\noutput y = Upsample(2)(MaxPool(2)(u)) + u", "E0204", ""),
        ("input q[_, 4], k[_, 4], m[size(q, 1)]\noutput y = attend(q, k, k; mask = m)", "E0201", "a mask"),
        ("input q[_, 4], k[_, 4]\noutput y = q + k", "E0204", ""),
        ("input u[2, _]\nlayer K = Conv(2, 3; stride = 2)\noutput y = K' * (K*u)", "E0201", "all sizes"),
        ("input u[2, _]\nlayer G = GlobalAvgPool()\noutput y = G' * (G*u)", "E0201", "these sizes"),
    ],
)
def test_what_depends_on_unknown_sizes_is_refused(body: str, code: str, words: str) -> None:
    (found,) = check(Source(f"model M\n{body}\nend\n")).diagnostics
    assert found.code == code
    assert words in found.message


@pytest.mark.parametrize("shape", ["_, 3", "4, 3"])
def test_a_number_of_the_network_goes_with_any_value(shape: str) -> None:
    text = f"""
    model M
        input u[{shape}], s[]
        param p[] = 0.5
        output a = u + sum(u), b = exp(u) ./ sum(exp(u)), c = max(u, mean(u), 0), d = s .* u, e = s ./ exp(u)
        output f = u - p, g = min(p, u), h = u ./ exp(p), i = s * u * p, k = max(s, p)
    end
    """
    module = generated(text).M(dtype=torch.float64)
    u, s = torch.randn(2, 4, 3).double(), torch.randn(2).double()
    all_, mean, alone, p = u.sum((1, 2), True), u.mean((1, 2), True), s[:, None, None], module.p
    expected = (
        u + all_,
        torch.softmax(u.flatten(1), 1).view_as(u),
        torch.maximum(u, mean).clamp(0),
        alone * u,
        alone / u.exp(),
        u - p,
        torch.minimum(u, p),
        u / p.exp(),
        alone * u * p,
        torch.maximum(s, p),
    )

    for one, other in zip(module(u, s), expected):
        torch.testing.assert_close(one, other)
    system = module.system(u=(4, 3)) if "_" in shape else module.system()
    for one, other in zip(system.solve(u, s), expected):
        torch.testing.assert_close(one, other)


def test_a_definition_may_stand_before_the_loop_of_free_size_that_it_is_in() -> None:
    text = """
    model M
        input u[2, _]
        layer K = Conv(2 => 2, 3; pad = 1, bias = false)
        {declaration}
        t = relu(K*x)
        {equations}
        output y = x
        @wellposed norm(K, Inf) <= 0.9
    end
    """
    before = generated(text.format(declaration="state x[2, _]", equations="x ~ tanh(t + u)")).M()
    after = generated(text.format(declaration="state x[2, _] ~ tanh(t + u)", equations="")).M()
    after.load_state_dict(before.state_dict())
    u = torch.randn(3, 2, 5)

    torch.testing.assert_close(before(u), after(u))
    torch.testing.assert_close(before(u), before.system(u=(2, 5)).solve(u), atol=1e-4, rtol=1e-4)
    with pytest.raises(ImplicitError, match=r"E0304.*shape of `x` cannot be found"):
        generated(text.format(declaration="", equations="x ~ tanh(t + u)"))
