"""From wires to the graph: which values are states of their own.

A state has z = Σ chains and x = φ(z). On one edge at most one operator may mix or hold
parameters, so that each entry of A is one coefficient times one parameter; so every
activation becomes a state, and a linear value becomes one (with φ the identity) when it
is read more than once, or when another mixing operator follows it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeAlias

from implicit_dsl.graph import LONGEST_LINE, Edge, Node, Role, SignalGraph
from implicit_dsl.operators import OPERATORS, activation_rule, linear_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.recurrence import Carry, Recurrence
from implicit_dsl.resolve.wires import Carried, Network, Step, Wire
from implicit_dsl.source import Span

MOST_SPREAD = 8  # terms that a reshape or factor is applied to one by one, and operators in a chain


@dataclass(frozen=True, slots=True)
class _Term:
    source: str | None
    chain: tuple[Operator, ...]
    span: Span


_Form = tuple[_Term, ...]
Pair: TypeAlias = "tuple[Wire | None, Wire | None]"


@dataclass(frozen=True, slots=True)
class Lifted:
    """Nodes and edges in the order of the source, recurrences, and which blocks the named wires are."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    recurrences: tuple[Recurrence[SignalGraph], ...]
    blocks: dict[Wire, str]


@dataclass(slots=True)
class _Lift:
    """The graph so far; `forms` says how each wire is read."""

    network: Network
    reached: set[Wire]
    roots: tuple[Wire, ...] = ()  # of a step: what has to be a block of its own
    named: frozenset[Wire] = frozenset()  # what an `open` names, and has to be one, too
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    forms: dict[Wire, _Form] = field(default_factory=dict)
    drives: dict[Wire, list[Wire]] = field(default_factory=dict)  # value -> states whose equation it is
    taken: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    recurrences: list[Recurrence[SignalGraph]] = field(default_factory=list)

    def run(self) -> None:
        wires = [wire for wire in self.network.wires if wire in self.reached]
        self.taken.update(name for name, _, _ in self.network.outputs)
        for wire in wires:
            if wire.name:
                wire.name = self.free(wire.name, wire.name)
        for wire in wires:
            if wire.kind == "state":
                assert wire.drive is not None
                self.drives.setdefault(wire.drive, []).append(wire)
                self.forms[wire] = _read(wire.name, wire.span)
        inside = {part for wire in wires if wire.kind == "sum" for part in wire.sources if _is_inner(part)}
        for wire in wires:
            if wire.kind != "state" and wire not in inside:
                self.visit(wire)
            for state in self.drives.get(wire, ()):
                if not self.absorbed(wire):
                    self.node(state, None, self.forms[wire])
        for wire in self.roots:
            self.block(wire)
        for name, wire, span in self.network.outputs:
            self.nodes.append(Node(name, Role.OUTPUT, wire.shape, None, True, span))
            self.connect(name, self.forms[wire])

    # ------------------------------------------------------------------ wires

    def absorbed(self, wire: Wire) -> bool:
        """Whether a value is just what one state is: then the state takes its activation and terms."""
        return wire.kind in ("activation", "sum", "linear", "cat") and wire.uses == 1 and wire in self.drives

    def visit(self, wire: Wire) -> None:
        """How a value is read, and the states that this takes."""
        match wire.kind:
            case "input":
                shape = (*wire.shape, wire.tokens) if wire.tokens else wire.shape
                made = Node(wire.name, Role.INPUT, shape, None, True, wire.span, tokens=wire.tokens != 0)
                self.nodes.append(made)
                self.forms[wire] = _read(wire.name, wire.span)
            case "constant":
                assert wire.operator is not None
                self.forms[wire] = (_Term(None, (wire.operator,), wire.span),)
            case "activation":
                state = self.drives[wire][0] if self.absorbed(wire) else wire
                form = self.arguments(wire)
                if state is wire:
                    self.name(wire)
                self.node(state, wire.operator, form)
                self.forms[wire] = _read(state.name, wire.span)
            case "sum":
                self.forms[wire] = tuple(t for part in _summands(wire) for t in self.summand(part))
            case "cat":
                self.forms[wire] = tuple(t for part in wire.sources for t in self.forms[part])
            case "linear":
                self.forms[wire] = self.applied(wire)
            case "recurrence":
                self.recurrence(wire)
            case "steps" | "last":
                self.name(wire)
                made = Node(wire.name, Role.STATE, wire.shape, None, wire.declared, wire.span, wire.path)
                self.nodes.append(made)
                self.forms[wire] = _read(wire.name, wire.span)
        if wire.kind in ("sum", "cat", "linear"):
            if self.absorbed(wire):
                self.node(self.drives[wire][0], None, self.forms[wire])
            elif wire in self.named or (wire.uses > 1 and self.costly(wire)):
                self.lift(wire)

    def arguments(self, wire: Wire) -> _Form:
        """What an activation reads: several arguments each stand in a slot of their own."""
        if len(wire.sources) == 1:
            return self.forms[wire.sources[0]]
        assert wire.operator is not None
        rule, shapes = activation_rule(wire.operator), tuple(source.shape for source in wire.sources)
        unread = [(*rule.arguments, *rule.optional).index(name) for name in rule.only_shapes]
        found: list[_Term] = []
        for number, source in enumerate(wire.sources):
            settings = {"index": number, "slots": shapes, "empty": number in unread}
            slot = OPERATORS["slot"].operator(settings, source.shape)
            found += [replace(term, chain=(*term.chain, slot)) for term in self.forms[source]]
        return tuple(found)

    def summand(self, wire: Wire) -> _Form:
        """How a wire is read as part of a sum: a concatenation is one value there."""
        return self.lift(wire) if wire.kind == "cat" else self.forms[wire]

    def applied(self, wire: Wire) -> _Form:
        """A linear operator behind what it reads."""
        operator, source = wire.operator, wire.sources[0]
        assert operator is not None
        form = self.summand(source)
        if operator.kind == "reshape" and operator.source == operator.target:
            return form
        if linear_rule(operator).mixing:
            fits = len(form) == 1 and form[0].source is not None and not _mixes(form[0])
        else:
            fits = len(form) <= MOST_SPREAD
        if not fits or any(len(term.chain) >= MOST_SPREAD for term in form):
            form = self.lift(source)
        return tuple(_Term(t.source, _behind(t.chain, operator), wire.span) for t in form)

    def costly(self, wire: Wire) -> bool:
        """Whether computing a value twice would be a waste (or, for dropout, wrong)."""
        form = self.forms[wire]
        return len(form) > 1 or any(_mixes(term) for term in form)

    def lift(self, wire: Wire) -> _Form:
        """Make a linear value a state of its own."""
        form = self.forms[wire]
        if len(form) == 1 and not form[0].chain:
            return form
        self.name(wire)
        self.node(wire, None, form)
        self.forms[wire] = _read(wire.name, wire.span)
        return self.forms[wire]

    def block(self, wire: Wire) -> str:
        """The block that a value is, as a state of its own if need be."""
        (term,) = self.lift(wire)
        assert term.source is not None, "a lifted value is a block"
        return term.source

    # ------------------------------------------------------------------ recurrences

    def recurrence(self, wire: Wire) -> None:
        """The graph of a step, and how it is tied to this one. What it gives is named by the wires behind."""
        step = wire.step
        assert step is not None
        given = [other for other in self.network.wires if other in self.reached and other.step is step]
        given = [other for other in given if other is not wire]
        roots = tuple(dict.fromkeys(_of_step(other) for other in given))
        reached = _reach_step(step, roots)
        if step.read and not any(one in reached for one, _ in step.read):
            reached.add(step.read[0][0])  # it tells how many steps there are
        inner = _Lift(step.network, reached, (*roots, *_nows(step, reached)))
        inner.run()
        for other in given:
            self.name(other)
        name, span = given[0].name, step.span
        graph = SignalGraph(name, None, (), tuple(inner.nodes), tuple(inner.edges), (), (), span)
        made = Recurrence(
            name,
            replace(graph, recurrences=tuple(inner.recurrences)),
            tuple((one.name, self.block(of)) for one, of in step.read if one in reached),
            tuple((one.name, self.block(of)) for of, one in step.network.captured.items() if one in reached),
            tuple(self.carry(one, inner) for one in step.carried.values() if one.before in reached),
            tuple((other.name, inner.block(_of_step(other)), other.kind == "steps") for other in given),
            span.line,
            span.source.line_text(span.line, most=LONGEST_LINE).strip(),
            span.source.title,
            step.clock,
            step.method,
            step.truncated,
        )
        self.recurrences.append(made)

    def carry(self, one: Carried, inner: _Lift) -> Carry:
        """What a step reads of the one before."""
        assert one.now is not None
        start = self.block(one.start) if isinstance(one.start, Wire) else one.start
        return Carry(one.before.name, inner.block(one.now), start)

    # ------------------------------------------------------------------ names

    def name(self, wire: Wire) -> None:
        """A lifted value is called after its equation and operator: `y.relu1`."""
        if not wire.name:
            kind = wire.operator.kind.replace("_", "") if wire.operator is not None else wire.kind
            base = f"{wire.hint}.{kind}" if wire.hint else kind
            wire.name = self.free("", base)

    def free(self, name: str, base: str) -> str:
        """A name that nothing else has: the one that is wished for, or the base with a number."""
        while not name or name in self.taken:
            self.counts[base] = self.counts.get(base, 0 if not name else 1) + 1
            name = f"{base}{'_' if base[-1] in '0123456789]' else ''}{self.counts[base]}"
        self.taken.add(name)
        return name

    # ------------------------------------------------------------------ graph

    def node(self, wire: Wire, activation: Operator | None, form: _Form) -> None:
        if activation is not None and activation.kind == "identity":
            activation = None
        declared, span, path = wire.declared, wire.span, wire.path
        made = Node(wire.name, Role.STATE, wire.shape, activation, declared, span, path, start=wire.start)
        self.nodes.append(made)
        self.connect(wire.name, form)

    def connect(self, target: str, form: _Form) -> None:
        self.edges.extend(Edge(term.source, target, term.chain, term.span) for term in form)


def _mixes(term: _Term) -> bool:
    return any(linear_rule(operator).mixing for operator in term.chain)


def _is_inner(wire: Wire) -> bool:
    """A sum that only another sum reads is part of that one."""
    return wire.kind == "sum" and wire.uses == 1


def _summands(wire: Wire) -> list[Wire]:
    """The parts of a sum and of the sums inside it, from left to right."""
    parts: list[Wire] = []
    waiting = list(reversed(wire.sources))
    while waiting:
        part = waiting.pop()
        if _is_inner(part):
            waiting.extend(reversed(part.sources))
        else:
            parts.append(part)
    return parts


def _behind(chain: tuple[Operator, ...], operator: Operator) -> tuple[Operator, ...]:
    """A chain and what follows it; two scalings are one."""
    if operator.kind == "scale" and chain and chain[-1].kind == "scale":
        factor = chain[-1]["factor"] * operator["factor"]
        if factor == 1:
            return chain[:-1]
        return (*chain[:-1], replace(operator, settings=(("factor", factor),)))
    return (*chain, operator)


def _read(name: str, span: Span) -> _Form:
    return (_Term(name, (), span),)


def _of_step(wire: Wire) -> Wire:
    """The value of a step that a sequence, or its last entry, is made of."""
    assert wire.given is not None
    return wire.given


def _nows(step: Step, reached: set[Wire]) -> tuple[Wire, ...]:
    """What the next step reads."""
    return tuple(one.now for one in step.carried.values() if one.before in reached and one.now is not None)


def _reach_step(step: Step, roots: tuple[Wire, ...]) -> set[Wire]:
    """The wires of a step that some of its values depend on, at this step or at those before."""
    reached: set[Wire] = set()
    taken: set[Wire] = set()
    new = list(roots)
    while new:
        _mark(new, reached)
        taken.update(new)
        new = [wire for wire in dict.fromkeys(_nows(step, reached)) if wire not in taken]
    return reached


def _reach(network: Network, opened: tuple[Pair, ...]) -> set[Wire]:
    """The wires that outputs depend on, with what is opened; counts how often each is read by them."""
    reached: set[Wire] = set()
    _mark([wire for _, wire, _ in network.outputs], reached)
    waiting = list(opened)
    while found := [pair for pair in waiting if pair[0] is None or pair[0] in reached]:
        _mark([wire for pair in found for wire in pair if wire is not None], reached)
        waiting = [pair for pair in waiting if pair not in found]
    # inputs exist whether they are read or not
    reached.update(wire for wire in network.wires if wire.kind == "input")
    return reached


def _mark(roots: list[Wire], reached: set[Wire]) -> None:
    """Add what some wires depend on."""
    waiting = list(roots)
    for wire in waiting:
        wire.uses += 1
    while waiting:
        wire = waiting.pop()
        if wire in reached:
            continue
        reached.add(wire)
        for source in wire.sources if wire.drive is None else (wire.drive,):
            source.uses += 1
            waiting.append(source)


def lift(network: Network, opened: tuple[Pair, ...] = ()) -> Lifted:
    """The network as a graph. What `opened` names, as (target, source), are blocks of their own."""
    named = dict.fromkeys(wire for pair in opened for wire in pair if wire is not None)
    lifting = _Lift(network, _reach(network, opened), named=frozenset(named))
    lifting.run()
    blocks = {wire: lifting.block(wire) for wire in named if wire in lifting.reached}
    return Lifted(tuple(lifting.nodes), tuple(lifting.edges), tuple(lifting.recurrences), blocks)
