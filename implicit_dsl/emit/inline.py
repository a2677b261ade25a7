"""What a standalone file carries of the runtime: the source of what it calls, and of all that this needs.

The runtime is real, tested Python. Its definitions are copied as they stand, with the comments
above them, in an order in which each file comes behind those that it imports.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from implicit_dsl import _resources
from implicit_dsl.emit.naming import Names
from implicit_dsl.emit.renaming import is_package, renamed

_ROOT = "implicit_dsl.runtime"

MARKER = "# What these models use of the runtime of implicitc."
# torch.autograd.Function.apply has no types.
_UNTYPED = "# mypy: allow-untyped-calls, no-warn-unused-ignores"

Key = tuple[str, str]  # a module and a name that it defines


@dataclass(frozen=True, slots=True)
class _Import:
    """A name from outside of the package: a module, or what stands in one."""

    source: str
    name: str = ""

    def statement(self, local: str) -> str:
        """The statement that gives it the name `local`."""
        usual = self.name or self.source.split(".")[0]
        renamed = "" if local == usual else f" as {local}"
        start = f"from {self.source} import {self.name}" if self.name else f"import {self.source}"
        return start + renamed


@dataclass(slots=True)
class _Module:
    """One file: its definitions, what it imports from the package, and from elsewhere."""

    name: str
    rows: list[str]
    body: list[ast.stmt]
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    inner: dict[str, Key] = field(default_factory=dict)  # local name -> where it is defined
    outer: dict[str, _Import] = field(default_factory=dict)  # local name -> what it imports


@dataclass(frozen=True, slots=True)
class Inlined:
    """The lines of the definitions, and the imports that they need."""

    lines: list[str]
    imports: list[str]


def inlined(called: Iterable[str], namespace: str, names: Names) -> Inlined:
    """The definitions of some names of the runtime, with all that they refer to.

    Operations that are registered with torch get `namespace` in place of that of the package:
    a file must not take over those of another. `names` says what gives way to names of the file.
    """
    roots = [_resolved((_ROOT, name)) for name in sorted(called)]
    needed = _closure(roots)
    if not needed:
        return Inlined([], [])
    lines: list[str] = []
    imports: set[str] = set()
    after_definition = True
    for name in _in_order({module for module, _ in needed}):
        module = _module(name)
        local = {defined for home, defined in needed if home == name}
        known = [*module.definitions, *module.inner, *module.outer]
        known += [local for _, local in _imported_inside(module.body)]
        changed = {name: new for name in known if (new := names.carried(name)) != name}
        for statement in module.body:
            if _is_kept(statement, local):
                is_definition = isinstance(statement, ast.FunctionDef | ast.ClassDef)
                lines += ["", ""] if is_definition or after_definition else [""]
                after_definition = is_definition
                lines += [_in_namespace(row, namespace) for row in _text(module, statement, changed)]
                imports |= {
                    module.outer[used].statement(changed.get(used, used))
                    for used in _used(statement)
                    if used in module.outer
                }
    _refuse_two_of_one_name(needed)
    head = ["", "", MARKER, *([_UNTYPED] if any("autograd.Function" in line for line in lines) else [])]
    return Inlined([*head, *lines], sorted(imports))


def _in_namespace(row: str, namespace: str) -> str:
    """A row in which the operations of torch.library belong to a namespace."""
    return row.replace('"implicitc::', f'"{namespace}::').replace(
        "torch.ops.implicitc.", f"torch.ops.{namespace}."
    )


@lru_cache(maxsize=256)
def _module(name: str) -> _Module:
    path = name.split(".")[1:]
    text = None
    for file in ("/".join(path) + ".py", "/".join([*path, "__init__.py"])):
        try:
            text = _read(file)
            break
        except FileNotFoundError:
            continue
    assert text is not None, f"there is no module {name}"
    made = _Module(name, text.split("\n"), ast.parse(text).body)
    for statement in made.body:
        inner = statement.body if isinstance(statement, ast.If) else [statement]  # if TYPE_CHECKING:
        for part in inner:
            _note_import(made, part)
        for defined in _names(statement):
            made.definitions[defined] = statement
    return made


def _read(file: str) -> str:
    folder, _, name = file.rpartition("/")
    return _resources.read_text(folder or ".", name)


def _note_import(module: _Module, statement: ast.stmt) -> None:
    match statement:
        case ast.ImportFrom(module=source, names=names) if source is not None:
            for alias in names:
                local = alias.asname or alias.name
                if is_package(statement):
                    assert alias.asname is None, (
                        f"{module.name} renames {alias.name}, which cannot be inlined"
                    )
                    module.inner[local] = (source, alias.name)
                else:
                    module.outer[local] = _Import(source, alias.name)
        case ast.Import(names=names):
            for alias in names:
                module.outer[alias.asname or alias.name.split(".")[0]] = _Import(alias.name)


def _resolved(key: Key) -> Key:
    """Where a name is defined, through the modules that hand it on."""
    module, name = key
    while name not in _module(module).definitions:
        module, name = _module(module).inner[name]
    return module, name


def _names(statement: ast.stmt) -> list[str]:
    """The names that a statement of a file defines."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [] if name == "_" else [name]
        case ast.Assign(targets=targets):
            found = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
            return [name for name in found if name != "__all__"]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            return []


def _used(statement: ast.AST) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value  # an annotation in quotes


def _is_kept(statement: ast.stmt, names: set[str]) -> bool:
    """Whether a statement defines a needed name, or registers something with one (it has no name itself)."""
    defined = _names(statement)
    if defined:
        return not names.isdisjoint(defined)
    registers = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
    registers = registers or isinstance(statement, ast.FunctionDef)  # a decorated `_`
    return registers and not names.isdisjoint(_leaders(statement))


def _leaders(statement: ast.stmt) -> list[str]:
    """What a nameless statement is about: `operator` in `operator.register(…)` and `@operator.register`."""
    heads: list[ast.expr] = []
    if isinstance(statement, ast.Expr):
        heads = [statement.value]
    elif isinstance(statement, ast.FunctionDef):
        heads = list(statement.decorator_list)
    found = []
    for head in heads:
        inner: ast.expr = head
        while isinstance(inner, ast.Call | ast.Attribute):
            inner = inner.func if isinstance(inner, ast.Call) else inner.value
        if isinstance(inner, ast.Name):
            found.append(inner.id)
    return found


def _closure(roots: list[Key]) -> set[Key]:
    """The roots, and all definitions that these refer to."""
    needed: set[Key] = set()
    waiting = list(roots)
    while waiting:
        key = waiting.pop()
        if key in needed:
            continue
        needed.add(key)
        module = _module(key[0])
        kept = [module.definitions[key[1]]]
        kept += [s for s in module.body if not _names(s) and _is_kept(s, {key[1]})]
        for statement in kept:
            for used in _used(statement):
                if used in module.definitions:
                    waiting.append((key[0], used))
                elif used in module.inner:
                    waiting.append(_resolved(module.inner[used]))
            waiting += [_resolved(key) for key in _imported_inside([statement])]
    return needed


def _imported_inside(statements: Iterable[ast.stmt]) -> Iterator[Key]:
    """What functions import from the package when they are called."""
    for node in (node for statement in statements for node in ast.walk(statement)):
        if isinstance(node, ast.ImportFrom) and is_package(node):
            yield from ((node.module or "", alias.name) for alias in node.names)


def _in_order(modules: set[str]) -> list[str]:
    """The modules, each behind those that it imports from."""
    order: list[str] = []

    def visit(name: str, path: frozenset[str]) -> None:
        if name in order or name in path:
            return
        for source, used in sorted(set(_module(name).inner.values())):
            visit(_resolved((source, used))[0], path | {name})
        if name in modules:
            order.append(name)

    for name in sorted(modules):
        visit(name, frozenset())
    return order


def _text(module: _Module, statement: ast.stmt, changed: Mapping[str, str]) -> list[str]:
    """The rows of a statement with the comment above it, without imports from the package inside of it."""
    rows = renamed(module.rows, statement, changed) if changed else module.rows
    assert statement.end_lineno is not None
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
    while first > 1 and module.rows[first - 2].startswith("#"):
        first -= 1
    dropped = {
        row
        for node in ast.walk(statement)
        if isinstance(node, ast.ImportFrom) and is_package(node)
        for row in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    return [rows[row - 1] for row in range(first, statement.end_lineno + 1) if row not in dropped]


def _refuse_two_of_one_name(needed: set[Key]) -> None:
    homes: dict[str, str] = {}
    for module, name in sorted(needed):
        assert homes.setdefault(name, module) == module, (
            f"`{name}` is defined in {homes[name]} and in {module}: one file cannot hold both"
        )


def import_block(statements: Iterable[str]) -> list[str]:
    """Import statements as `ruff` sorts them: the standard library, a blank line, numpy and torch."""
    plain: dict[bool, set[str]] = {False: set(), True: set()}
    listed: dict[bool, dict[str, set[str]]] = {False: {}, True: {}}
    for statement in statements:
        words = statement.split()
        foreign = words[1].split(".")[0] in ("numpy", "torch")
        if words[0] == "import":
            plain[foreign].add(statement)
        else:
            listed[foreign].setdefault(words[1], set()).add(" ".join(words[3:]))
    sections = []
    for foreign in (False, True):
        lines = sorted(plain[foreign])
        for source in sorted(listed[foreign]):
            lines.append(f"from {source} import {', '.join(sorted(listed[foreign][source], key=_kind))}")
        if lines:
            sections.append(lines)
    return [line for number, lines in enumerate(sections) for line in ([""] if number else []) + lines]


def _kind(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)
