"""`@backward truncated(steps = k)`: where gradients of a `recurrent` end, and which annotation holds."""

from __future__ import annotations

import pytest
import torch
from comparing import random, same

import implicit_dsl
from implicit_dsl.errors import ImplicitError

TRUNCATED = """
model M(n = 4, p = 3)
    input u[_, p], v[size(u, 1), p]
    param W[n, n], U[n, p], h0[n] = normal(1.0)
    recurrent x over u, w over v
        state h[n] = h0, c[n] = 1
        c ~ 0.5*prev(c) + U*w
        h ~ tanh(W*prev(h) + U*x + prev(c))
        {within}
    end
    output y = h
    {beside}
end
"""


@pytest.mark.parametrize(
    ("within", "beside"),
    [
        ("@backward truncated(steps = 2)", ""),
        ("", "@backward truncated(2)"),
        ("", "@backward(h, truncated(2))"),
    ],
)
def test_gradients_end_after_some_steps(within: str, beside: str) -> None:
    model = implicit_dsl.loads(TRUNCATED.format(within=within, beside=beside)).M(dtype=torch.float64)
    whole = implicit_dsl.loads(TRUNCATED.format(within="", beside="")).M(dtype=torch.float64)
    whole.load_state_dict(model.state_dict())
    for length in (0, 1, 2, 5):
        u, v = random(2, length, 3).requires_grad_(), random(2, length, 3)
        h, c, hs = model.h0.expand(2, -1), torch.ones(2, 4).double(), []
        for t in range(length):
            if t % 2 == 0 and t:
                h, c = h.detach(), c.detach()
            h, c = (
                torch.tanh(h @ model.W.T + u[:, t] @ model.U.T + c),
                0.5 * c + v[:, t] @ model.U.T,
            )
            hs.append(h)
        made = model(u, v)
        same(made, whole(u, v))
        if not length:
            continue
        same(made, torch.stack(hs, 1))
        wanted = torch.autograd.grad(made.sum(), (u, *model.parameters()))
        same(wanted, torch.autograd.grad(torch.stack(hs, 1).sum(), (u, *model.parameters())))
        same(made, model.system(u=(length, 3), v=(length, 3)).solve(u, v))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("@backward truncated(0)", "E0703 `steps` of `truncated`"),
        ("@backward truncated", "E0702 `truncated` says after how many"),
        ("@backward truncated(2)\n    @backward truncated(3)", "E0705"),
        ("@backward truncated(2; tau = 3)", "E0104"),
        ("@backward(v, truncated(2))", "E0702 `truncated` ends the gradients"),
        ("@backward trunkated(2)", "E0702 there is no gradient"),
    ],
)
def test_truncations_are_checked(line: str, message: str) -> None:
    with pytest.raises(ImplicitError) as caught:
        implicit_dsl.compile(TRUNCATED.format(within="", beside=line))
    first = caught.value.diagnostics[0]
    assert f"{first.code} {first.message}".startswith(message)
    assert len(caught.value.diagnostics) == 1


IN_BLOCKS = """
block Cell(n)
    input u[_, _]
    layer R = Dense(n), I = Dense(n)
    recurrent x over u
        state h[n] = 0
        h ~ tanh(R*prev(h) + I*x)
        {step}
    end
    output y = h
    {block}
end
model M(n = 4)
    input u[_, 3]
    layer cell = Cell(n)
    output y = cell(u)
    {model}
end
"""


@pytest.mark.parametrize(
    ("step", "block", "model", "steps"),
    [
        ("", "", "@backward truncated(2)", 2),
        ("", "@backward truncated(3)", "@backward truncated(2)", 3),
        ("@backward truncated(1)", "@backward truncated(3)", "@backward truncated(2)", 1),
        ("@backward truncated(1)", "@backward(h, truncated(4))", "", 4),
    ],
)
def test_the_nearest_annotation_speaks_of_a_recurrence(step: str, block: str, model: str, steps: int) -> None:
    text = implicit_dsl.compile(IN_BLOCKS.format(step=step, block=block, model=model))
    assert f"% {steps} == 0" in text and text.count(" == 0:") == 1
