"""What statements define, as far as the text tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from implicit_dsl import syntax as s


def outputs_in(statements: Iterable[s.Statement]) -> Iterator[str]:
    """The names of the outputs that statements declare, in the order of the text."""
    for statement in statements:
        match statement:
            case s.Declaration(kind="output", name=s.Name(name)):
                yield name
            case s.For(body=body):
                yield from outputs_in(body)
            case s.If(branches):
                for branch in branches:
                    yield from outputs_in(branch.body)


def names_defined(statement: s.Statement) -> Iterator[str]:
    """What a statement would have defined, had it not been refused: one cause, one message."""
    match statement:
        case s.Declaration(name=s.Name(name)) | s.Template(name=s.Name(name)):
            yield name
        case s.Equation(target) | s.Definition(target):
            inner: s.Expression | None = target
            while isinstance(inner, s.Index | s.Call):
                if isinstance(inner, s.Index):
                    inner = inner.value
                elif isinstance(inner.function, s.Name) and inner.function.name != "D":
                    inner = inner.function
                else:
                    inner = next(iter(inner.arguments), None)
            if isinstance(inner, s.Name):
                yield inner.name
        case s.For(body=body) | s.Recurrent(body=body) | s.Ode(body=body):
            if not isinstance(statement, s.For):
                yield from ("prev", "last", "reverse", "D")
            for part in body:
                yield from names_defined(part)
        case s.If(branches):
            for branch in branches:
                for part in branch.body:
                    yield from names_defined(part)
        case s.Import(path, names):
            yield from (item.alias.name for item in names)
            if isinstance(path, tuple) and not names:
                yield path[-1]


def inputs_in(statements: Iterable[s.Statement]) -> Iterator[str]:
    """The names of the inputs that statements declare, in all branches of what they choose between."""
    for statement in statements:
        match statement:
            case s.Declaration(kind="input", name=s.Name(name)):
                yield name
            case s.If(branches):
                for branch in branches:
                    yield from inputs_in(branch.body)
