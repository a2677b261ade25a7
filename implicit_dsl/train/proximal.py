"""Proximal steps behind those of any optimiser, so that weights become exactly zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from implicit_dsl.runtime.constraints.base import tensor_of
from implicit_dsl.runtime.measures.applying import by_gradient, penalty

# For each entry v̂ of the second moments, an optimiser divides its step by √v̂ + ε.
_MOMENTS = {"Adam": "exp_avg_sq", "AdamW": "exp_avg_sq", "NAdam": "exp_avg_sq", "RAdam": "exp_avg_sq"}


class ProximalStep:
    """An optimiser whose steps end with the proximal operators of the penalties of models.

        step = ProximalStep(torch.optim.Adam(model.parameters(), 1e-3), model)
        for u, target in batches:
            step.zero_grad()
            loss(model(u), target).backward()     # without model.penalty()
            step.step()                           # or that of the optimiser itself

    What the source asks for by `@penalty` must not be part of the loss: terms with a proximal operator are
    dealt with behind each step, which also moves weights back into the sets of the source; the gradient of
    the others is added before it. Learning rates may change, and a GradScaler may skip steps.

    `metric` "optimizer": the operators use the step that the optimiser takes for each entry, as Adam's
    lr ∕ (√v̂ + ε), so that a weight stays zero exactly while its gradient is small against the penalty (Yun,
    Lozano and Yang 2021). "euclidean": the learning rate alone.

    Raises TypeError if no model has penalties or sets, ValueError for an optimiser without their weights.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *models: nn.Module,
        metric: Literal["optimizer", "euclidean"] = "optimizer",
    ) -> None:
        if metric not in ("optimizer", "euclidean"):
            raise ValueError(f"there is no metric `{metric}`: it is optimizer or euclidean")
        kept = [inner for model in models for inner in model.modules() if _is_concerned(inner)]
        if not kept:
            raise TypeError("none of these models has a `@penalty` or a set of weights: nothing is proximal")
        self.optimizer, self.metric = optimizer, metric
        self.models = tuple(dict.fromkeys(kept))
        held = {id(tensor) for group in optimizer.param_groups for tensor in group["params"]}
        asked = [(model, name) for model in self.models for one in _penalties(model) for name in one.tensors]
        if asked and not any(id(tensor_of(model, name)) in held for model, name in asked):
            raise ValueError("the optimiser holds none of the weights that these models penalize")
        self._handles = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the optimiser, with its proximal operators."""
        return self.optimizer.step(closure) if closure is not None else self.optimizer.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, as the optimiser does."""
        self.optimizer.zero_grad(set_to_none)

    def penalty(self) -> Tensor:
        """All penalties of the models: one number, to be reported beside the loss."""
        values = [penalty(model, _penalties(model)) for model in self.models if _penalties(model)]
        return torch.stack(values).sum() if values else torch.zeros(())

    def remove(self) -> None:
        """Leave the optimiser as it was."""
        for handle in self._handles:
            handle.remove()

    # ----------------------------------------------------------------------- around a step

    def _rest(self) -> Tensor | None:
        """The penalties without a proximal operator, differentiable; None if there are none."""
        values = [penalty(model, rest) for model in self.models if (rest := by_gradient(_penalties(model)))]
        return torch.stack(values).sum() if values else None

    def _before(self, optimizer: Any, arguments: Any, keywords: Any) -> Any:
        closure = keywords.get("closure", arguments[1] if len(arguments) > 1 else None)
        if closure is None:
            with torch.enable_grad():
                rest = self._rest()
                if rest is not None and rest.requires_grad:
                    torch.autograd.backward(rest)
            return None

        def with_rest() -> Any:
            with torch.enable_grad():
                loss = closure()
                rest = self._rest()
                if rest is not None and rest.requires_grad:
                    torch.autograd.backward(rest)
            return loss if rest is None else loss + rest.detach()

        return (arguments[0], with_rest), {}

    def _after(self, optimizer: Any, arguments: Any, keywords: Any) -> None:
        steps = self._steps()
        for model in self.models:
            if not _penalties(model):
                cast(Any, model).project_()
                continue
            names = dict.fromkeys(name for one in _penalties(model) for name in one.tensors)
            own = {name: steps[id(t)] for name in names if id(t := tensor_of(model, name)) in steps}
            given = list(own.values())
            equal = len(own) == len(names) and all(step.ndim == 0 for step in given)
            if equal and len({float(step) for step in given}) == 1:
                cast(Any, model).prox_(float(given[0]))
            else:
                cast(Any, model).prox_(own)

    def _steps(self) -> dict[int, Tensor]:
        """The step of each tensor of the optimiser, by its identity: [], or one for each entry."""
        found = {}
        for group in self.optimizer.param_groups:
            for tensor in group["params"]:
                rate = torch.as_tensor(group["lr"], dtype=torch.float64)
                scale = self._scale(tensor, group) if self.metric == "optimizer" else None
                found[id(tensor)] = rate if scale is None else rate.to(scale.device) / scale
        return found

    def _scale(self, tensor: Tensor, group: dict[str, Any]) -> Tensor | None:
        """What the optimiser divides the steps of a tensor by; None if by the same for all entries."""
        state, eps = self.optimizer.state.get(tensor, {}), float(group.get("eps", 0.0))
        kind = type(self.optimizer).__name__
        moments: Tensor | None = None
        if kind in _MOMENTS and _MOMENTS[kind] in state:
            count = float(state.get("step", 1))
            moments = state.get("max_exp_avg_sq", state[_MOMENTS[kind]]).double()
            moments = moments / (1 - float(group["betas"][1]) ** count)
        elif kind == "RMSprop" and "square_avg" in state:
            moments = state["square_avg"].double()
            if moments is not None and group.get("centered"):
                moments = moments - state["grad_avg"].double().square()
        elif kind == "Adagrad" and "sum" in state:
            moments = state["sum"].double()
        elif kind == "Adamax" and "exp_inf" in state:
            moments = state["exp_inf"].double().square()
        return None if moments is None else moments.clamp_min(0.0).sqrt() + eps


def _penalties(model: nn.Module) -> Any:
    return getattr(model, "penalties", ())


def _is_concerned(module: nn.Module) -> bool:
    return bool(_penalties(module)) or hasattr(module, "project_")


__all__ = ["ProximalStep"]
