"""Runs the parse table over the tokens; where they do not fit, says so, mends and goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from implicit_dsl.parse.build import Build
from implicit_dsl.parse.describe import Problem
from implicit_dsl.parse.tables import END_OF_FILE, LIST, NEWLINE, ONLY, Rule, Tables
from implicit_dsl.parse.tokens import DEEPEST, TOO_DEEP, Token
from implicit_dsl.syntax import Program

_ERROR = "ERROR"
_SOFT = frozenset(("over", "as", "extends"))  # names wherever the keyword cannot stand

# Rules that nest one deeper than their parts. A chain of left-associative operators is flat.
_NESTING = frozenset(
    f"{ONLY} unary power lambda_ pair range interval call broadcast index field transpose tuple list"
    " comprehension for_ if_ recurrent ode".split()
)
# Rules that start anew: only blocks nest in blocks, only expressions in expressions.
_FLAT = frozenset(
    "declaration equation definition bare open_ import_ annotation binding branch_head head".split()
)


class Entry(NamedTuple):
    """A symbol on the stack: its value, its place in the text and how deep it nests."""

    value: Any
    start: int
    end: int
    depth: int


class Reader:
    """The state of one parse. `states` and `stack` grow and shrink together."""

    def __init__(self, tables: Tables, tokens: list[Token], build: Build, complain: Callable[[Problem], None]) -> None:
        self.tables = tables
        self.tokens = tokens
        self.complain = complain
        self.actions = {r.action: getattr(build, r.action) for r in tables.rules if r.action.isidentifier()}
        self.index = 0
        self.states = [tables.start]
        self.stack: list[Entry] = []

    def read(self) -> Program:
        tokens, feed = self.tokens, self.feed
        while True:
            token = tokens[self.index]
            misfit = feed(token)
            if misfit is not None:
                self.mend(misfit)
            elif token.kind == END_OF_FILE:
                program: Program = self.stack[-1].value
                return program
            else:
                self.index += 1

    # ----------------------------------------------------------------------- the machine

    def feed(self, token: Token) -> Token | None:
        """Take one token. What does not fit is returned: the token, or what nests too deeply before it."""
        rows, gotos, rules = self.tables.rows, self.tables.gotos, self.tables.rules
        states = self.states
        kind = token.kind
        while True:
            row = rows[states[-1]]
            code = row.get(kind)
            if code is None:
                if kind not in _SOFT or "NAME" not in row:
                    return token
                kind = "NAME"
            elif code >= 0:
                states.append(code)
                self.stack.append(Entry(token, token.start, token.end, 0))
                return None
            else:
                rule = rules[~code]
                if not rule.action:
                    states[-1] = gotos[states[-2]][rule.origin]
                    continue
                entry = self._reduced(rule)
                if entry.depth > DEEPEST:
                    return Token(TOO_DEEP, "", entry.start, entry.end)
                states.append(gotos[states[-1]][rule.origin])
                self.stack.append(entry)
                if states[-1] == self.tables.end and kind == END_OF_FILE:
                    return None

    def _reduced(self, rule: Rule) -> Entry:
        """Take the symbols of a rule from the stack, and make one of them."""
        stack = self.stack
        _, size, action, keep = rule
        if not size:
            end = stack[-1].end if stack else 0
            return Entry([] if action == LIST else self.actions[action]([], end, end), end, end, 0)
        entries = stack[-size:]
        del stack[-size:], self.states[-size:]
        start, end = entries[0].start, entries[-1].end
        depth = max([entry.depth for entry in entries])
        if action in _NESTING:
            depth += 1
        elif action in _FLAT:
            depth = 0
        if action == ONLY:
            return Entry(entries[keep[0]].value, start, end, depth)
        values: list[Any] = []
        for position in keep:
            if position >= 0:
                values.append(entries[position].value)
            elif values:
                values += entries[~position].value
            else:
                values = entries[~position].value  # the same list, or long lists would take quadratic time
        return Entry(values if action == LIST else self.actions[action](values, start, end), start, end, depth)

    # ----------------------------------------------------------------------- mending

    def mend(self, misfit: Token) -> None:
        """Change the stack or skip tokens, so that reading can go on after `misfit`."""
        row = self.tables.rows[self.states[-1]]
        token, before = self.tokens[self.index], self.tokens[self.index - 1] if self.index else None
        self.complain(Problem(self.tokens, self.index, misfit, row.keys()))
        top = self.stack[-1].value if self.stack else None
        if misfit is token and token.kind in (END_OF_FILE, "model", "block") and "end" in row:
            self._close(token)
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
        if self.feed(Token("end", "", at, at)) is not None:
            self._give_up(token)
        self.feed(Token(NEWLINE, "", at, at))

    def _give_up(self, token: Token) -> None:
        """Put ERROR in place of the statement, or of the header, that cannot be read."""
        rows, states, stack = self.tables.rows, self.states, self.stack
        start = token.start
        while _ERROR not in rows[states[-1]]:
            start = stack.pop().start
            states.pop()
        text = self.tokens[self.index].text
        self.feed(Token(_ERROR, text, start, max(start, token.start)))
