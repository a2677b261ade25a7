"""Files and what stands at their top: imports, constants, functions, models and blocks.

Imports stay below the folder of the program that is compiled, so that untrusted text
cannot read files elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from implicit_dsl import syntax as s
from implicit_dsl.errors import Diagnostic, Findings, Label
from implicit_dsl.resolve.context import Context
from implicit_dsl.resolve.problem import Poisoned, Problem, did_you_mean, later, problem
from implicit_dsl.resolve.scope import Environment, Module
from implicit_dsl.resolve.statements import check_name, make_function
from implicit_dsl.resolve.values import Definition, Namespace, TemplateValue
from implicit_dsl.source import Source, Span

Parse = Callable[[Source], tuple[s.Program, tuple[Diagnostic, ...]]]
Read = Callable[[str, str], Source]


@dataclass(slots=True)
class Loader:
    """Reads each imported file once. `read(path, name)` gives its text, or raises OSError or
    UnicodeDecodeError; `parse` is the parser."""

    parse: Parse
    read: Read
    findings: Findings
    modules: dict[str, Module] = field(default_factory=dict)
    active: list[str] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    def load(self, path: str, name: str, root: str, span: Span) -> Module:
        """The module in a file. Raises Problem if it cannot be had."""
        if path in self.active:
            raise problem(
                "E0802", f"`{name}` imports itself", span, help="move what both files need into a third"
            )
        if path in self.modules:
            return self.modules[path]
        try:
            source = self.read(path, name)
        except OSError as error:
            reason = error.strerror or "it cannot be read"
            raise problem(
                "E0801", f"there is no file `{name}`", span, reason, help=_neighbours(path)
            ) from None
        except UnicodeDecodeError:
            raise problem("E0801", f"`{name}` is not a text file in UTF-8", span) from None
        program, diagnostics = self.parse(source)
        self.sources.append(source)
        for diagnostic in diagnostics:
            self.findings.add(diagnostic)
        self.active.append(path)
        try:
            self.modules[path] = open_module(self, program, root)
        finally:
            self.active.pop()
        return self.modules[path]


def _neighbours(path: str) -> str:
    folder, wanted = os.path.split(path)
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".impl"))
    except OSError:
        return ""
    meant = did_you_mean(wanted, names)
    return f"did you mean `{meant}`?" if meant else ""


def open_module(loader: Loader, program: s.Program, root: str) -> Module:
    """The names at the top of a file, its imports loaded. Problems are reported."""
    module = Module(program.source, program, root=root)
    environment = Environment(None, module)
    for statement in program.body:
        try:
            _enter(loader, module, environment, statement)
        except Problem as found:
            loader.findings.add(found.diagnostic)
    return module


def _enter(loader: Loader, module: Module, environment: Environment, statement: s.Statement) -> None:
    match statement:
        case s.Template():
            check_name(statement.name)
            _claim(module, statement.name, TemplateValue(statement, module))
        case s.Definition(s.Name(), value):
            check_name(statement.target)  # type: ignore[arg-type]
            name = statement.target.name  # type: ignore[union-attr]
            constant = Definition((name,), "=", value, environment, statement.target.span, None, label=name)
            _claim(module, statement.target, constant)  # type: ignore[arg-type]
        case s.Definition(s.Call(s.Name(), arguments, (), False)):
            target = statement.target
            assert isinstance(target, s.Call) and isinstance(target.function, s.Name)
            check_name(target.function)
            _claim(module, target.function, make_function(target, arguments, statement.value, environment))
        case s.Import():
            _import(loader, module, statement)
        case s.Annotation():
            raise later(f"`@{statement.name.name}` at the top of a file", statement.span)
        case s.Bare():
            loader.findings.add(Diagnostic("W0301", "this expression has no effect", statement.span))
        case _:
            raise problem(
                "E0309",
                "this statement belongs inside of a model or block",
                _first_line(statement.span),
                help="write `model Name() … end` around it",
            )


def _first_line(span: Span) -> Span:
    end = span.source.text.find("\n", span.start, span.end)
    return span if end < 0 else Span(span.source, span.start, end)


def _claim(module: Module, name: s.Name, value: object) -> None:
    found = module.names.get(name.name)
    if found is not None:
        first = found.template.name.span if isinstance(found, TemplateValue) else getattr(found, "span", None)
        labels = (Label(first, "first here"),) if first is not None else ()
        raise problem("E0103", f"`{name.name}` is defined twice", name.span, "and again here", labels=labels)
    module.names[name.name] = value


def _import(loader: Loader, module: Module, statement: s.Import) -> None:
    assert module.root is not None
    if isinstance(statement.path, tuple):
        if statement.path[0] == "std":
            raise later("the library `std`", statement.span)
        written = "/".join(statement.path) + ".impl"
        binding = statement.path[-1]
    else:
        written = statement.path
        binding = os.path.splitext(os.path.basename(written))[0]
    path = _inside(module, written, statement.span)
    imported = loader.load(path, written, module.root, statement.span)
    if statement.names:
        for item in statement.names:
            if item.name.name not in imported.names:
                meant = did_you_mean(item.name.name, list(imported.names))
                text = f"did you mean `{meant}`?" if meant else ""
                raise problem("E0804", f"`{written}` has no `{item.name.name}`", item.name.span, text)
            _claim(module, item.alias, imported.names[item.name.name])
    elif isinstance(statement.path, tuple):
        name = s.Name(binding, statement.span)
        _claim(module, name, Namespace(binding, imported))
    else:
        # a whole file: its models and blocks come in under their own names
        for key, value in imported.names.items():
            if isinstance(value, TemplateValue) and value.module is imported:
                _claim(module, s.Name(key, statement.span), value)


def _inside(module: Module, written: str, span: Span) -> str:
    """The absolute path of an import. Raises Problem unless it stays below the root."""
    assert module.root is not None
    base = os.path.dirname(module.source.path) if module.source.path else module.root
    root = os.path.realpath(module.root)
    if os.path.isabs(written) or "\0" in written or not written.endswith(".impl"):
        raise problem(
            "E0803",
            f"`{written}` cannot be imported",
            span,
            help="write the relative path of an `.impl` file",
        )
    path = os.path.realpath(os.path.join(base, written))
    if os.path.commonpath([root, path]) != root:
        raise problem(
            "E0803",
            f"`{written}` lies outside of the folder of the program",
            span,
            help="imports stay below the folder of the file that is compiled",
        )
    return path


def run_constants(context: Context, module: Module) -> None:
    """Evaluate the constants of a file, so that a wrong one is reported even if nothing uses it."""
    for value in module.names.values():
        if isinstance(value, Definition):
            try:
                context.force(value)
            except Poisoned:
                continue
