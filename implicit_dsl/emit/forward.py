"""The computation of a model as Python: states in order, each an expression over those before."""

from __future__ import annotations

import keyword
from collections.abc import Collection
from dataclasses import replace

from implicit_dsl.clock import negated
from implicit_dsl.emit.fusion import Fusion, Fusions, count_uses, find_fusions, layered
from implicit_dsl.emit.naming import CALLED_IN_FORWARD, Names
from implicit_dsl.emit.releasing import is_large, released
from implicit_dsl.emit.wording import INDENT, WIDTH, comment, fitted
from implicit_dsl.model import Block, ImplicitModel, Term
from implicit_dsl.names import TAKEN_GLOBALS, identifier
from implicit_dsl.operators import OPERATORS, activation_rule, linear_rule
from implicit_dsl.operators.base import Expression, Operator, Rule
from implicit_dsl.operators.slots import place_of
from implicit_dsl.operators.timed import TIMED
from implicit_dsl.shapes import Dim, Shape

_LONGEST_INSIDE = 60  # of an expression that may stand inside of another


class Forward:
    """Writes `forward` of one model. `names` says what the runtime is called in its file.

    `explicit` are texts for tensors that do not come from their layer, by id; with `fused` false,
    nothing of the runtime is called. No variable has a name that is `taken`.
    """

    def __init__(
        self,
        model: ImplicitModel,
        names: Names,
        explicit: dict[str, str] | None = None,
        fused: bool = True,
        taken: Collection[str] = (),
    ) -> None:
        self.model = model
        self.names = names
        self.explicit = explicit or {}
        self.indent = INDENT
        # the variables of the time of a step, and of its length, and where functions of these are from
        self.clock: dict[str, str] = {"math": names.carried("math")}
        self.runtime_calls: set[str] = set()
        self.fusions = find_fusions(model) if fused else Fusions({}, {})
        self._absorbed = {name for fusion in self.fusions.states.values() for name in fusion.absorbed}
        self._taken: set[str] = {*TAKEN_GLOBALS, names.carried("math"), *taken}
        if names.standalone and fused:
            called = (*CALLED_IN_FORWARD, *(fusion.function for fusion in self.fusions.states.values()))
            self._taken |= {names.carried(name) for name in called}
        self.inputs = {block.name: self._variable(block.name) for block in model.inputs}
        self._values = {name: Expression(variable) for name, variable in self.inputs.items()}
        self._waiting: dict[str, Expression] = {}  # linear values inside of the one line that reads them
        self._uses = count_uses(model)
        self._layered = layered(model)  # their values are what their layers take
        self._lines: list[str] = []
        self._large: set[str] = set()  # variables that are let go when they have been read
        self._is_large = False  # what is being written now
        self._comments: list[str] = []
        self._last_comment = ""

    def _variable(self, name: str) -> str:
        """A local variable for a name of the source, which nothing else has."""
        variable = identifier(name)
        while variable in self._taken or keyword.iskeyword(variable):
            variable += "_"
        self._taken.add(variable)
        return variable

    @property
    def first_input(self) -> str:
        """An input, which gives the batch."""
        return next(iter(self.inputs.values()))

    @property
    def real(self) -> str:
        """A tensor of real numbers, which gives dtype and device: an input, or else a parameter."""
        real = (name for block, name in zip(self.model.inputs, self.inputs.values()) if not block.tokens)
        tensor = next((f"self.{tensor.id}" for tensor in self.model.tensors if tensor.trainable), None)
        return next(real, tensor or f"{self.first_input}.float()")

    # ------------------------------------------------------------------ what surrounds the body

    def fields(self) -> dict[str, str]:
        """The names of several outputs in the tuple that is returned."""
        taken = {"count", "index"}
        found: dict[str, str] = {}
        for block in self.model.outputs:
            name = identifier(block.name).lstrip("_") or "output"
            while name in taken or keyword.iskeyword(name):
                name += "_"
            taken.add(name)
            found[block.name] = name
        return found

    # ------------------------------------------------------------------ the body

    def lines(self, output_class: str) -> list[str]:
        """The body of `forward`; several outputs are returned as an `output_class`."""
        for block in self.model.states:
            self._block(block)
        results = []
        for block in self.model.outputs:
            self._remark(block)
            self._is_large = is_large(block.slots)
            variable = self._variable(block.name)
            value = self._sum(block, self.model.terms_of[block.name])
            if self._too_long(f"{variable}: Tensor", value, ""):
                value = self._shortened(block, None)
            self._assign(f"{variable}: Tensor", value, "")
            results.append(variable)
        result = results[0]
        if output_class:
            pairs = zip(self.fields().values(), results)
            result = f"{output_class}({', '.join(f'{field}={value}' for field, value in pairs)})"
        return released([*self._lines, f"return {result}"], self._large, self.indent)

    def _block(self, block: Block) -> None:
        if block.name in self._absorbed:
            self._remark(block)
        else:
            self._state(block)

    def _state(self, block: Block) -> None:
        self._remark(block)
        self._is_large = is_large(block.slots)
        fusion = self.fusions.states.get(block.name)
        if fusion is not None:
            value = self._sum(block, self.model.terms_of[fusion.start])
            wrap = ""
            if fusion.function:
                self.runtime_calls.add(fusion.function)
                wrap = self.names(fusion.function)
        elif block.activation is None or block.name in self._layered:
            value, wrap = self._sum(block, self.model.terms_of[block.name]), ""
            short = len(value.text) <= _LONGEST_INSIDE
            if not block.declared and self._uses[block.name] == 1 and short:
                self._waiting[block.name] = value
                self._values[block.name] = value
                return
        else:
            value, wrap = self._activated(block, self._arguments(block)), ""
        variable = self._variable(self._called(block.name))
        if self._too_long(variable, value, wrap):
            value = self._shortened(block, fusion)
        self._assign(variable, value, wrap)
        self._values[block.name] = Expression(variable)

    def _too_long(self, variable: str, value: Expression, wrap: str) -> bool:
        text = f"{variable} = {wrap}({value.text})" if wrap else f"{variable} = {value.text}"
        return len(text) + self.indent > WIDTH

    def _shortened(self, block: Block, fusion: Fusion | None) -> Expression:
        """The value of a state once those that wait have got lines of their own."""
        terms = self.model.terms_of[fusion.start if fusion else block.name]
        linear = fusion is not None or block.activation is None or block.name in self._layered
        arguments = [(block, terms)] if linear else self._slots(block)
        inner = [self._shortened_sum(part, summed) for part, summed in arguments]
        if linear:
            return inner[0]
        value = self._activated(block, inner)
        if not self._too_long(identifier(block.name), value, ""):
            return value
        for number, (part, _) in enumerate(arguments):
            if inner[number].lines or (len(arguments) > 1 and not inner[number].text.isidentifier()):
                before = self._variable(part.name if len(arguments) > 1 else f"{part.name}_z")
                self._assign(before, inner[number], "")
                inner[number] = Expression(before)
        return self._activated(block, inner)

    def _shortened_sum(self, block: Block, terms: tuple[Term, ...]) -> Expression:
        for term in terms:
            self._release(term.source)
        inner = self._sum(block, terms)
        plain = len(terms) > 1 and not inner.lines and any(term.source is not None for term in terms)
        if plain and self._too_long(identifier(block.name), inner, "x" * 12):
            inner = self._plain_sum(terms, block.name)
        return inner

    def _slots(self, block: Block) -> list[tuple[Block, tuple[Term, ...]]]:
        """The arguments of an activation, each a sum of its own."""
        terms, activation = self.model.terms_of[block.name], block.activation
        assert activation is not None
        rule = activation_rule(activation)
        if len(rule.arguments) == 1:
            return [(block, terms)]
        slots: dict[Dim, list[Term]] = {}
        for term in terms:
            slots.setdefault(term.chain[-1]["start"], []).append(replace(term, chain=term.chain[:-1]))
        shapes = zip((*rule.arguments, *rule.optional), rule.slots(activation))
        parts = [Block(f"{block.name}_{name}", shape) for name, shape in shapes]
        return [(part, tuple(slots[start])) for part, start in zip(parts, sorted(slots, key=place_of))]

    def _arguments(self, block: Block) -> list[Expression]:
        return [self._sum(part, terms) for part, terms in self._slots(block)]

    def _activated(self, block: Block, arguments: list[Expression]) -> Expression:
        assert block.activation is not None

        def keep(value: Expression) -> Expression:
            variable = self._variable(f"{identifier(block.name)}_z")
            self._assign(variable, value, "")
            return Expression(variable)

        rule = activation_rule(block.activation)
        return self._calling(rule, rule.emit_kept(block.activation, arguments, keep))

    def _called(self, name: str) -> str:
        """The variable of a state is named after it, if it holds its value."""
        return f"{name}_z" if name in self._layered else name

    def _release(self, name: str | None) -> None:
        """Give a waiting value a line of its own."""
        if name is None or name not in self._waiting:
            return
        value = self._waiting.pop(name)
        if value.text.isidentifier():
            return
        variable = self._variable(self._called(name))
        self._assign(variable, value, "")
        self._values[name] = Expression(variable)

    def _remark(self, block: Block) -> None:
        text = comment(block)
        if text not in self._comments:
            self._comments.append(text)

    def _assign(self, variable: str, value: Expression, wrap: str) -> None:
        """One assignment, behind the comments of the lines that it comes from."""
        if self._is_large:
            self._large.add(variable.partition(":")[0])
        self._show_comments()
        inside = not value.tight and self.indent + 4 + len(value.text) <= WIDTH  # of brackets around it
        if self._too_long(variable, value, wrap) and value.lines and not wrap and not inside:
            first, *others = value.lines
            self._lines += [f"{variable} = {first}", *others]
        else:
            text = f"{variable} = {wrap}({value.text})" if wrap else f"{variable} = {value.text}"
            self._lines += fitted(text, indent=self.indent)

    def _show_comments(self) -> None:
        """The comments that wait, but for the one that the lines above stand below already."""
        shown = [line for line in self._comments if line != self._last_comment]
        self._lines += shown
        self._comments = []
        self._last_comment = shown[-1] if shown else self._last_comment

    # ------------------------------------------------------------------ expressions

    def _sum(self, block: Block, terms: tuple[Term, ...]) -> Expression:
        """The pre-activation: the sum of its terms, a concatenation, or the sum of one and other terms."""
        placed = tuple(term for term in terms if term.chain and term.chain[-1].kind == "place")
        if placed:
            joined = self._concatenation(placed)
            rest = tuple(term for term in terms if term not in placed)
            return self._added(joined, self._plain_sum(rest)) if rest else joined
        total = self._plain_sum(terms)
        if all(term.source is None for term in terms):
            # nothing here has a batch axis, so a batch of zeros brings it in
            batch = f"{self.first_input}.shape[0]"
            sizes = ", ".join([batch, *map(str, block.slots)])
            zeros = f"{self.real}.new_zeros(({sizes}{',' if not block.slots else ''}))"
            return Expression(f"{zeros} + {total.atom}", tight=False)
        return total

    def _added(self, joined: Expression, rest: Expression) -> Expression:
        """A concatenation with what is added to it."""
        first = joined.lines or (joined.text,)
        lines = ("(", *(f"    {line}" for line in first), f"    + {rest.text}", ")")
        return Expression(f"{joined.atom} + {rest.text}", tight=False, lines=lines, fresh=True)

    def _plain_sum(self, terms: tuple[Term, ...], named: str = "") -> Expression:
        """The sum of some terms; with `named`, all but plain values get lines of their own first."""
        summands: list[str] = []
        for term in terms:
            sign, value = self._signed(term)
            if len(terms) == 1 and not sign:
                return value
            if named and any(c in value.text for c in "(*"):
                variable = self._variable(f"{named}_term{len(summands) + 1}")
                self._assign(variable, value, "")
                value = Expression(variable)
            # the one expression that is not tight, and binds more tightly than a sum, is a product
            text = value.text if value.tight or self._is_product(term) else value.atom
            summands.append(f"{sign}{text}" if not summands else f"{sign or '+'} {text}")
        lines = ("(", *(f"    {text}" for text in summands), ")") if named else ()
        fresh = len(terms) > 1 and any(term.source is not None for term in terms)
        return Expression(" ".join(summands), tight=False, lines=lines, fresh=fresh)

    def _is_product(self, term: Term) -> bool:
        last = term.chain[-1] if term.chain else None
        if last is not None and last.kind == "timed_scale":
            return True
        return last is not None and last.kind == "scale" and last["factor"] != -1

    def _signed(self, term: Term) -> tuple[str, Expression]:
        """A summand, and '-' if it is subtracted."""
        last = term.chain[-1] if term.chain else None
        if last is not None and last.kind == "scale" and last["factor"] < 0:
            value = self._chain(term.source, term.chain[:-1])
            if last["factor"] == -1:
                return "-", value
            return "-", self._apply(
                OPERATORS["scale"].operator({"factor": -last["factor"]}, last.source), value
            )
        if last is not None and last.kind == "constant" and last["value"] < 0:
            return "-", Expression(repr(-last["value"]))
        if last is not None and last.kind in TIMED and (number := negated(last["number"])) is not None:
            settings = (("largest", last["largest"]), ("number", number))
            chain = (*term.chain[:-1], replace(last, settings=settings))
            return "-", self._chain(term.source, chain)
        return "", self._chain(term.source, term.chain)

    def _concatenation(self, terms: tuple[Term, ...]) -> Expression:
        parts: dict[int, list[Term]] = {}
        shapes: dict[int, Shape] = {}
        for term in terms:
            *chain, place = term.chain
            parts.setdefault(place["start"], []).append(Term(term.target, term.source, tuple(chain)))
            shapes[place["start"]] = place.source
        axis = terms[0].chain[-1]["axis"]
        texts = [self._sum(Block("", shapes[at]), tuple(parts[at])).text for at in sorted(parts)]
        if len(texts) == 1:
            return Expression(texts[0], tight=False)
        lines = (
            "torch.cat(",
            "    (",
            *(f"        {text}," for text in texts),
            "    ),",
            f"    {axis + 1},",
            ")",
        )
        return Expression(f"torch.cat(({', '.join(texts)}), {axis + 1})", lines=lines)

    def _chain(self, source: str | None, chain: tuple[Operator, ...]) -> Expression:
        if source is not None:
            value = self._values[source]
            if source in self._layered:
                value, chain = self._layer(source, chain[0], value), chain[1:]
            for operator in chain:
                value = self._apply(operator, value)
            return value
        first, *others = chain
        value = self._apply(first, Expression("1"))
        if any(operator.kind not in ("scale", "timed_scale") for operator in others):
            # what follows acts behind the batch axis, which a constant does not have
            if first.kind == "constant":
                value = Expression(f"{self.real}.new_full({(1, *first.target)!r}, {first['value']!r})")
            elif first.kind == "timed_constant":
                value = Expression(f"{self.real}.new_full({(1, *first.target)!r}, {value.text})")
            else:
                value = Expression(f"{value.atom}[None]")
        for operator in others:
            value = self._apply(operator, value)
        return value

    def _layer(self, name: str, affine: Operator, z: Expression) -> Expression:
        """A normalisation and its factors, on what it normalises."""
        activation = self.model.blocks[name].activation
        assert activation is not None
        if any(id in self.explicit for _, id in affine.parameters):
            return activation_rule(activation).emit_affine(activation, z, self._texts(affine))
        return Expression(f"self.{affine.parameters[0][1].split('.')[0]}({z.text})")

    def _texts(self, operator: Operator) -> dict[str, str]:
        return {role: self.explicit.get(id, f"self.{id}") for role, id in operator.parameters}

    def _apply(self, operator: Operator, value: Expression) -> Expression:
        return self._calling(linear_rule(operator), self._applied(operator, value))

    def _calling(self, rule: Rule, made: Expression) -> Expression:
        """An expression with what it calls of the runtime as the file calls that."""
        for name in rule.calls:
            if (call := f"runtime.{name}(") in made.text:
                self.runtime_calls.add(name)
                own = f"{self.names(name)}("
                lines = tuple(line.replace(call, own) for line in made.lines)
                made = replace(made, text=made.text.replace(call, own), lines=lines)
        return made

    def _applied(self, operator: Operator, value: Expression) -> Expression:
        rule = linear_rule(operator)
        if operator.kind in TIMED:
            return rule.emit_with(operator, value, self.clock)
        if not operator.parameters:
            return rule.emit(operator, value, "")
        # a `param` stands for itself, and the transpose of a layer takes the weight of that
        if rule.holder(operator) is None or any(id in self.explicit for _, id in operator.parameters):
            return rule.emit_with(operator, value, self._texts(operator))
        return rule.emit(operator, value, "self." + operator.parameters[0][1].split(".")[0])
