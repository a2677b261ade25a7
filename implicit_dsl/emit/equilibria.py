"""Loops in `forward`: what comes in is computed once, then an equilibrium of the runtime solves the rest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from implicit_dsl.clock import text
from implicit_dsl.emit.dense import DensePlan, dense_plan
from implicit_dsl.emit.forward import Forward
from implicit_dsl.emit.loops import SweepPlan, function_name, needed_outside, next_name, plan, shape_text
from implicit_dsl.emit.naming import Names
from implicit_dsl.emit.releasing import is_large, released
from implicit_dsl.emit.wording import INDENT, WIDTH, called, fitted
from implicit_dsl.model import Block, ImplicitModel, Loop
from implicit_dsl.names import TAKEN_ATTRIBUTES, identifier
from implicit_dsl.operators import activation_rule
from implicit_dsl.operators.base import Expression


class Network(Forward):
    """Writes `forward` of a model that may have loops, and a function for each sweep.

    No variable and no attribute has a name that is `taken`.
    """

    def __init__(self, model: ImplicitModel, names: Names, taken: Collection[str] = ()) -> None:
        ids = [tensor.id for tensor in model.tensors if tensor.within is not None]
        ids += [id for made in model.constraints if made.method == "parametrize" for id in made.tensors]
        self.made = {id: f'weights["{id}"]' for id in ids}  # weights that are made of parameters
        words = ["weights"] if self.made else []
        words += ["x0", "starts", "weights"] if model.loops else []
        super().__init__(model, names, dict(self.made), taken=(*words, *taken))
        self.plans = {loop.name: plan(model, loop) for loop in model.loops}
        self.dense = {
            loop.name: found
            for loop in model.loops
            if not names.standalone and (found := dense_plan(model, loop, self.plans[loop.name])) is not None
        }
        self.attributes = _attributes(model, taken)
        self._loop_of = {name: loop for loop in model.loops for name in loop.states}
        self._started: set[str] = set()
        self._incoming: dict[str, Expression] = {}  # what each loop gets from outside

    # ------------------------------------------------------------------ in `forward`

    def preparations(self) -> list[str]:
        """What `forward` does before the first state: weights that are made of others, first guesses."""
        lines = []
        if any(made.method == "project" and made.uses for made in self.model.constraints):
            lines.append(f"{self.names('require')}(self, self.constraints)")
        if self.made:
            lines.append("weights = self.effective_weights()")
        if not self.model.loops:
            return lines
        first = self.first_input
        if self.model.inputs[0].tokens:  # gives the batch, but no dtype
            first = f"{self.real}.new_empty(({first}.shape[0],))"
        shapes = {
            name: shape_text(self.model.blocks[name].shape, self.inputs)
            for loop in self.model.loops
            for name in loop.iterated
        }
        listed = ", ".join(f'"{name}": {shape}' for name, shape in shapes.items())
        starting = {name: start for name in shapes if (start := self.model.blocks[name].start)}
        values = ", ".join(
            f'"{name}": {start[0] if len(start) == 1 else start!r}' for name, start in starting.items()
        )
        given = f", {{{values}}}" if starting else ""
        lines += fitted(f"starts = {self.names('first_guesses')}(x0, {first}, {{{listed}}}{given})")
        return lines

    def _block(self, block: Block) -> None:
        loop = self._loop_of.get(block.name)
        if loop is None:
            super()._block(block)
        elif loop.name not in self._started:
            self._started.add(loop.name)
            self._loop(loop)

    def _loop(self, loop: Loop) -> None:
        sweep = self.plans[loop.name]
        self._is_large = is_large(self.model.blocks[loop.name].slots)
        for name in loop.states:
            if self.model.blocks[name].declared or name in loop.iterated:
                self._remark(self.model.blocks[name])
        last = convolves_images(sweep)
        for made in sweep.injections:
            for term in made.terms:
                self._release(term.source)
            images = last and len(made.shape) == 3
            if not made.is_plain or images:
                variable = self._variable(f"{loop.name}.in" if made.is_plain else made.name)
                value = self._sum(Block(made.name, made.shape), made.terms)
                if images:  # convolutions are faster so, and the loop keeps the format that it is given
                    value = Expression(f"{self.names('channels_last')}({value.text})")
                self._assign(variable, value, "")
                self._incoming[made.name] = Expression(variable)
            else:
                self._incoming[made.name] = self._values[made.name]
            self._values.setdefault(made.name, self._incoming[made.name])
        for mask in sweep.masks:
            variable = self._variable(mask.id)
            shape = shape_text(mask.shape, self.inputs, (f"{self.first_input}.shape[0]",))
            ones = f"{self.real}.new_ones({shape})"
            self._assign(variable, Expression(f"F.dropout({ones}, {mask.p!r}, self.training)"), "")
            self.explicit[mask.id] = variable
        for scaled in sweep.scaled:
            kernel = self.explicit.get(scaled.kernel, f"self.{scaled.kernel}")
            self.explicit[scaled.id] = f"{scaled.factor!r} * {kernel}"
        dense = self.dense.get(loop.name)
        if dense is not None:
            self._dense_call(loop, sweep, dense)
        else:
            self._call(loop, sweep)
        self._follow(loop, sweep)

    def _follow(self, loop: Loop, sweep: SweepPlan) -> None:
        """The other states of a loop, where they are read: computed as its sweeps compute them."""
        outer, explicit = self.model, self.explicit
        wanted = needed_outside(outer, loop)
        frozen = {
            id: explicit.get(id, f"self.{id}")
            for term in sweep.model.terms
            for operator in term.chain
            if operator.kind == "batch_norm"
            for _, id in operator.parameters
        }
        clock = self.clock
        self.clock = {**clock, **{made.id: f"({text(made.number, clock)})" for made in sweep.timed}}
        self.model, self.explicit = sweep.model, {**explicit, **frozen}
        for name in loop.states:
            if name in wanted:
                self._state(self.model.blocks[name])
        self._statistics(sweep)
        self.model, self.explicit, self.clock = outer, explicit, clock

    def _call(self, loop: Loop, sweep: SweepPlan) -> None:
        starts = [self._starting(name) for name in loop.iterated]
        batched = [self._incoming[made.name].text for made in sweep.injections]
        batched += [self.explicit[mask.id] for mask in sweep.masks]
        shared = [self.explicit.get(id, f"self.{id}") for id in sweep.tensors]
        moving = _statistics_of(sweep)  # in place, before the adjoint reads what it was solved with
        shared = [f"{given}.clone()" if id in moving else given for id, given in zip(sweep.tensors, shared)]
        shared += [f"{self.real}.new_tensor({text(made.number, self.clock)})" for made in sweep.timed]
        variables = [self._variable(name) for name in loop.iterated]
        left = f"({variables[0]},)" if len(variables) == 1 else ", ".join(variables)
        self._show_comments()
        self._lines += called(f"{left} = self.{self.attributes[loop.name]}", [starts, batched, shared])
        for name, variable in zip(loop.iterated, variables):
            self._values[name] = Expression(variable)
            self._large |= {variable} if self._is_large else set()

    def _starting(self, name: str) -> str:
        """The first guess of a state that is iterated."""
        return f'starts["{name}"]'

    def _dense_call(self, loop: Loop, sweep: SweepPlan, dense: DensePlan) -> None:
        made = dense.matrix(self.explicit)
        matrix = made.text
        if len(matrix) > 40:
            variable = self._variable(f"{loop.name}_matrix")
            self._assign(variable, made, "")
            matrix = variable
        incoming = self._incoming[sweep.injections[0].name].text
        if dense.bias:
            incoming += " + " + " + ".join(self.explicit.get(id, f"self.{id}") for id in dense.bias)
        variable = self._variable(loop.name)
        call = f"self.{self.attributes[loop.name]}({matrix}, {incoming}, {self._starting(loop.name)})"
        self._assign(variable, Expression(call), "")
        self._values[loop.name] = Expression(variable)

    def _statistics(self, sweep: SweepPlan) -> None:
        """Running statistics follow once for each solve, from its result."""
        for term in sweep.model.terms:
            for at, operator in enumerate(term.chain):
                if operator.kind == "batch_norm":
                    layer = operator.parameters[0][1].split(".")[0]
                    value = self._chain(term.source, term.chain[:at])
                    self._show_comments()
                    self._lines.append(f"if self.{layer}.training:")
                    function = self.names("update_statistics")
                    self._lines.append(f"    {function}(self.{layer}, {value.text})")

    # ------------------------------------------------------------------ beside `forward`

    def functions(self) -> list[str]:
        """The lines of the functions of the sweeps."""
        lines: list[str] = []
        for loop in self.model.loops:
            if loop.name not in self.dense:
                lines += _functions(self.model, self.plans[loop.name])
        return lines


def _functions(model: ImplicitModel, sweep: SweepPlan) -> list[str]:
    """The functions of a sweep: one, or the affine part and φ, and the two together."""
    if not sweep.split:
        return ["", "", *_function(model, sweep, "", "its new states from the old ones")]
    name = function_name(model, sweep.loop)
    activation = sweep.model.blocks[next_name(sweep.loop.name)].activation
    phi = (
        Expression("z")
        if activation is None
        else activation_rule(activation).emit(activation, Expression("z"))
    )
    plain = tuple(
        replace(block, activation=None) if block.name == next_name(sweep.loop.name) else block
        for block in sweep.model.states
    )
    affine = replace(sweep, model=replace(sweep.model, states=plain))
    arguments = _Sweep(affine).arguments
    listed = ", ".join(f"{argument}: Tensor" for argument in arguments)
    return [
        "",
        "",
        *_function(model, affine, "_affine", "the pre-activation of its new state"),
        "",
        "",
        f"def {name}_phi(z: Tensor) -> Tensor:",
        f'    """The activation of the loop {{{sweep.loop.name}}}."""',
        f"    return {phi.text}",
        "",
        "",
        *_head(f"{name}({listed}) -> Tensor:", arguments),
        f'    """One sweep of the loop {{{sweep.loop.name}}}: its new states from the old ones."""',
        f"    return {name}_phi({name}_affine({', '.join(arguments)}))",
    ]


def _head(text: str, arguments: list[str]) -> list[str]:
    """The first line of a function, or its lines if it is too long for one."""
    head = f"def {text}"
    if len(head) <= WIDTH:
        return [head]
    before, _, after = head.partition("(")
    inner, _, returns = after.rpartition(") -> ")
    each = [f"    {inner}"] if len(inner) + 4 <= WIDTH else [f"    {name}: Tensor," for name in arguments]
    return [f"{before}(", *each, f") -> {returns}"]


def _function(model: ImplicitModel, sweep: SweepPlan, suffix: str, what: str) -> list[str]:
    """A function of the states of a loop, what comes in, and the tensors."""
    writer = _Sweep(sweep)
    arguments = ", ".join(f"{name}: Tensor" for name in writer.arguments)
    several = len(sweep.loop.iterated) > 1
    returns = f"tuple[{', '.join(['Tensor'] * len(sweep.loop.iterated))}]" if several else "Tensor"
    name = function_name(model, sweep.loop) + suffix
    names = ", ".join(sweep.loop.iterated)
    return [
        *_head(f"{name}({arguments}) -> {returns}:", writer.arguments),
        f'    """One sweep of the loop {{{names}}}: {what}."""',
        *("    " + line for line in writer.body()),
    ]


class _Sweep(Forward):
    """Writes the body of a sweep."""

    def __init__(self, sweep: SweepPlan) -> None:
        super().__init__(sweep.model, Names(), {}, fused=False)
        self._sweep = sweep
        self.indent = INDENT - 4  # of a function
        self.explicit = {id: self._variable(id) for id in (*(m.id for m in sweep.masks), *sweep.tensors)}
        self.clock |= {made.id: self._variable(made.id) for made in sweep.timed}

    @property
    def arguments(self) -> list[str]:
        """The states, what comes in, masks and tensors."""
        return [
            *self.inputs.values(),
            *self.explicit.values(),
            *(self.clock[made.id] for made in self._sweep.timed),
        ]

    def body(self) -> list[str]:
        for block in self.model.states:
            self._block(block)
        results = [self._values[next_name(name)].text for name in self._sweep.loop.iterated]
        last = self._lines[-1] if self._lines else ""
        if len(results) == 1 and last.startswith(f"{results[0]} = "):
            lines = [*self._lines[:-1], f"return {last.partition(' = ')[2]}"]
        else:
            lines = [*self._lines, f"return {', '.join(results)}"]
        return released(lines, self._large, self.indent)


def _statistics_of(sweep: SweepPlan) -> set[str]:
    """The running statistics that a loop uses, by id."""
    chained = (operator for term in sweep.model.terms for operator in term.chain)
    return {
        id
        for operator in chained
        if operator.kind == "batch_norm"
        for role, id in operator.parameters
        if role.startswith("running")
    }


def convolves_images(sweep: SweepPlan) -> bool:
    """Whether a loop convolves images, which is faster with their channels last in memory."""
    chained = (operator for term in sweep.model.terms for operator in term.chain)
    return any(op.kind in ("conv", "conv_transpose") and len(op.source) == 3 for op in chained)


def _attributes(model: ImplicitModel, others: Collection[str]) -> dict[str, str]:
    """The attribute that holds the equilibrium of each loop."""
    taken = {tensor.id.split(".")[0] for tensor in model.tensors} | set(TAKEN_ATTRIBUTES) | set(others)
    found: dict[str, str] = {}
    for loop in model.loops:
        name = f"{identifier(loop.name)}_equilibrium".lstrip("_")
        while name in taken:
            name += "_"
        taken.add(name)
        found[loop.name] = name
    return found
