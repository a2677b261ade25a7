"""Certificates of whole programs, attacked: other equilibria, faster changes, slower convergence.

Nothing here knows how certificates are found. What is proved is looked at as a claim about an iteration,
which is computed from the assembled matrices.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from loop_dynamics import Dynamics, Method, loops_of, method_of, solution
from random_loops import random_loop
from strategies import BODIES
from torch import nn

import implicit_dsl
from implicit_dsl.operators import OPERATORS
from implicit_dsl.operators.elementwise import Elementwise
from implicit_dsl.runtime import ConstraintError
from implicit_dsl.runtime.certificates import Certificate, Proof, Rule
from implicit_dsl.runtime.certificates.interval import Interval
from implicit_dsl.runtime.certificates.rounding import is_positive_definite
from implicit_dsl.shapes import count

torch.set_num_threads(1)


def module_of(body: str, dtype: torch.dtype = torch.float64, demand: str = "unchecked") -> nn.Module:
    lines = "".join(f"    {line.strip()}\n" for line in body.strip().splitlines())
    text = f"model M\n{lines}    @wellposed {demand}\nend\n"
    return implicit_dsl.loads(text).M(dtype=dtype).eval()  # type: ignore[no-any-return]


def filled(module: nn.Module, **values: object) -> nn.Module:
    with torch.no_grad():
        for name, value in values.items():
            held = dict(module.named_parameters())[name]
            held.copy_(torch.as_tensor(value, dtype=torch.float64))
    return module


# --------------------------------------------------------------------------- attacks


def attack(certificate: Certificate, module: nn.Module, rng: np.random.Generator) -> list[Proof]:
    """Looks for a counterexample to each proof; returns what was attacked."""
    system, attacked = module.system(), []
    entries = sum(count(block.shape) for block in system.model.inputs)
    for scale in (0.3, 3.0):
        u = scale * rng.standard_normal(entries)
        for dynamics in loops_of(system, u, rng) or []:
            proof = certificate[dynamics.loop.name].proof
            if proof is None:
                continue
            method = method_of(proof, dynamics)
            if proof.rate is not None and proof.rule is not Rule.TRIANGULAR:
                _attack_rate(proof, method, rng)
            _attack_uniqueness_and_steps(proof, method, certificate.tolerance, rng)
            attacked.append(proof)
    return attacked


def _attack_rate(proof: Proof, method: Method, rng: np.random.Generator) -> None:
    """‖g(x) − g(y)‖ ≤ κ ‖x − y‖: random pairs, and pairs in the steepest direction of one entry."""
    assert proof.rate is not None
    n = len(method.units)
    for k in range(8):
        x = rng.standard_normal(n) * method.units * rng.choice([0.1, 1.0, 10.0, 100.0])
        for _ in range(proof.after):
            x = method.step(x)
        y = x + rng.choice([-1.0, 1.0], n) * method.units * rng.choice([1e-4, 1e-1, 3.0])
        for _ in range(1 if proof.after else 3):
            if proof.after:  # the bounds of products hold for what has been computed
                y = rng.standard_normal(n) * method.units * rng.choice([0.1, 10.0])
                for _ in range(proof.after):
                    y = method.step(y)
            before, gx, gy = method.norm(x - y), method.step(x), method.step(y)
            noise = 1e-11 * (method.norm(np.abs(gx)) + method.norm(np.abs(x)))
            if before > 0 and np.isfinite(gx).all() and np.isfinite(gy).all():
                assert method.norm(gx - gy) <= proof.rate * before * (1 + 1e-9) + noise, proof
            steepest = int(np.argmax(np.abs((gx - gy) / method.units)))
            small = 1e-6 * np.diag(method.units)[: 24 if k < 4 else 0]
            gradient = np.array([(method.step(x + row) - gx)[steepest] for row in small])
            signs = np.ones(n)
            signs[: len(gradient)] = np.where(gradient >= 0, 1.0, -1.0)
            y = x + signs * method.units * rng.choice([1e-4, 1e-1])


def _attack_uniqueness_and_steps(
    proof: Proof, method: Method, tolerance: float, rng: np.random.Generator
) -> None:
    """One solution from all starts, reached in as many steps as are said to be enough."""
    n = len(method.units)
    found = []
    for k in range(5):
        x = rng.standard_normal(n) * rng.choice([0.1, 1.0, 10.0, 100.0])
        for _ in range(100 * (k % 2)):
            x = method.step(x)
        one = solution(method.step, x) if np.isfinite(x).all() else None
        if one is not None:
            found.append(one)
            assert np.abs(one - found[0]).max() <= 1e-5 * max(1.0, np.abs(found[0]).max()), proof
    if proof.steps is None or proof.steps > 3000 or not found:
        return
    x = rng.standard_normal(n)
    path = [x]
    for _ in range(max(proof.steps, proof.after + 1)):
        path.append(method.step(path[-1]))
    first = 0.0
    if proof.rule is not Rule.TRIANGULAR:
        first = tolerance * method.norm(path[proof.after + 1] - path[proof.after])
    rounding = 1e-9 * (method.norm(np.abs(found[0])) + method.norm(np.abs(path[1])))
    room = rounding / max(1e-3, 1 - (proof.rate or 0.0))
    room += method.norm(np.full(n, 1e-9 * max(1.0, np.abs(found[0]).max())))  # as near as Newton's method is
    assert method.norm(path[proof.steps] - found[0]) <= first * (1 + 1e-6) + room, proof


def _attacked(seeds: range) -> Counter[Rule]:
    rules: Counter[Rule] = Counter()
    for seed in seeds:
        module = implicit_dsl.loads(random_loop(seed)).M(dtype=torch.float64).eval()
        for scale in (0.15, 0.6):
            torch.manual_seed(seed)
            with torch.no_grad():
                for weight in module.parameters():
                    weight.copy_(torch.randn_like(weight) * scale * (torch.rand_like(weight) < 0.7))
                for name, buffer in module.named_buffers():
                    if name.endswith("running_var"):
                        buffer.uniform_(0.01, 2)
            proofs = attack(module.certify(), module, np.random.default_rng(seed))
            rules.update(proof.rule for proof in proofs)
    return rules


@pytest.mark.parametrize("part", range(3))
def test_what_is_proved_of_a_program_withstands_attacks(part: int) -> None:
    rules = _attacked(range(9 * part, 9 * part + 9))

    assert sum(rules.values()) >= 5 and len(rules) >= 2


@pytest.mark.slow
def test_what_is_proved_of_many_programs_withstands_attacks() -> None:
    rules = _attacked(range(1000, 1400))

    assert len(rules) >= 6


def test_the_attacks_find_what_is_false() -> None:
    """With rates or steps a little smaller than proved, or two equilibria, the attacks succeed."""
    module = filled(module_of("input u[2]\nparam W[2, 2]\nstate x[2] ~ relu(W*x + u)\noutput y = x"),
                    W=[[0.5, 0.4], [0.3, 0.6]])  # fmt: skip
    system, rng = module.system(), np.random.default_rng(0)
    dynamics = Dynamics(system, system.model.loops[0], np.ones(2), {})
    proof = module.certify().loops[0].proof
    assert proof is not None and proof.rate is not None and proof.steps is not None
    for wrong in ({"rate": proof.rate * 0.99}, {"steps": proof.steps // 2}):
        fields = {name: getattr(proof, name) for name in Proof.__dataclass_fields__} | wrong
        false = Proof(**fields)
        with pytest.raises(AssertionError):
            for _ in range(20):
                _attack_rate(false, method_of(false, dynamics), rng)
                _attack_uniqueness_and_steps(false, method_of(false, dynamics), 1e-5, rng)
    bistable = filled(
        module_of("input u[1]\nparam W[1, 1]\nstate x[1] ~ silu(W*x + u)\noutput y = x"), W=[[0.95]]
    )
    system = bistable.system()
    dynamics = Dynamics(system, system.model.loops[0], np.array([0.3]), {})
    with pytest.raises(AssertionError):
        _attack_uniqueness_and_steps(
            proof, Method(("x",), dynamics.sweep, np.linalg.norm, np.ones(1)), 1e-5, rng
        )


# --------------------------------------------------------------------------- activations

SETTINGS = {
    "softshrink": ({"lambda": 0.5},),
    "leaky_relu": ({"slope": 0.1}, {"slope": 2.0}, {"slope": -0.5}, {"slope": -3.0}, {"slope": 0.0}),
    "elu": ({"alpha": 0.5}, {"alpha": 1.0}, {"alpha": 2.5}, {"alpha": -1.5}),
    "hardtanh": ({"low": -1.0, "high": 1.0}, {"low": -0.2, "high": 6.0}),
    "gelu": ({}, {"approximate": True}),
    "clamp": ({"low": 0.5, "high": None},),
    "function": ({"name": "f", "body": BODIES["swish"]},),
}
# of those that have no name of their own
CALLS = {"clamp": "max(W*x + u, 0.5)", "function": "(W*x + u) |> (z -> z .* σ(z))"}
KINDS = sorted(
    kind for kind, rule in OPERATORS.items() if isinstance(rule, Elementwise) and rule.has_useful_majorant
)


@pytest.mark.parametrize("kind", KINDS)
def test_one_number_is_proved_if_and_only_if_no_slope_reaches_one(kind: str) -> None:
    """x = φ(a x + b) has one solution for each b if and only if a φ' < 1 everywhere."""
    rule = OPERATORS[kind]
    assert isinstance(rule, Elementwise)
    z = np.concatenate([np.linspace(-12, 12, 24001), [-1e-9, 1e-9, -1e3, 1e3]])
    for settings in SETTINGS.get(kind, ({},)):
        given = "; " * bool(settings) + ", ".join(f"{k} = {v}".lower() for k, v in settings.items())
        call = CALLS.get(kind, f"{kind}(W*x + u{given})")
        module = module_of(f"input u[1]\nparam W[1, 1]\nstate x[1] ~ {call}\noutput y = x")
        slopes = rule.derivative(rule.operator(settings, (1,)), z)
        for a in (-40.0, -11.0, -3.0, -1.2, -0.9, -0.3, 0.2, 0.39, 0.88, 0.91, 0.999, 1.0, 1.2, 3.9, 4.1):
            proved = filled(module, W=[[a]]).certify().proved
            most = float((a * slopes).max())
            assert not proved or most < 1, (settings, a)
            if not proved and rule.slope(rule.operator(settings, (1,)))[0] >= 0:
                assert most > 1 - 1e-6, (settings, a)


# --------------------------------------------------------------------------- exact arithmetic


def test_a_product_of_factors_is_not_taken_for_exact() -> None:
    """10 times 0.1 is 1 in floating point; the exact product is above 1, and so is A."""
    body = """input u[2, 1]
    param W[1, 1], V[1, 1]
    state x[2, 1] ~ relu(10*reshape(0.1*reshape(W*x, 2), 2, 1) + V*x + u)
    output y = x"""
    module = filled(module_of(body), W=[[1.0]], V=[[-(2.0**-60)]])
    exact = Fraction(10.0) * Fraction(0.1) - Fraction(2.0**-60)

    assert exact > 1 and 10.0 * 0.1 == 1
    assert not module.certify().proved
    assert filled(module, V=[[-(2.0**-40)]]).certify().proved


@pytest.mark.parametrize("factor", [2.0**-1070, 2.0**-1030, 2.0**100])
def test_what_leaves_the_range_of_numbers_is_not_exact(factor: float) -> None:
    body = f"""input u[2]
    param W[2, 2]
    state x[2] ~ relu({factor!r}*(W*x) + u)
    output y = x"""
    for weight in (1e300, 1.3, 1e-300):
        module = filled(module_of(body), W=[[weight, weight], [weight, weight]])
        assert module.certify().proved is (2 * Fraction(factor) * Fraction(weight) < 1)


def test_what_cancels_in_floating_point_is_not_zero() -> None:
    """10·0.1 − 1 is 0 as computed and 5.6e-17 in truth: a radius without a middle, which no sum may lose."""
    import scipy.sparse as sparse

    V, W = sparse.csr_array([[10.0, -1.0]]), sparse.csr_array([[0.1], [1.0]])
    zero = sparse.csr_array((2, 2))
    product = Interval(V, 0 * V) @ Interval(W, 0 * W)
    exact = Fraction(10.0) * Fraction(0.1) - 1
    for total in (product, product + Interval.zeros(1, 1), Interval.zeros(1, 1) + product, product + product):
        times = 2 if total.rad.toarray()[0, 0] > 1.5 * product.rad.toarray()[0, 0] else 1
        difference = abs(times * exact - Fraction(float(total.mid.toarray()[0, 0])))
        assert difference <= Fraction(float(total.rad.toarray()[0, 0]))
    assert zero.nnz == 0 and Fraction(float((product + product).rad.toarray()[0, 0])) >= 2 * exact


def test_no_number_is_positive_definite() -> None:
    for S in ([[1.0, np.nan], [np.nan, 1.0]], [[1.0, 1e200], [1e200, 1.0]], [[1e-308, 1e10], [1e10, 1e308]]):
        assert not is_positive_definite(np.array(S), 0.0)


# --------------------------------------------------------------------------- weights of few digits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_few_digits_are_judged_as_they_are_stored(dtype: torch.dtype) -> None:
    body = "input u[3]\nparam W[3, 3]\nstate x[3] ~ relu(W*x + u)\noutput y = x"
    rng = np.random.default_rng(0)
    for _ in range(20):
        W = rng.standard_normal((3, 3))
        W /= np.abs(W).sum(1).max()  # rounding decides whether the norm is below 1
        module = filled(module_of(body, dtype), W=W)
        stored = [[abs(Fraction(float(w))) for w in row] for row in module.W.double().tolist()]
        found = {a.rule: a for a in module.certify().loops[0].attempts}
        norm = max(sum(row) for row in stored)
        assert not found[Rule.INFINITY].proved or norm < 1
        assert found[Rule.INFINITY].proved or norm > 1 - Fraction(1, 10**13)


def test_bounds_are_kept_in_few_digits_too() -> None:
    """What is stored may stand above its bound by one rounding error, and never at 1 or above."""
    body = "input u[64]\nparam W[64, 64]\nstate x[64] ~ relu(W*x + u)\noutput y = x"
    for bound, dtype in (
        (0.95, torch.bfloat16),
        (0.95, torch.float16),
        (0.95, torch.float32),
        (0.999, torch.bfloat16),
    ):
        module = module_of(body, demand=f"norm(W, Inf) <= {bound}")
        module.project_()
        module(torch.zeros(1, 64, dtype=torch.float64))
        small = module.to(dtype)
        sums = small.W.double().abs().sum(1).max().item()
        with torch.no_grad():
            small.W.mul_(1.2 / sums)
        with pytest.raises(ConstraintError, match="does not hold"):
            small(torch.zeros(1, 64, dtype=dtype))
        small.project_()
        small(torch.zeros(1, 64, dtype=dtype))
        assert small.certify().proved


# --------------------------------------------------------------------------- steps at once


def test_steps_of_all_states_at_once_take_longer_to_reach_their_bounds() -> None:
    """Four products in a row: each step bounds one more of them, where a sweep bounds all."""
    body = """input u[1]
    state z[1], w[1]
    z ~ 4*p4 + u
    w ~ 4*p4 - u
    g = σ(100*z - 99.9*w)
    p1 = g .* g
    p2 = p1 .* g
    p3 = p2 .* g
    p4 = p3 .* g
    output y = z"""
    module = module_of(body)
    proof = module.certify().loops[0].proof
    assert proof is not None and proof.method == "averaged" and proof.rate is not None

    system = module.system()
    method = method_of(proof, Dynamics(system, system.model.loops[0], np.zeros(1), {}))
    ratios = []
    for after in (2, proof.after):
        x, y = np.array([0.5, 1e6, 1.0, 1.0, 0.1]), np.array([0.5, 1e6, 1.0, 1.001, 0.1])  # g, p1, …
        for _ in range(after):
            x, y = method.step(x), method.step(y)
        if method.norm(x - y) > 0:
            ratios.append(method.norm(method.step(x) - method.step(y)) / method.norm(x - y))
    assert ratios[0] > proof.rate and all(ratio <= proof.rate for ratio in ratios[1:])
