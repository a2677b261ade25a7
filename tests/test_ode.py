"""`ode`: as graph, unrolled matrices and generated code, against steps by hand and torchdiffeq."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from comparing import random, same
from torch import Tensor

import implicit_dsl
from implicit_dsl.errors import ImplicitError

STANDALONE = pytest.mark.parametrize("standalone", [False, True], ids=["imports", "standalone"])
EXPLICIT = ("euler", "midpoint", "heun", "rk4", "rk38")
IMPLICIT = ("implicit_euler", "implicit_midpoint", "trapezoid")
ORDER = {
    "euler": 1,
    "midpoint": 2,
    "heun": 2,
    "rk4": 4,
    "rk38": 4,
    "implicit_euler": 1,
    "implicit_midpoint": 2,
    "trapezoid": 2,
}
State = tuple[Tensor, ...]
Rate = Callable[[float, State], State]


def moved(x: State, *parts: tuple[float, State]) -> State:
    return tuple(sum((w * k[i] for w, k in parts), x[i]) for i in range(len(x)))


def solved(function: Callable[[State], State], x: State) -> State:
    """x = function(x), by iteration."""
    for _ in range(200):
        x = function(x)
    return x


def one_step(method: str, f: Rate, x: State, t: float, h: float) -> State:
    """As the textbooks have it."""
    match method:
        case "euler":
            return moved(x, (h, f(t, x)))
        case "midpoint":
            return moved(x, (h, f(t + h / 2, moved(x, (h / 2, f(t, x))))))
        case "heun":
            k = f(t, x)
            return moved(x, (h / 2, k), (h / 2, f(t + h, moved(x, (h, k)))))
        case "rk4":
            a = f(t, x)
            b = f(t + h / 2, moved(x, (h / 2, a)))
            c = f(t + h / 2, moved(x, (h / 2, b)))
            d = f(t + h, moved(x, (h, c)))
            return moved(x, (h / 6, a), (h / 3, b), (h / 3, c), (h / 6, d))
        case "rk38":
            a = f(t, x)
            b = f(t + h / 3, moved(x, (h / 3, a)))
            c = f(t + 2 * h / 3, moved(x, (-h / 3, a), (h, b)))
            d = f(t + h, moved(x, (h, a), (-h, b), (h, c)))
            return moved(x, (h / 8, a), (3 * h / 8, b), (3 * h / 8, c), (h / 8, d))
        case "implicit_euler":
            return solved(lambda y: moved(x, (h, f(t + h, y))), x)
        case "implicit_midpoint":
            middle = solved(lambda y: moved(x, (h / 2, f(t + h / 2, y))), x)
            return moved(x, (h, f(t + h / 2, middle)))
        case _:
            k = f(t, x)
            return solved(lambda y: moved(x, (h / 2, k), (h / 2, f(t + h, y))), x)


def steps(method: str, f: Rate, x: State, begin: float, end: float, count: int) -> list[State]:
    """The states at the begin and behind each step."""
    h, found = (end - begin) / count, [x]
    for number in range(count):
        found.append(one_step(method, f, found[-1], begin + h * number, h))
    return found


NEURAL = """
model M(d = 4, p = 3)
    input u[p]
    param A[d, d] = normal(0.4), b[d] = normal(1.0), c[d] = normal(1.0), B[d, p]
    ode t in 0.5..2
        state x[d] = Dense(d)*u
        D(x) ~ tanh(A*x + b*t + B*u + c)
    end
    output y = last(x), z = x
    @solver(x, METHOD(steps = 5))
    @allow unused_annotation
end
"""


def rate_of(m: Any, u: Tensor) -> Rate:
    return lambda t, x: (torch.tanh(x[0] @ m.A.T + t * m.b + u @ m.B.T + m.c),)


@STANDALONE
@pytest.mark.parametrize("method", EXPLICIT)
def test_explicit_methods_are_those_by_hand(method: str, standalone: bool) -> None:
    model = implicit_dsl.loads(NEURAL.replace("METHOD", method), standalone=standalone).M(dtype=torch.float64)
    u = random(3, 3).requires_grad_()
    found = [x for (x,) in steps(method, rate_of(model, u), (model.x_dense(u),), 0.5, 2, 5)]
    same(model(u), (found[-1], torch.stack(found, 1)))
    if not standalone:
        same(model(u), model.system().solve(u))
    assert torch.autograd.gradcheck(lambda u: tuple(model(u)), (u,))


SEVERAL = """
block Field(n)
    input x[_], s[_]
    h = tanh(Dense(n)*x + Dense(n; bias = false)*s)
    output y = Dense(n)*h
end
model M(n = 4)
    input u[n], s[n], q[2]
    layer field = Field(n), shared = Dense(n)
    param v0[n] = normal(1.0), w[n] = normal(1.0), θ[] = 0.7
    ode τ in 0..1
        state x[n] = u, v[_] = v0, z[1:2][2] = [1, -0.5], l[1] = 0
        forced = sin(3*τ)*w + exp(-τ)*shared(s) - τ^2/2
        damped = field(x, s)
        D(x) ~ v
        D(v) ~ -damped - v / (1 + τ) + forced
        for i in 1:2
            D(z[i]) ~ q .* z[3 - i] + (-1)^i*τ
        end
        D(l) ~ reshape(mean(x .* v) + θ*τ, 1)
    end
    output x1 = last(x), v1 = last(v), z1 = last(z[1]), all = z[2], l = last(l)
    @solver rk4(steps = 3)
end
""".replace(", l = last(l)", ", l1 = last(l)")


def several_by_hand(m: Any, u: Tensor, s: Tensor, q: Tensor) -> tuple[Tensor, ...]:
    def f(t: float, state: State) -> State:
        x, v, a, b, _ = state
        h = torch.tanh(F.linear(x, m.field_h_dense.weight, m.field_h_dense.bias) + m.field_h_dense2(s))
        forced = math.sin(3 * t) * m.w + math.exp(-t) * m.shared(s) - t**2 / 2
        last = (x * v).mean(1, keepdim=True) + m.theta * t
        return v, -m.field_dense(h) - v / (1 + t) + forced, q * b - t, q * a + t, last

    n = len(u)
    z = [u.new_full((n, 2), 0.0) + u.new_tensor([1, -0.5])] * 2
    start = (u, m.v0.expand(n, -1), *z, u.new_zeros(n, 1))
    found = steps("rk4", f, start, 0, 1, 3)
    x, v, a, _, last = found[-1]
    return x, v, a, torch.stack([state[3] for state in found], 1), last


@STANDALONE
def test_several_states_families_blocks_starts_and_times(standalone: bool) -> None:
    model = implicit_dsl.loads(SEVERAL, standalone=standalone).M(dtype=torch.float64)
    given = random(3, 4), random(3, 4), random(3, 2)
    same(model(*given), several_by_hand(model, *given))
    if not standalone:
        same(model(*given), model.system().solve(*given))


@pytest.mark.parametrize("method", IMPLICIT)
def test_implicit_methods_are_equilibria_with_a_certificate(method: str) -> None:
    text = NEURAL.replace("METHOD", method).replace(
        "    @allow", "    @solver auto(tol = 1e-13)\n    @wellposed norm(A, Inf) <= 3\n    @allow"
    )
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    u = random(3, 3).requires_grad_()
    found = [x for (x,) in steps(method, rate_of(model, u), (model.x_dense(u),), 0.5, 2, 5)]
    same(model(u), (found[-1], torch.stack(found, 1)))
    same(model(u), model.system().solve(u))
    assert model.certify().proved
    assert torch.autograd.gradcheck(lambda u: tuple(model(u)), (u,), atol=1e-6)


STIFF = """
model M(d = 3)
    input u[d], s[d]
    param W[d, d] = normal(0.3), w[d] = normal(0.5)
    ode t in TIMES
        state x[d] = u, v[d] = 0
        D(x) ~ tanh(sin(t)*x + 0.3*v) - 0.2*exp(t)*x
        D(v) ~ cos(t)*tanh(W*x + w*t) .* s - t*v
    end
    output y = last(x), z = v
    @solver(x, METHOD(steps = 4))
    @solver auto(tol = 1e-13)
    @wellposed unchecked
end
"""


@pytest.mark.parametrize("times", ["0..0.8", "[0, 0.3, 0.8]"])
@pytest.mark.parametrize("method", [*EXPLICIT, *IMPLICIT])
def test_numbers_of_the_time_within_equilibria_and_chosen_times(method: str, times: str) -> None:
    text = STIFF.replace("METHOD", method).replace("TIMES", times)
    text = (
        text.replace("    @solver auto(tol = 1e-13)\n    @wellposed unchecked\n", "")
        if method in EXPLICIT
        else text
    )
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    u, s = random(2, 3), random(2, 3)

    def f(t: float, state: State) -> State:
        x, v = state
        return (
            torch.tanh(math.sin(t) * x + 0.3 * v) - 0.2 * math.exp(t) * x,
            math.cos(t) * torch.tanh(x @ model.W.T + model.w * t) * s - t * v,
        )

    if times.startswith("["):
        first = steps(method, f, (u, torch.zeros_like(u)), 0, 0.3, 4)
        last = steps(method, f, first[-1], 0.3, 0.8, 4)
        found = [first[0], first[-1], last[-1]]
    else:
        found = steps(method, f, (u, torch.zeros_like(u)), 0, 0.8, 4)
    same(model(u, s), (found[-1][0], torch.stack([v for _, v in found], 1)), 1e-10)
    same(model(u, s), model.system().solve(u, s), 1e-10)


LINEAR = """
model M
    input u[2]
    ode t in 0..1
        state x[2] = u
        D(x) ~ [[0, 1], [-1, 0]] * x
    end
    output y = last(x)
    @solver(x, METHOD(steps = STEPS))
    IMPLICIT
end
""".replace("[[0, 1], [-1, 0]] * x", "R * x").replace(
    "    ode", "    param R[2, 2] = fixed([0, 1, -1, 0])\n    ode"
)


@pytest.mark.parametrize("method", ORDER)
def test_errors_shrink_with_the_order_of_a_method(method: str) -> None:
    u = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    turn = torch.tensor([[math.cos(1), math.sin(1)], [-math.sin(1), math.cos(1)]], dtype=torch.float64)
    errors = []
    for count in (8, 16):
        text = LINEAR.replace("METHOD", method).replace("STEPS", str(count))
        solver = "@solver auto(tol = 1e-13)" if method in IMPLICIT else ""
        model = implicit_dsl.loads(text.replace("IMPLICIT", solver)).M(dtype=torch.float64)
        errors.append((model(u) - u @ turn.T).norm().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDER[method], abs=0.2)


FLOW = """
model M(d = 5, p = 3, τ = 0.5)
    input u[p]
    param A[d, d] = normal(0.3), B[d, p], C[d, d] = normal(0.3)
    ode t in 0..Inf
        state x[d] = 0, v[d] = 0.5
        drive = B*u
        D(x) ~ (relu(A*x + drive) - x + 0.2*v) / τ
        D(v) ~ -v + tanh(C*v + drive)
    end
    output y = last(x), z = last(v)
    @wellposed(x, norm(A, Inf) <= 0.7)
    @wellposed(v, norm(C, Inf) <= 0.7)
    @solver auto(tol = 1e-12)
end
"""


def test_a_flow_without_end_is_its_equilibrium() -> None:
    model = implicit_dsl.loads(FLOW).M(dtype=torch.float64)
    u = random(3, 3).requires_grad_()
    x, v = model(u)
    drive = u @ model.B.T
    same(x, torch.relu(x @ model.A.T + drive) + 0.2 * v, 1e-9)
    same(v, torch.tanh(v @ model.C.T + drive), 1e-9)
    same(model(u), model.system().solve(u), 1e-9)
    assert model.certify().proved
    assert torch.autograd.gradcheck(lambda u: tuple(model(u)), (u,), atol=1e-6)
    long = FLOW.replace("0..Inf", "0..60").replace("auto(tol = 1e-12)", "rk4(steps = 600)")
    long = "\n".join(line for line in long.splitlines() if "wellposed" not in line)
    flow = implicit_dsl.loads(long).M(dtype=torch.float64)
    flow.load_state_dict(model.state_dict())
    same(flow(u), model(u), 1e-4)


GOOD = ["ode t in 0..1", "state x[3] = u", "D(x) ~ -x", "end", "output y = last(x)"]
WRONG = [
    (["D(u) ~ u", "output y = u"], "E0603 `D(x) ~ …` stands inside of an `ode`"),
    ([GOOD[0], "state x[3]", *GOOD[2:]], "E0603 `x` has no start value"),
    ([GOOD[0], *GOOD[2:]], "E0603 `x` has no start value"),
    ([*GOOD[:2], *GOOD[3:]], "E0603 `x` has no derivative"),
    (["ode t in 0..1", "h = u", "end", "output y = h"], "E0603 this `ode` has no derivative"),
    ([*GOOD[:3], "D(x) ~ x", *GOOD[3:]], "E0103 `D(x)` is defined twice"),
    ([*GOOD[:3], "x ~ tanh(x)", *GOOD[3:]], "E0605 `x` has a derivative, and a value as well"),
    ([*GOOD[:2], "D(x) ~ prev(x)", *GOOD[3:]], "E0602 `prev(x)` inside of an `ode`"),
    ([*GOOD[:2], "D(x + 1) ~ x", *GOOD[3:]], "E0603 `D` takes a state"),
    ([*GOOD[:2], "D(x) ~ x[1:2]", *GOOD[3:]], "E0202 `x` is [3], and its derivative [2]"),
    ([*GOOD[:2], "t = 3", *GOOD[2:]], "E0103 `t` is the time of this `ode`"),
    ([*GOOD[:2], "output z = x", *GOOD[2:]], "E0309 an output is declared outside of `ode`"),
    (["ode t in 1..0", *GOOD[1:]], "E0603 the time of an `ode` goes up"),
    (["ode t in 1..1", *GOOD[1:]], "E0603 the time of an `ode` goes up"),
    (["ode t in 0..u", *GOOD[1:]], "E0603 a time is a number known at compile time"),
    (["ode t in 3", *GOOD[1:]], "E0603 an `ode` runs over an interval"),
    (["ode t in [0, 2, 1]", *GOOD[1:]], "E0603 the times of an `ode` go up"),
    (["ode t in [1]", *GOOD[1:]], "E0603 an `ode` takes two finite times at least"),
    (["ode t in -Inf..1", *GOOD[1:]], "E0603 an `ode` starts at a finite time"),
    ([*GOOD, "@solver(x, rk4(steps = 0))"], "E0703 `steps` of `rk4` must be at least 1"),
    ([*GOOD, "@solver(x, rk4(steps = 1000000))"], "E0107 this `ode` takes 1,000,000 steps"),
    ([*GOOD, "@solver(x, rk5(steps = 3))"], "E0702 there is no solver `rk5`"),
    ([*GOOD, "@solver(x, rk4(tol = 3))"], "E0104 `rk4` has no setting `tol`"),
    ([*GOOD, "@solver rk4", "@solver euler"], "E0705 an `ode` has one method"),
    (["output y = u", "@solver rk4"], "E0702 `rk4` integrates an `ode`, and nothing here is one"),
    ([*GOOD[:2], "D(x) ~ x / t", *GOOD[3:]], "E0208 this number is out of range at one of the steps"),
    ([*GOOD[:2], "D(x) ~ t*W*x", *GOOD[3:], "param W[3, 3]"], "E0207 `*` does not apply to a number that"),
    ([*GOOD[:2], "h = t*x", *GOOD[2:4], "output y = h"], "E0605 `h` is a value at each time"),
    (
        [*GOOD[:2], "ode s in 0..1", "state z[3] = x", "D(z) ~ z", "end", *GOOD[2:]],
        "E0605 an `ode` inside",
    ),
    ([GOOD[0], "h = tanh(u)", "state x[3] = h", *GOOD[2:]], "E0602 `x` starts from a value of the steps"),
    (
        ["ode t in 0..Inf", "state x[3] = 0", "D(x) ~ u - 2*x", *GOOD[3:]],
        "E0605 the equilibrium of this",
    ),
    (
        ["ode t in 0..Inf", "state x[3] = 0", "D(x) ~ t*u - x", *GOOD[3:]],
        "E0605 a flow that depends on the",
    ),
    (["ode t in 0..Inf", "state x[3] = 0", "D(x) ~ u - x", "end", "output y = x"], "E0207"),
]


@pytest.mark.parametrize(("lines", "message"), WRONG)
def test_what_is_wrong_is_said(lines: list[str], message: str) -> None:
    text = "model M\n    input u[3]\n    @allow unused_input\n    " + "\n    ".join(lines) + "\nend\n"
    with pytest.raises(ImplicitError) as caught:
        implicit_dsl.compile(text)
    first, *others = [found for found in caught.value.diagnostics if found.code.startswith("E")]
    assert f"{first.code} {first.message}".startswith(message)
    assert not others


IMAGES = (
    """
block Flow(c)
    input u[_, _, _]
    ode t in 0..1
        state x[c, size(u, 2), size(u, 3)] = u
        time = expand(reshape(t, 1), u)
        D(x) ~ tanh(Conv(c => c, 3; pad = 1)*x + t*Conv(c => c, 1; bias = false)*x) - 0.1*x
    end
    output y = last(x)
    @solver(x, midpoint(steps = 3))
end
model M
    input u[2, 5, 5]
    output y = mean(Flow(2)(u |> Flow(2)); dim = [2, 3])
end
""".replace("        time = expand(reshape(t, 1), u)\n", "")
    .replace("t*Conv(c => c, 1; bias = false)*x", "t*(R*x)")
    .replace("    ode t in", "    layer R = Conv(c => c, 1; bias = false)\n    ode t in")
)


@STANDALONE
def test_convolutions_in_blocks(standalone: bool) -> None:
    model = implicit_dsl.loads(IMAGES, standalone=standalone).M(dtype=torch.float64)
    u = random(2, 2, 5, 5)

    def flow(x: Tensor, R: Any, K: Any) -> Tensor:
        def f(t: float, state: State) -> State:
            return (torch.tanh(K(state[0]) + t * R(state[0])) - 0.1 * state[0],)

        return steps("midpoint", f, (x,), 0, 1, 3)[-1][0]

    x = flow(u, model.y_flow2_R, model.y_flow2_x_conv)
    x = flow(x, model.y_flow_R, model.y_flow_x_conv)
    same(model(u), x.mean((2, 3)))
    if not standalone:
        same(model(u), model.system().solve(u))


WITHIN = """
model M(n = 3)
    input u[_, n]
    param W[n, n], V[n, n], b[n] = normal(1.0)
    recurrent x over u
        state h[n] = 0
        ode t in 0..0.5
            state g[n] = h@before
            D(g) ~ tanh(W*g + b*t) - g
        end
        h ~ tanh(V*last(g) + x)
    end
    output y = h
    @solver(g, heun(steps = 2))
end
""".replace("h@before", "prev(h)")


def test_between_the_steps_of_a_recurrence() -> None:
    model = implicit_dsl.loads(WITHIN).M(dtype=torch.float64)
    u = random(2, 3, 3)
    h, found = torch.zeros(2, 3).double(), []
    for x in u.unbind(1):
        g = steps("heun", lambda t, g: (torch.tanh(g[0] @ model.W.T + model.b * t) - g[0],), (h,), 0, 0.5, 2)
        h = torch.tanh(g[-1][0] @ model.V.T + x)
        found.append(h)
    same(model(u), torch.stack(found, 1))
    same(model(u), model.system(u=(3, 3)).solve(u))


@pytest.mark.parametrize("method", ["rk4", "implicit_euler"])
def test_one_graph(method: str) -> None:
    text = NEURAL.replace("METHOD", method)
    if method in IMPLICIT:
        text = text.replace("    @allow", "    @wellposed norm(A, Inf) <= 1\n    @allow")
    model = implicit_dsl.loads(text).M()
    u = torch.randn(3, 3)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    same(compiled(u), model(u), 1e-5)


needs_torchdiffeq = pytest.mark.skipif(
    find_spec("torchdiffeq") is None, reason="torchdiffeq is not installed"
)


@needs_torchdiffeq
@pytest.mark.parametrize(("ours", "theirs"), [("euler", "euler"), ("midpoint", "midpoint"), ("rk38", "rk4")])
def test_fixed_steps_are_those_of_torchdiffeq(ours: str, theirs: str) -> None:
    import torchdiffeq

    model = implicit_dsl.loads(NEURAL.replace("METHOD", ours)).M(dtype=torch.float64)
    u = random(3, 3)
    f, times = rate_of(model, u), torch.linspace(0.5, 2, 6, dtype=torch.float64)
    x = torchdiffeq.odeint(lambda t, x: f(t, (x,))[0], model.x_dense(u), times, method=theirs)
    same(model(u), (x[-1], x.transpose(0, 1)))


@needs_torchdiffeq
@STANDALONE
@pytest.mark.parametrize("adjoint", ["true", "false"])
def test_adaptive_methods_give_values_and_gradients_of_torchdiffeq(adjoint: str, standalone: bool) -> None:
    import torchdiffeq

    settings = f"dopri5(rtol = 1e-9, atol = 1e-10, adjoint = {adjoint})"
    text = NEURAL.replace("METHOD(steps = 5)", settings).replace("0.5..2", "[0.5, 1.2, 2]")
    model = implicit_dsl.loads(text, standalone=standalone).M(dtype=torch.float64)
    u = random(3, 3).requires_grad_()
    f, times = rate_of(model, u), torch.tensor([0.5, 1.2, 2], dtype=torch.float64)
    x = torchdiffeq.odeint(
        lambda t, x: f(t, (x,))[0], model.x_dense(u), times, rtol=1e-9, atol=1e-10, method="dopri5"
    )
    made = model(u)
    same(made, (x[-1], x.transpose(0, 1)), 1e-8)
    g = random(*made.z.shape)
    wanted = torch.autograd.grad(x.transpose(0, 1), [u, *model.parameters()], g, allow_unused=True)
    found = torch.autograd.grad(made.z, [u, *model.parameters()], g)
    same(found, wanted, 1e-6)
    if not standalone:
        with pytest.raises(ValueError, match="chooses its steps by the data"):
            model.system()


@needs_torchdiffeq
def test_several_states_adaptively() -> None:
    fine = implicit_dsl.loads(SEVERAL.replace("steps = 3", "steps = 200")).M(dtype=torch.float64)
    text = SEVERAL.replace("rk4(steps = 3)", "dopri5(rtol = 1e-10, atol = 1e-11)")
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    model.load_state_dict(fine.state_dict())
    given = random(3, 4), random(3, 4), random(3, 2)
    found, wanted = model(*given), fine(*given)
    same((*found[:3], found[4]), (*wanted[:3], wanted[4]), 1e-7)
    same(found[3], wanted[3][:, [0, -1]], 1e-7)


@needs_torchdiffeq
def test_an_integration_without_end_names_its_states() -> None:
    text = NEURAL.replace("METHOD(steps = 5)", "dopri5(rtol = 1e-9, maxiter = 2)")
    model = implicit_dsl.loads(text).M()
    with pytest.raises(RuntimeError, match=r"`x` \(line 5\): dopri5 took more than 2 steps"):
        model(torch.randn(2, 3))
    blown = NEURAL.replace("METHOD(steps = 5)", "dopri5").replace("tanh(A*x", "(x .* x .* x + 5 + (A*x")
    with pytest.raises(RuntimeError, match=r"`x` \(line 5\): dopri5"):
        implicit_dsl.loads(blown.replace("+ c)", "+ c))")).M()(torch.randn(2, 3))


def test_without_torchdiffeq_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    model = implicit_dsl.loads(NEURAL.replace("METHOD(steps = 5)", "bosh3")).M()
    with pytest.raises(ImportError, match="run `pip install torchdiffeq`"):
        model(torch.randn(2, 3))


STIFF_BLOCK = """
block Stiff(n; κ = 4)
    input u[_]
    param A[n, n] = normal(0.5)
    ode t in 0..1
        state x[n] = u
        D(x) ~ tanh(A*x + u) - x
    end
    output y = last(x)
    @solver(x, implicit_euler(steps = 5))
    @solver auto(tol = 1e-13)
    @wellposed norm(A, Inf) <= κ
end
model M
    input u[3]
    output y = Stiff(3)(u |> Stiff(3))
end
"""


def test_what_a_block_says_of_its_own_steps() -> None:
    text = STIFF_BLOCK.replace("- x\n", "\n")
    model = implicit_dsl.loads(text).M(dtype=torch.float64)
    u = random(2, 3)
    x = u
    for name in ("y_stiff2", "y_stiff"):
        A, start = getattr(model, f"{name}_A"), x
        assert A.abs().sum(1).max() <= 4 + 1e-9
        x = steps("implicit_euler", lambda t, x: (torch.tanh(x[0] @ A.T + start),), (x,), 0, 1, 5)[-1][0]  # noqa: B023
    same(model(u), x)
    same(model(u), model.system().solve(u))
    assert model.certify().proved


def test_numbers_that_are_not_finite_name_their_state() -> None:
    text = (
        NEURAL.replace("METHOD", "euler")
        .replace("tanh(A*x", "1000*(x .* x .* x + (A*x")
        .replace("+ c)", "+ c))")
    )
    model = implicit_dsl.loads(text).M()
    with pytest.raises(RuntimeError, match=r"`x` \(line 5\): not finite at the end of the steps"):
        model(torch.randn(2, 3))
    found = torch.func.vmap(model, in_dims=0)(torch.randn(4, 2, 3))
    assert not found.y.isfinite().all()


FREE = """
model M(d = 4)
    input u[_, d]
    layer mix = Dense(d)
    ode t in 0..1
        state x[_, d] = u, e[1] = 0
        h = softmax(x; dim = 2)
        D(x) ~ tanh(mix*x) - t*h
        D(e) ~ reshape(mean(x .* x), 1)
    end
    output y = last(x), z = mean(x; dim = 1), e = last(e)
end
""".replace(", e = last(e)", ", energy = last(e)")


def test_free_sizes_and_the_default_method() -> None:
    model = implicit_dsl.loads(FREE).M(dtype=torch.float64)
    for length in (3, 1):
        u = random(2, length, 4)

        def f(t: float, state: State) -> State:
            x, _ = state
            rate = torch.tanh(model.mix(x)) - t * torch.softmax(x, 2)
            return rate, (x * x).mean((1, 2))[:, None]

        found = steps("rk4", f, (u, torch.zeros(2, 1).double()), 0, 1, 20)
        x = torch.stack([x for x, _ in found], 1)
        same(model(u), (found[-1][0], x.mean(1), found[-1][1]))
        same(model(u), model.system(u=(length, 4)).solve(u))


def test_as_other_modules() -> None:
    model = implicit_dsl.loads(SEVERAL).M()
    given = torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 2)
    same(copy.deepcopy(model)(*given), model(*given))
    exported = torch.export.export(model, given)
    same(exported.module()(*given), model(*given), 1e-5)
    assert model.bfloat16()(*(value.bfloat16() for value in given)).x1.dtype == torch.bfloat16
    assert model.to("meta")(*(value.to("meta") for value in given)).all.shape == (3, 4, 2)


RATES = {
    "time as an entry": "D(x) ~ Dense(3)*cat(x, t) + Dense(3)*cat(reshape(2*t, 1), x)",
    "a quotient": "D(x) ~ t ./ (4 + tanh(W*x)) + u / (1 + t)",
    "activations of the time": "D(x) ~ relu(t - 0.5)*x + W*x + abs(t - 0.5)*u - log(2 + t)*x + tanh(t)",
    "a sum over powers": "D(x) ~ sum([t^k for k in 0:3])*x + W*(t*x)",
    "the time alone": "D(x) ~ t",
    "a number": "D(x) ~ 1",
    "a parameter": "param b[3] = normal(1.0)\n        D(x) ~ b",
    "an input": "D(x) ~ t*u",
    "signs": "D(x) ~ -t*x - (-t) - (2 - t)/(1 + t)*tanh(-x)",
    "the time, expanded": "D(x) ~ x .* expand(t, x) - expand(sin(t), u)",
    "layers of training": "D(x) ~ Dropout(0.5)*(BatchNorm()*(W*x))",
    "a function": "f(s, x) = s*tanh(x)\n        D(x) ~ f(t, W*x) + f(0.5, u)",
    "an equation": "state q[3]\n        q ~ tanh(0.3*q + x + t)\n        D(x) ~ q - x",
    "what is the same": "e = tanh(W*u)\n        D(x) ~ tanh(W*x + e) + W*u",
    "a recurrence": "recurrent v over s\n            state h[3] = x\n            g = tanh(W*v)\n"
    "            h ~ tanh(W*prev(h) + t*v + g)\n        end\n        D(x) ~ last(h) - x",
}


@pytest.mark.parametrize("method", ["rk4", "trapezoid"])
@pytest.mark.parametrize("rate", RATES)
def test_matrices_are_those_of_the_module(rate: str, method: str) -> None:
    text = f"""
model M
    input u[3], s[2, 3]
    param W[3, 3]
    ode t in 0..1
        state x[3] = u
        {RATES[rate]}
    end
    output y = last(x), z = x
    @solver(x, {method}(steps = 3))
    @solver auto(tol = 1e-13)
    @wellposed unchecked
    @allow unused_input, unused_annotation, unused_parameter
end
"""
    if rate == "a recurrence" and method == "trapezoid":
        with pytest.raises(ImplicitError, match="E0604"):
            implicit_dsl.compile(text)
        return
    model = implicit_dsl.loads(text).M(dtype=torch.float64).eval()
    given = random(2, 3), random(2, 2, 3)
    same(model(*given), model.system().solve(*given), 1e-10)


TIMED_LOOP = """
model M
    input u[3]
    ode t in 0..END
        state x[3] = u, q[3]
        q ~ tanh(0.5*t*q + x)
        D(x) ~ q - x
    end
    output y = last(x)
    @solver(x, METHOD)
end
"""


@pytest.mark.parametrize(
    ("end", "method", "proved"),
    [("1.9", "rk4(steps = 4)", True), ("2.1", "rk4(steps = 4)", False), ("1", "dopri5", False)],
)
def test_a_loop_is_proved_for_all_times_of_the_steps(end: str, method: str, proved: bool) -> None:
    text = TIMED_LOOP.replace("END", end).replace("METHOD", method)
    if proved:
        model = implicit_dsl.loads(text).M(dtype=torch.float64)
        u = random(2, 3)
        same(model(u), model.system().solve(u), 1e-5)
        assert model.certify().proved
        return
    with pytest.raises(ImplicitError, match="E0401"):
        implicit_dsl.compile(text)


@pytest.mark.parametrize("method", IMPLICIT)
def test_what_is_said_of_a_state_holds_for_its_steps(method: str) -> None:
    said = "@solver(x, picard(tol = 1e-12))\n    @wellposed(x, norm(A, Inf) <= 2)\n"
    said += "    @backward(x, neumann(k = 30))"
    text = implicit_dsl.compile(
        NEURAL.replace("METHOD", method).replace("    @allow", f"    {said}\n    @allow")
    )
    assert "solver=runtime.Picard(tolerance=1e-12)" in text and "backward=runtime.Neumann(terms=30)" in text
    assert 'runtime.Equilibrium(_M_x_x, "x", 7' in text or "runtime.Equilibrium(\n            _M_x_x," in text


@pytest.mark.parametrize(
    ("block", "model", "steps"),
    [("", "euler(steps = 3)", 3), ("euler(steps = 4)", "euler(steps = 3)", 4), ("", "", 20)],
)
def test_the_nearest_annotation_names_the_method(block: str, model: str, steps: int) -> None:
    said = [f"@solver {one}" if one else "" for one in (block, model)]
    text = f"""
block Flow(n)
    input u[n]
    layer W = Dense(n)
    ode t in 0..1
        state x[n] = u
        D(x) ~ tanh(W*x)
    end
    output y = last(x)
    {said[0]}
end
model M(n = 4)
    input u[n]
    output y = Flow(n)(u)
    {said[1]}
end
"""
    assert f"for _ in range({steps}):" in implicit_dsl.compile(text)
