"""The equilibrium and its adjoint as differentiable functions, closed under differentiation.

x = φ(A x + c). With D = φ′ at x and the gradient g of x, λ = D ⊙ (Aᵀ λ + g) is the gradient of
the pre-activation, hence of c, and λ xᵀ that of A (implicit function theorem). The adjoint is a
linear equilibrium, and so is its own derivative: gradients of any order are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from implicit_dsl.runtime.autocast import unautocast
from implicit_dsl.runtime.dense.early import EARLY_STEPS
from implicit_dsl.runtime.dense.found import Found
from implicit_dsl.runtime.dense.growth import checked
from implicit_dsl.runtime.dense.plan import Plan
from implicit_dsl.runtime.dense.policy import Policy, Record, judged
from implicit_dsl.runtime.dense.route import picard_steps
from implicit_dsl.runtime.dense.solve import solve, solve_in_units
from implicit_dsl.runtime.dense.system import System
from implicit_dsl.runtime.implicit.nesting import forbid_nested_forward
from implicit_dsl.runtime.native import Kernels


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One use of a dense equilibrium: what the operation carries beside its tensors."""

    plan: Plan
    derived: Plan  # of adjoints and tangents
    policy: Policy
    record: Record
    kernels: Kernels | None = None

    def solve(self, system: System) -> Found:
        """The solution under the policy. Raises ConvergenceError, or warns, as that demands."""
        plan = self.derived if system.linear else self.plan
        found = solve(system, plan, self.kernels)
        if found.counted:
            return found
        found = checked(found, system, plan)
        if found.solved(plan.tolerance):
            return found
        if system.linear:
            found = solve_in_units(system, plan, self.kernels) or found
            if found.solved(plan.tolerance):
                return found
        return judged(found, system, plan, self.policy, self.record)

    def equilibrium(self, A: Tensor, c: Tensor, start: Tensor | None) -> Found:
        """The solution for plain tensors, entered in the record."""
        record = self.record
        found = self.solve(System(A, c, start))
        if self._mixes_sides(found, len(A)):
            # it moves no entry by more than the residual
            image = self.plan.activation.apply_(torch.addmm(c, found.x, A.T))
            found = found._replace(x=torch.where((image > 0) == (found.x > 0), found.x, image))
        record.forward = found
        record.adjoint, record.tolerances = None, (self.plan.tolerance, self.derived.tolerance)
        return found

    def _mixes_sides(self, found: Found, n: int) -> bool:
        """Whether an entry of x may be on the other side of the kink than its φ(z), of which slopes are read.

        Steps of plain iteration are values of φ, and so is what a solve returns where f does not
        expand. What acceleration has mixed is not.
        """
        kinked = self.plan.activation.name in ("relu", "leaky_relu")
        if not kinked or found.counted or (found.norm is not None and found.norm <= 1):
            return False
        _, steps = found.report()
        return bool(torch.as_tensor(steps).max() > min(EARLY_STEPS, picard_steps(n)))


def equilibrium(A: Tensor, c: Tensor, start: Tensor | None, call: Call) -> Tensor:
    """x (batch, n) for A (n, n) and c (batch, n), differentiable. The start has no gradient."""
    if torch._C._are_functorch_transforms_active():
        x: Tensor = MappedFunction.apply(A, c, start, call)  # type: ignore[no-untyped-call]
    elif torch.is_grad_enabled() or forward_ad._current_level >= 0:
        x = DenseFunction.apply(A, c, start, call)  # type: ignore[no-untyped-call]
    else:
        x = call.equilibrium(A, c, start).x
    return x


class DenseFunction(torch.autograd.Function):
    """(A (n, n), c (batch, n), start, call) -> x (batch, n), outside of the transforms of torch.func.

    Those need `setup_context`, with which PyTorch inspects the signature at every call: 40 µs.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor, c: Tensor, start: Tensor | None, call: Call) -> Tensor:
        found = call.equilibrium(A, c, start)
        ctx.call, ctx.norm = call, found.norm
        ctx.save_for_backward(A, found.x)
        ctx.save_for_forward(A, found.x)
        return found.x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        A, x = ctx.saved_tensors
        if torch.is_autocast_enabled(x.device.type):
            with unautocast(x.device):
                return _pulled(ctx, A, x, g)
        return _pulled(ctx, A, x, g)

    @staticmethod
    def jvp(ctx: Any, dA: Tensor | None, dc: Tensor | None, *_: None) -> Tensor:
        A, x = ctx.saved_tensors
        if dA is None and dc is None:
            return torch.zeros_like(x)
        forbid_nested_forward(ctx.call.policy.name)
        with unautocast(x.device):
            source = dc
            if dA is not None:
                source = x @ dA.T if dc is None else dc + x @ dA.T
            slope = ctx.call.plan.activation.slope(x)
            tangent: Tensor = LinearFunction.apply(A, slope, source, False, ctx.call)  # type: ignore[no-untyped-call]
        return tangent


def _pulled(ctx: Any, A: Tensor, x: Tensor, g: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of A and c."""
    call: Call = ctx.call
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        slope = call.plan.activation.slope(x)
        adjoint = LinearFunction.apply(A, slope, g, True, call)  # type: ignore[no-untyped-call]
    else:
        found = call.solve(System(A, g.contiguous(), at=x, transposed=True, norm=ctx.norm))
        call.record.adjoint, adjoint = found, found.x
    return torch.mm(adjoint.T, x) if ctx.needs_input_grad[0] else None, adjoint, None, None


class MappedFunction(DenseFunction):
    """The same for the transforms of torch.func."""

    @staticmethod
    def forward(A: Tensor, c: Tensor, start: Tensor | None, call: Call) -> Tensor:  # type: ignore[override]
        return call.equilibrium(A, c, start).x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        A, _, _, ctx.call = inputs
        ctx.norm = None
        ctx.save_for_backward(A, output)
        ctx.save_for_forward(A, output)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        A, *rows = move_front(inputs[:3], dims, info.batch_size)
        return map_rows(MappedFunction, A, rows, inputs[3:], dims[0] is None)


class LinearFunction(torch.autograd.Function):
    """(A (n, n), slope (batch, n), g (batch, n), transposed, call) -> w = slope ⊙ (A w + g), or with Aᵀ."""

    @staticmethod
    def forward(A: Tensor, slope: Tensor, g: Tensor, transposed: bool, call: Call) -> Tensor:
        with unautocast(g.device):
            found = call.solve(System(A, g.contiguous(), slope=slope, transposed=transposed))
        call.record.adjoint = found
        return found.x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        A, slope, g, ctx.transposed, ctx.call = inputs
        ctx.save_for_backward(A, slope, g, output)
        ctx.save_for_forward(A, slope, g, output)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        """From w = D (M w + g), with ν = D (Mᵀ ν + h): dg = ν, dM = ν wᵀ, dD = (Mᵀ ν + h) ⊙ (M w + g)."""
        A, slope, g, w = ctx.saved_tensors
        right = A if ctx.transposed else A.T
        with unautocast(w.device):
            back = LinearFunction.apply(A, slope, h, not ctx.transposed, ctx.call)  # type: ignore[no-untyped-call]
            dA = dslope = None
            if ctx.needs_input_grad[0]:
                dA = w.T @ back if ctx.transposed else back.T @ w
            if ctx.needs_input_grad[1]:
                dslope = (back @ right.T + h) * (w @ right + g)
        return dA, dslope, back, None, None

    @staticmethod
    def jvp(ctx: Any, dA: Tensor | None, dslope: Tensor | None, dg: Tensor | None, *_: None) -> Tensor:
        """ẇ = D (M ẇ + Ṁ w + ġ) + e with e = Ḋ (M w + g), so ẇ − e solves the same equation."""
        forbid_nested_forward(ctx.call.policy.name)
        A, slope, g, w = ctx.saved_tensors
        right = A if ctx.transposed else A.T
        with unautocast(w.device):
            source = torch.zeros_like(g) if dg is None else dg
            if dA is not None:
                source = source + w @ (dA if ctx.transposed else dA.T)
            offset = torch.zeros_like(g) if dslope is None else dslope * (w @ right + g)
            inner = LinearFunction.apply(A, slope, source + offset @ right, ctx.transposed, ctx.call)  # type: ignore[no-untyped-call]
        tangent: Tensor = inner + offset
        return tangent

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        A, *rows = move_front(inputs[:3], dims, info.batch_size)
        return map_rows(LinearFunction, A, rows, inputs[3:], dims[0] is None)


def move_front(tensors: Any, dims: Any, size: int) -> list[Tensor | None]:
    """Tensors with the mapped dimension in front; the first as it is if it is not mapped."""
    moved: list[Tensor | None] = []
    for place, (given, dim) in enumerate(zip(tensors, dims)):
        if given is None or (dim is None and place == 0):
            moved.append(given)
        elif dim is None:
            moved.append(given.expand(size, *given.shape))
        else:
            moved.append(given.movedim(dim, 0))
    return moved


def map_rows(function: Any, A: Any, rows: Any, settings: Any, one_matrix: bool) -> tuple[Tensor, int]:
    """Mapped rows are more rows of one batch; mapped matrices are solved one by one."""
    if one_matrix:
        flat = [None if given is None else given.reshape(-1, given.shape[-1]) for given in rows]
        found: Tensor = function.apply(A, *flat, *settings)
        return found.reshape(rows[0].shape), 0
    each = [
        function.apply(A[i], *(None if given is None else given[i] for given in rows), *settings)
        for i in range(len(A))
    ]
    return torch.stack(each), 0
