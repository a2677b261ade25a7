"""The blocks that `open` makes of zeros: which they are, their parameters, and where they stand in the graph.

Each is a parameter of its own that starts from zero, so that the function is what it was. Rows count the
slots of what it goes to, columns the entries of what it comes from, row-major.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from implicit_dsl.errors import Label
from implicit_dsl.graph import Edge, Node, Role
from implicit_dsl.resolve.annotations.loops import loops_of
from implicit_dsl.resolve.context import CALL, Context
from implicit_dsl.resolve.lift import Lifted
from implicit_dsl.resolve.opened_parameters import Placed, place
from implicit_dsl.resolve.openings import Opening
from implicit_dsl.resolve.problem import Problem, problem
from implicit_dsl.resolve.subscripts import SIDES, Named, check_side, no_block, order_of_states, region_of
from implicit_dsl.shapes import known, show
from implicit_dsl.source import Span

Graph: TypeAlias = tuple[tuple[Node, ...], tuple[Edge, ...]]


def open_blocks(
    context: Context, openings: tuple[Opening, ...], lifted: Lifted, nodes: tuple[Node, ...]
) -> Graph:
    """The nodes and edges of a graph with its opened blocks. What is wrong is reported.

    Blocks that are named go before regions, which are what is left of the zeros of the model itself.
    """
    if not openings:
        return nodes, lifted.edges
    zeros = _Zeros(context, lifted, nodes)
    placed: list[Placed] = []
    for opening in sorted(
        openings, key=lambda one: not one.single
    ):  # in the order of the text among themselves
        try:
            pairs = zeros.of(opening)
            for target, source in pairs:
                context.step(opening.place, CALL)
                ends = zeros.by_name[target], zeros.by_name[source]
                placed.append(place(context, opening, *ends, zeros.names))
            zeros.opened.update(dict.fromkeys(pairs, opening.place))
        except Problem as found:
            context.report(found.diagnostic)
    return _with(nodes, lifted.edges, placed)


def _with(nodes: tuple[Node, ...], edges: tuple[Edge, ...], placed: list[Placed]) -> Graph:
    """The graph with what was placed: nodes behind what they read, edges behind those of their target."""
    behind: dict[str, list[Node]] = {}
    for one in placed:
        for node in one.nodes:
            behind.setdefault(one.source, []).append(node)
    whole = tuple(made for node in nodes for made in (node, *behind.get(node.name, ())))
    rank = {node.name: number for number, node in enumerate(whole)}
    opened = [edge for one in placed for edge in one.edges]
    return whole, tuple(sorted((*edges, *opened), key=lambda edge: rank[edge.target]))


@dataclass(slots=True)
class _Zeros:
    """Which blocks are zero in the model as its equations say, and were not opened yet."""

    context: Context
    lifted: Lifted
    nodes: tuple[Node, ...]
    by_name: dict[str, Node] = field(init=False)
    names: set[str] = field(init=False)
    held: set[tuple[str, str]] = field(init=False)  # blocks with an operator
    opened: dict[tuple[str, str], Span] = field(default_factory=dict)
    given: frozenset[str] = field(init=False)  # states that a recurrence gives, which have no equation
    lengths: frozenset[str] = field(init=False)  # states that are lengths of sequences
    cut: frozenset[str] = field(init=False)  # states whose equation reads one
    padded: frozenset[str] = field(init=False)  # sequences that only these read: they go on behind the length
    _order: dict[str, int] | None = None

    def __post_init__(self) -> None:
        self.by_name = {node.name: node for node in self.nodes}
        self.names = set(self.by_name)
        self.held = {(edge.target, edge.source) for edge in self.lifted.edges if edge.source is not None}
        counted = {e.target for e in self.lifted.edges if any(one.kind == "number" for one in e.chain)}
        self.lengths = frozenset(name for name in counted if self.by_name[name].activation is None)
        self.given = frozenset(name for one in self.lifted.recurrences for name, *_ in one.gives)
        reads = [(edge.source, edge.target) for edge in self.lifted.edges if edge.source is not None]
        self.cut = frozenset((*counted, *(target for source, target in reads if source in self.lengths)))
        whole = {source for source, target in reads if target not in self.cut}
        self.padded = frozenset(source for source, _ in reads if source in self.given) - whole

    # ------------------------------------------------------------------ the blocks of one statement

    def of(self, opening: Opening) -> list[tuple[str, str]]:
        """The blocks (target, source) that are opened, in the order of the graph. Raises Problem."""
        pairs = [self._single(opening)] if opening.single else self._region(opening)
        self._check_recurrences(opening, pairs)
        return pairs

    def _single(self, opening: Opening) -> tuple[str, str]:
        assert opening.rows is not None and opening.columns is not None
        (row,), (column,) = opening.rows, opening.columns
        target, source = self._block(opening, row, 0), self._block(opening, column, 1)
        pair = target.name, source.name
        self._check_ends(opening, row.span, column.span, target, source)
        if pair in self.held:
            raise problem(
                "E0505",
                f"`{opening.text}` is no zero block: it holds an operator",
                opening.place,
                labels=(Label(target.span, f"reads `{source.name}`"),),
                help=f"what is to be added to it is one more term in the equation of `{target.name}`",
            )
        if pair in self.opened:
            raise problem(
                "E0505",
                f"`{opening.text}` is opened twice",
                opening.place,
                labels=(Label(self.opened[pair], "opened here"),),
                help="remove one of them",
            )
        return pair

    def _region(self, opening: Opening) -> list[tuple[str, str]]:
        targets = self._all(opening, opening.rows, 0)
        sources = self._all(opening, opening.columns, 1)
        self.context.step(opening.place, len(targets) * len(sources))
        found = []
        for target in targets:
            if opening.rows is None and target.name in self.given | self.cut:
                continue  # it has no equation that could be added to, and is a column alone
            for source in sources:
                if opening.columns is None and source.name in self.lengths | self.padded:
                    continue
                pair = target.name, source.name
                if pair in self.held or pair in self.opened or not self._inside(opening, *pair):
                    continue
                self._check_ends(opening, opening.place, opening.place, target, source)
                found.append(pair)
        if not found:
            raise problem(
                "E0505",
                f"no zero block is left in `{opening.text}`",
                opening.place,
                notes=(self._why_none(opening),),
                help="remove it",
            )
        return found

    def _why_none(self, opening: Opening) -> str:
        states = len(self._order_of_states())
        if states < 2 and opening.region in ("forward", "feedback"):
            return "one state is computed before another, and the model has " + ("one" if states else "none")
        if opening.matrix != "D" and not states:
            return "the model has no states"
        return "each of its blocks holds an operator, or is opened by another line"

    def _inside(self, opening: Opening, target: str, source: str) -> bool:
        if opening.region == "all":
            return True
        order = self._order_of_states()
        return region_of(order[target], order[source]) == opening.region

    def _order_of_states(self) -> dict[str, int]:
        """When each state is computed, without what is opened."""
        if self._order is None:
            self._order = order_of_states(self.nodes, self.lifted.edges, self.lifted.recurrences)
        return self._order

    # ------------------------------------------------------------------ blocks by their names

    def _all(self, opening: Opening, named: tuple[Named, ...] | None, side: int) -> list[Node]:
        if named is None:
            return [node for node in self.nodes if node.role is SIDES[opening.matrix][side]]
        found = [self._block(opening, one, side) for one in named]
        return list({node.name: node for node in found}.values())

    def _block(self, opening: Opening, named: Named, side: int) -> Node:
        """The block that is named among the rows (`side` 0) or the columns (1). Raises Problem."""
        role = SIDES[opening.matrix][side]
        name = named.name if named.wire is None else self.lifted.blocks.get(named.wire, "")
        node = self.by_name.get(name)
        if node is None:
            raise self._missing(named, role)
        check_side(node, opening.matrix, side, named.span, "E0506", "open ", opening.text[1:])
        return node

    def _missing(self, named: Named, role: Role) -> Problem:
        if named.wire is None:
            return no_block(self.nodes, role, named.span, "E0506")
        shown = " ".join(named.span.text.split())
        return problem(
            "E0505",
            f"no output depends on `{shown}`, so that what is added to it would never matter",
            named.span,
            help=f"open a block from it first, as in `open C[…, {shown}]`, or read it in an equation",
        )

    # ------------------------------------------------------------------ what cannot be opened

    def _check_ends(
        self, opening: Opening, at_target: Span, at_source: Span, target: Node, source: Node
    ) -> None:
        """Raises Problem unless a matrix can go from one block to the other."""
        if target.name in self.given:
            what = "an `ode`" if self._by_clock(target.name) else "a `recurrent`"
            raise problem(
                "E0506",
                f"`{target.name}` is what {what} gives, and has no equation in A that could be added to",
                at_target,
                labels=(Label(target.span, "computed here"),),
                help="write one more term in its equation, with a matrix that starts from zeros",
            )
        if target.name in self.cut or source.name in self.lengths:
            node, at = (target, at_target) if target.name in self.cut else (source, at_source)
            raise problem(
                "E0506",
                f"`{node.name}` is made with a length, which is no number to compute with",
                at,
                labels=(Label(node.span, "here"),),
                help="open a block to what is computed of it",
            )
        if source.tokens:
            raise problem(
                "E0506",
                f"`{source.name}` holds whole numbers: {opening.matrix} would be a table for each place",
                at_source,
                labels=(Label(source.span, "declared here"),),
                help=f"embed them, `state e ~ Embedding(vocab, width)({source.name})`, "
                "and open a block from that",
            )
        for node, at, shape in ((target, at_target, target.slots), (source, at_source, source.shape)):
            if known(shape) is None:
                raise problem(
                    "E0506",
                    f"`{node.name}` has a free size, {show(shape)}, and a matrix has as many "
                    f"{'rows' if node is target else 'columns'} as it has entries",
                    at,
                    labels=(Label(node.span, "a size is known when the model is called"),),
                    help="give the input its size, or open blocks between values of known sizes",
                )

    def _by_clock(self, name: str) -> bool:
        return any(
            one.clock is not None for one in self.lifted.recurrences if name in [g for g, *_ in one.gives]
        )

    def _check_recurrences(self, opening: Opening, pairs: list[tuple[str, str]]) -> None:
        """Raises Problem for a block that closes a circle through a recurrence, which is not solved."""
        if not self.given:
            return
        edges = [*self.lifted.edges, *_through(self.lifted, opening.place)]
        edges += [Edge(source, target, (), opening.place) for target, source in (*self.opened, *pairs)]
        loops = loops_of(self.nodes, tuple(edges))
        inside = {loops[name] for name in self.given if name in loops}
        for target, source in pairs:
            if target in loops and loops[target] == loops.get(source) and loops[target] in inside:
                name = next(name for name in self.given if loops.get(name) == loops[target])
                what = "ode" if self._by_clock(name) else "recurrent"
                raise problem(
                    "E0506",
                    f"`{opening.matrix}[{target}, {source}]` would close a circle around a `{what}`",
                    opening.place,
                    labels=(Label(self.by_name[name].span, f"`{name}` is computed here, step by step"),),
                    help="" if opening.single else "name the blocks that are to be opened",
                )


def _through(lifted: Lifted, span: Span) -> Iterator[Edge]:
    """Edges that stand for recurrences, from what they read to what they give."""
    for one in lifted.recurrences:
        for read in one.reads:
            for given, *_ in one.gives:
                yield Edge(read, given, (), span)
