"""Names in copied source are changed where they mean what is defined, or imported, at the top of its file."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

_PACKAGE = "implicit_dsl"
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def renamed(rows: list[str], statement: ast.stmt, names: Mapping[str, str]) -> list[str]:
    """The rows of a file, with `names` changed where a statement of its top level reads or defines them.

    A parameter or a local variable of the same name is another thing, and stays. What a function
    imports of this package counts as imported at the top.
    """
    finder = _Finder(names)
    finder.visit(statement)
    rows = list(rows)
    for row, column, name in sorted(finder.places, reverse=True):
        line = rows[row - 1].encode()  # columns of the syntax tree count bytes
        end = column + len(name.encode())
        assert line[column:end].decode() == name, f"`{name}` does not stand where it is read: {rows[row - 1]}"
        rows[row - 1] = (line[:column] + names[name].encode() + line[end:]).decode()
    return rows


class _Finder(ast.NodeVisitor):
    """Where names mean what stands at the top level."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
        self.places: list[tuple[int, int, str]] = []
        self.local: list[frozenset[str]] = []  # what the functions around bind
        self.inner = frozenset[str]()  # and the body of the class right here

    def visit_Name(self, node: ast.Name) -> None:
        if self._is_meant(node.id):
            self.places.append((node.lineno, node.col_offset, node.id))

    def _is_meant(self, name: str) -> bool:
        return name in self.names and name not in self.inner and not any(name in one for one in self.local)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._head(node, len("class "))
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)
        outer, self.inner = self.inner, _bound(node.body)
        for statement in node.body:
            self.visit(statement)
        self.inner = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._head(node, len("def "))
        for part in (*node.decorator_list, node.returns):
            if part is not None:
                self.visit(part)
        self._function(node, node.body)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node, [node.body])

    def _function(self, node: ast.FunctionDef | ast.Lambda, body: Iterable[ast.AST]) -> None:
        given = node.args
        listed = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        listed += [one for one in (given.vararg, given.kwarg) if one is not None]
        for part in (*given.defaults, *given.kw_defaults, *(one.annotation for one in listed)):
            if part is not None:
                self.visit(part)
        body = list(body)
        self._within(body, _bound(body) | {one.arg for one in listed})

    def _head(self, node: ast.ClassDef | ast.FunctionDef, before: int) -> None:
        if not self.local and not self.inner and node.name in self.names:
            self.places.append((node.lineno, node.col_offset + before, node.name))

    def _comprehension(self, node: _Comprehension) -> None:
        targets = frozenset().union(*(_bound([one.target]) for one in node.generators))
        self._within(list(ast.iter_child_nodes(node)), targets)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node)

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node)

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node)

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node)

    def _within(self, parts: Iterable[ast.AST], bound: frozenset[str]) -> None:
        outer, self.inner = self.inner, frozenset()
        self.local.append(bound)
        for part in parts:
            self.visit(part)
        self.local.pop()
        self.inner = outer


def is_package(node: ast.ImportFrom) -> bool:
    """Whether something of this package is imported: copied source does without that line."""
    return (node.module or "").split(".")[0] == _PACKAGE


def _bound(parts: Iterable[ast.AST]) -> frozenset[str]:
    """The names that are assigned in a body, without those of the functions in it."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(parts)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and not is_package(node)):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            found.add(node.name)
        if not isinstance(node, _Function | ast.ClassDef | _Comprehension):
            waiting += ast.iter_child_nodes(node)
    return frozenset(found)
