"""Runs the parse table over the tokens; where they do not fit, says so, mends and goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from implicit_dsl.parse.describe import Problem
from implicit_dsl.parse.report import Report
from implicit_dsl.parse.tables import END_OF_FILE, LIST, NEWLINE, ONLY, Rule, Tables
from implicit_dsl.parse.tokens import DEEPEST, TOO_DEEP, Token
from implicit_dsl.vocabulary import SOFT

MOST_MENDED = 1000  # places; behind them nothing is read but the end
_ERROR = "ERROR"

# Rules that nest one deeper than their parts. A chain of left-associative operators is flat.
_NESTING = frozenset(
    f"{ONLY} unary power lambda_ pair range interval call broadcast index field transpose tuple list"
    " comprehension for_ if_ recurrent ode".split()
)
# Rules that start anew: only blocks nest in blocks, only expressions in expressions.
_FLAT = frozenset(
    (
        "declaration",
        "equation",
        "definition",
        "bare",
        "open_",
        "import_",
        "annotation",
        "binding",
        "branch_head",
        "head",
    )
)


# A symbol on the stack: its value, where it starts and ends, and how deep it nests.
# Plain tuples, because hundreds of thousands are made.
Entry: TypeAlias = tuple[Any, int, int, int]


Action: TypeAlias = Callable[[list[Any], int, int], Any]


class Plan(NamedTuple):
    """A rule made ready: `nesting` is added to the depth, or -1 where the depth starts anew."""

    origin: str
    size: int
    action: Action
    keep: tuple[int, ...]
    lists: bool
    nesting: int


def _plan(rule: Rule, build: object) -> Plan:
    origin, size, name, keep = rule
    action: Action
    if name == LIST:
        action = _all
    elif name == ONLY:
        action = getattr(build, "only", _only)
    elif not name:
        action = _only
    else:
        action = getattr(build, name)
    nesting = 1 if name in _NESTING else -1 if name in _FLAT else 0
    return Plan(origin, size, action, keep, any(position < 0 for position in keep), nesting)


def _all(values: list[Any], start: int, end: int) -> list[Any]:
    return values


def _only(values: list[Any], start: int, end: int) -> Any:
    return values[0]


def _gathered(entries: list[Entry], keep: tuple[int, ...]) -> list[Any]:
    values: list[Any] = []
    for position in keep:
        if position >= 0:
            values.append(entries[position][0])
        elif values:
            values += entries[~position][0]
        else:
            values = entries[~position][0]  # the same list: copies of it would take quadratic time
    return values


class Reader:
    """The state of one parse. `states` and `stack` grow and shrink together.

    `build` has a method for each action of the grammar, called with the values of the symbols and where they
    start and end. If it has a method `only`, this is told of brackets around one value as well.
    """

    def __init__(self, tables: Tables, tokens: list[Token], build: object, report: Report) -> None:
        self.tables = tables
        self.tokens = tokens
        self.report = report
        self.plans = [_plan(rule, build) for rule in tables.rules]
        self.index = 0
        self.states = [tables.start]
        self.stack: list[Entry] = []
        self._steps: dict[tuple[int, int, str], int] = {}

    def read(self) -> Any:
        """What the action `start` makes of the whole text."""
        mended = 0
        while self.index < len(self.tokens):
            taken, misfit = self._run(self.tokens, self.index)
            self.index = taken
            if misfit is not None:
                self._mend(misfit)
                mended += 1
                if mended == MOST_MENDED:
                    self.tokens = [*self.tokens[: self.index], *self.tokens[-2:]]
        return self.stack[-1][0]

    # ----------------------------------------------------------------------- the machine

    def _run(self, tokens: list[Token], index: int) -> tuple[int, Token | None]:
        """Take tokens as long as they fit. The first that does not is returned, with its index.

        What nests too deeply is returned likewise, as a token that stands for it.
        """
        rows, rules, steps, plans = self.tables.rows, self.tables.rules, self._steps, self.plans
        states, stack, end_state = self.states, self.stack, self.tables.end
        last = len(tokens)
        while index < last:
            token = tokens[index]
            kind = token[0]
            while True:
                state = states[-1]
                code = rows[state].get(kind)
                if code is None:
                    if kind not in SOFT or "NAME" not in rows[state]:
                        return index, token
                    kind = "NAME"
                elif code >= 0:
                    states.append(code)
                    stack.append((token, token[2], token[3], 0))
                    break
                elif rules[~code].action:
                    misfit = self._reduce(plans[~code])
                    if misfit is not None:
                        return index, misfit
                    if kind == END_OF_FILE and states[-1] == end_state:
                        break
                else:
                    step = states[-2], state, kind
                    states[-1] = steps[step] if step in steps else self._step(step)
            index += 1
        return index, None

    def _feed(self, token: Token) -> bool:
        """Take one token that is not in the text; whether it fitted."""
        return self._run([token], 0)[1] is None

    def _step(self, step: tuple[int, int, str]) -> int:
        """Where all the rules lead that only pass a value on. An expression climbs a dozen at a time."""
        below, state, kind = step
        rows, gotos, rules = self.tables.rows, self.tables.gotos, self.tables.rules
        code = rows[state].get(kind, 0)
        while code < 0 and not rules[~code].action:
            state = gotos[below][rules[~code].origin]
            code = rows[state].get(kind, 0)
        self._steps[step] = state
        return state

    def _reduce(self, plan: Plan) -> Token | None:
        """Make one symbol of those of a rule. If that nests too deeply they are dropped, and named."""
        stack, states = self.stack, self.states
        origin, size, action, keep, lists, nesting = plan
        if size == 1 and not lists:
            value, start, end, depth = stack.pop()
            del states[-1]
            values = [value] if keep else []
            depth = depth + nesting if nesting >= 0 else 0
        elif size:
            entries = stack[-size:]
            del stack[-size:], states[-size:]
            start, end = entries[0][1], entries[-1][2]
            values = _gathered(entries, keep) if lists else [entries[position][0] for position in keep]
            depth = nesting + max([entry[3] for entry in entries]) if nesting >= 0 else 0
        else:
            start = end = stack[-1][2] if stack else 0
            values = []
            depth = 0
        if depth > DEEPEST:
            return Token(TOO_DEEP, "", start, end)
        states.append(self.tables.gotos[states[-1]][origin])
        stack.append((action(values, start, end), start, end, depth))
        return None

    # ----------------------------------------------------------------------- mending

    def _mend(self, misfit: Token) -> None:
        """Change the stack or skip tokens, so that reading can go on after `misfit`."""
        row = self.tables.rows[self.states[-1]]
        token, before = self.tokens[self.index], self.tokens[self.index - 1] if self.index else None
        self.report.misfit(Problem(self.tokens, self.index, misfit, row.keys()))
        top = self.stack[-1][0] if self.stack else None
        if misfit is token and token.kind in (END_OF_FILE, "model", "block") and "end" in row:
            self._close(token)
        elif token.kind == "if" and isinstance(top, Token) and top.kind == "else":
            self.states.pop()
            self.stack.pop()
            self._feed(top._replace(kind="elseif"))
            self.index += 1
        elif token.kind in (",", ":") and self.tokens[self.index + 1].kind == NEWLINE:
            self.index += 1
        elif token.kind == NEWLINE and top is before and before is not None and before.kind in (",", ":"):
            self.states.pop()
            self.stack.pop()
        else:
            if misfit.kind == TOO_DEEP or before is None or before.kind != "end" or NEWLINE not in row:
                self._give_up(token)
            while self.tokens[self.index].kind != NEWLINE:
                self.index += 1

    def _close(self, token: Token) -> None:
        """Supply an `end` that is missing before `token`."""
        at = token.start
        if not self._feed(Token("end", "", at, at)):
            self._give_up(token)
        self._feed(Token(NEWLINE, "", at, at))

    def _give_up(self, token: Token) -> None:
        """Put ERROR in place of the statement, or of the header, that cannot be read."""
        rows, states, stack = self.tables.rows, self.states, self.stack
        first, start = token, token.start
        while _ERROR not in rows[states[-1]]:
            value, start, _, _ = stack.pop()
            states.pop()
            first = value if isinstance(value, Token) else token
        self._feed(Token(_ERROR, first.text, start, max(start, token.start)))
