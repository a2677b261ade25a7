"""How a term is written: brackets where the precedence needs them, and pipelines for long chains."""

from __future__ import annotations

from collections.abc import Mapping

from implicit_dsl.translation.terms import Declaration, Form, Term

_PIPE, _SUM, _PRODUCT, _SIGN, _POWER, _CALL, _ATOM = 8, 10, 11, 12, 13, 14, 15
_LEVELS = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, ".*": _PRODUCT, "./": _PRODUCT, ".^": _POWER}
_CHAIN = 3  # functions applied one to another, from which on they are written as a pipeline


class Written:
    """The texts of terms, with the names that some have."""

    def __init__(self, called: Mapping[Declaration, str]) -> None:
        self._called = called
        self._names: dict[Term, str] = {}

    def named(self, term: Term, name: str) -> None:
        """From now on, the term is written as this name."""
        self._names[term] = name

    def text(self, term: Term, level: int = 0) -> str:
        """The term, in brackets if it binds looser than `level`."""
        made, own = self._made(term)
        return made if own >= level else f"({made})"

    def _made(self, term: Term) -> tuple[str, int]:
        if term in self._names:
            return self._names[term], _ATOM
        chain = self._chain(term)
        if len(chain) >= _CHAIN:
            start = self.text(chain[-1].operands[-1], _PIPE)
            return " |> ".join([start, *(self._function(one) for one in reversed(chain))]), _PIPE
        operands = term.operands
        match term.form:
            case Form.NAME:
                assert term.declaration is not None
                return self._called[term.declaration], _ATOM
            case Form.NUMBER:
                return term.text, _SIGN if term.text.startswith("-") else _ATOM
            case Form.CALL:
                return self._call(term), _CALL
            case Form.APPLY:
                inside = ", ".join(self.text(one) for one in operands[1:])
                return f"{self.text(operands[0], _CALL)}({inside})", _CALL
            case Form.TIMES:
                return f"{self.text(operands[0], _CALL)} * {self.text(operands[1], _SIGN)}", _PRODUCT
            case Form.TRANSPOSED:
                return f"{self.text(operands[0], _CALL)}'", _CALL
            case Form.MINUS:
                return f"-{self.text(operands[0], _POWER)}", _SIGN
            case Form.INDEX:
                return f"{self.text(operands[0], _CALL)}[{term.text}]", _CALL
            case Form.FIELD:
                return f"{self.text(operands[0], _CALL)}.{term.text}", _CALL
            case Form.BINARY:
                return self._binary(term)
        raise AssertionError(term.form)

    def _call(self, term: Term) -> str:
        inside = [self.text(one) for one in term.operands]
        settings = [term.settings] if term.settings else []
        if term.text == "attend" and len(inside) == 4:
            settings.append(f"mask = {inside.pop()}")
        named = f"; {', '.join(settings)}" if settings else ""
        return f"{term.text}({', '.join(inside)}{named})"

    def _binary(self, term: Term) -> tuple[str, int]:
        level = _LEVELS[term.text]
        a, b = term.operands
        left = self.text(a, level + (term.text == ".^"))
        right = self.text(b, level + 1)
        return f"{left} {term.text} {right}", level

    def _chain(self, term: Term) -> list[Term]:
        """The functions of one argument that are applied one to another, the last first."""
        found = []
        while term not in self._names and self._is_function(term):
            found.append(term)
            term = term.operands[-1]
        return found

    @staticmethod
    def _is_function(term: Term) -> bool:
        match term.form:
            case Form.CALL:
                return len(term.operands) == 1 and not term.settings
            case Form.APPLY:
                return len(term.operands) == 2
            case Form.TIMES:
                return term.operands[0].form is Form.NAME
        return False

    def _function(self, term: Term) -> str:
        return term.text if term.form is Form.CALL else self.text(term.operands[0], _CALL)
