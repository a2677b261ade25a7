"""Files and what stands at their top: imports, constants, functions, models and blocks.

Which files may be read is said in `places`, so that untrusted text cannot read others.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

from implicit_dsl import syntax as s
from implicit_dsl.errors import Diagnostic, Findings, Label
from implicit_dsl.resolve.annotations import at_the_top
from implicit_dsl.resolve.context import MOST_FOUND, Context
from implicit_dsl.resolve.declarations import check_name
from implicit_dsl.resolve.defined import names_defined
from implicit_dsl.resolve.places import STD, Found, Places
from implicit_dsl.resolve.problem import (
    Exhausted,
    Poisoned,
    Problem,
    did_you_mean,
    instead,
    problem,
    too_deep,
)
from implicit_dsl.resolve.scope import Environment, Module
from implicit_dsl.resolve.statements import make_function, no_effect
from implicit_dsl.resolve.values import Definition, Namespace, TemplateValue
from implicit_dsl.source import Source, Span

Parse = Callable[[Source], tuple[s.Program, tuple[Diagnostic, ...]]]
Read = Callable[[str, str, str], Source]


DEEPEST_IMPORTS = 32
MOST_FILES = 1000


@dataclass(slots=True)
class Loader:
    """Reads each imported file once. `read(path, name, title)` gives its text, or raises OSError or
    UnicodeDecodeError; `parse` is the parser."""

    parse: Parse
    read: Read
    findings: Findings
    places: Places
    modules: dict[str, Module] = field(default_factory=dict)
    active: dict[str, str] = field(default_factory=dict)  # files being read: path -> name
    sources: list[Source] = field(default_factory=list)

    def load(self, found: Found, shown: str, span: Span) -> Module:
        """The module in a file that an import calls `shown`. Raises Problem if it cannot be had."""
        if found.path in self.active:
            raise self._circle(found, shown, span)
        if found.path in self.modules:
            return self.modules[found.path]
        if len(self.active) > DEEPEST_IMPORTS:
            raise problem("E0107", f"imports are nested more than {DEEPEST_IMPORTS} deep", span)
        if len(self.modules) >= MOST_FILES:
            raise problem("E0107", f"this program imports more than {MOST_FILES} files", span)
        source = self._text(found, shown, span)
        program, diagnostics = self.parse(source)
        self.sources.append(source)
        for diagnostic in diagnostics:
            self.findings.add(diagnostic)
        self.active[found.path] = found.name
        try:
            self.modules[found.path] = open_module(self, program)
        finally:
            del self.active[found.path]
        return self.modules[found.path]

    def _text(self, found: Found, shown: str, span: Span) -> Source:
        try:
            if not stat.S_ISREG(os.stat(found.path).st_mode):
                # a pipe or a device might never end; a folder is no program
                raise problem("E0801", f"`{shown}` is not a regular file", span)
            return self.read(found.path, found.name, found.title)
        except OSError as error:
            reason = (error.strerror or "it cannot be read").lower()
            raise problem("E0801", f"`{shown}` cannot be read", span, reason) from None
        except UnicodeDecodeError:
            raise problem("E0801", f"`{shown}` is not a text file in UTF-8", span) from None

    def _circle(self, found: Found, shown: str, span: Span) -> Problem:
        """A file that is imported while it is being read: how it came to that."""
        names = list(self.active.values())
        circle = names[list(self.active).index(found.path) :]
        notes = (f"{' imports '.join(circle)} imports {circle[0]}",) if len(circle) > 1 else ()
        help = "move what both files need into a third" if notes else "its own names are there without it"
        return problem("E0802", f"`{shown}` imports itself", span, notes=notes, help=help)


def open_module(loader: Loader, program: s.Program) -> Module:
    """The names at the top of a file, its imports loaded. Problems are reported."""
    module = Module(program.source, program, lost=_lost(loader.findings, program.source))
    environment = Environment(None, module)
    for statement in program.body:
        try:
            _enter(loader, module, environment, statement)
        except Problem as found:
            loader.findings.add(found.diagnostic)
            _poison(module, environment, statement)
            if len(loader.findings.found) > MOST_FOUND:
                raise Exhausted from None
        except Poisoned:
            _poison(module, environment, statement)
    return module


def _lost(findings: Findings, source: Source) -> frozenset[str]:
    """The words of the lines that could not be read: what they define must not be missed again."""
    words: set[str] = set()
    for diagnostic in findings:
        if diagnostic.span.source is source and diagnostic.code.startswith("E00"):
            last = source.locate(max(diagnostic.span.start, diagnostic.span.end - 1))[0]
            first = diagnostic.span.line
            while first > 1 and source.line_text(first).lstrip().startswith("|>"):
                first -= 1
            for line in range(first, min(last, first + 100) + 1):
                words.update(re.findall(r"[^\W\d]\w*", source.line_text(line)))
    return frozenset(words)


def _poison(module: Module, environment: Environment, statement: s.Statement) -> None:
    """What a refused statement would have defined is silent afterwards."""
    for name in names_defined(statement):
        if name not in module.names:
            poisoned = Definition((name,), "=", None, environment, statement.span, None, "poisoned")
            module.names[name] = poisoned
    if isinstance(statement, s.Import) and isinstance(statement.path, str) and not statement.names:
        module.incomplete = True


def _enter(loader: Loader, module: Module, environment: Environment, statement: s.Statement) -> None:
    match statement:
        case s.Template():
            check_name(statement.name)
            _check_formals(statement)
            _claim(module, statement.name, TemplateValue(statement, module))
        case s.Definition(s.Name(name) as target, value):
            check_name(target)
            constant = Definition((name,), "=", value, environment, target.span, None, label=name)
            _claim(module, target, constant)
        case s.Definition(s.Call(s.Name() as function, _, _, False) as call, value):
            check_name(function)
            _claim(module, function, make_function(call, value, environment))
        case s.Import():
            _import(loader, module, statement)
        case s.Annotation():
            at_the_top(module, statement)
        case s.Bare():
            loader.findings.add(no_effect(statement))
        case _:
            raise problem(
                "E0309",
                "this statement belongs inside of a model or block",
                _first_line(statement.span),
                help="write `model Name() … end` around it",
            )


def _check_formals(template: s.Template) -> None:
    """Parameters have different names, which Python can have as well. Raises Problem."""
    seen: dict[str, Span] = {}
    for formal in template.formals:
        check_name(formal.name)
        first = seen.setdefault(formal.name.name, formal.span)
        if first is not formal.span:
            labels = (Label(first, "first here"),)
            raise problem("E0103", f"`{formal.name.name}` is given twice", formal.span, labels=labels)


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
    found = loader.places.find(module.source, statement.path, statement.span)
    if isinstance(statement.path, tuple):
        written, binding = ".".join(statement.path), statement.path[-1]
        if statement.path[0] == STD:
            _warn_shadowed(loader, module, statement.path, statement.span)
        else:
            written = "/".join(statement.path) + ".impl"
    else:
        written, binding = statement.path, ""
    imported = loader.load(found, written, statement.span)
    if statement.names:
        for item in statement.names:
            _import_name(loader, module, imported, written, item)
    elif isinstance(statement.path, tuple):
        name = s.Name(binding, statement.span)
        check_name(name)
        _claim(module, name, Namespace(binding, imported))
    else:
        # a whole file: its models and blocks come in under their own names
        for key, value in imported.names.items():
            if isinstance(value, TemplateValue) and value.module is imported:
                _claim(module, s.Name(key, statement.span), value)
        module.incomplete |= imported.incomplete


def _import_name(loader: Loader, module: Module, imported: Module, written: str, item: s.ImportName) -> None:
    """One name of an import; if it is wrong, the others still come in."""
    name = item.name.name
    value = imported.names.get(name)
    try:
        check_name(item.alias)
        if value is None and not (imported.incomplete or name in imported.lost):
            meant = did_you_mean(name, imported.names)
            text = f"did you mean `{meant}`?" if meant else ""
            fixes = instead(item.name.span, meant)
            raise problem("E0804", f"`{written}` has no `{name}`", item.name.span, text, fixes=fixes)
    except Problem as found:
        loader.findings.add(found.diagnostic)
        value = None
    if value is None:
        value = Definition((name,), "=", None, Environment(None, module), item.span, None, "poisoned")
    _claim(module, item.alias, value)


def _warn_shadowed(loader: Loader, module: Module, path: tuple[str, ...], span: Span) -> None:
    """`std` is always the library; whoever has a folder of that name should hear of it."""
    beside = loader.places.beside(module.source, path)
    if beside:
        loader.findings.add(
            Diagnostic(
                "W0801",
                f"`{'.'.join(path)}` is the library's file, and not `{beside}`",
                span,
                "`std` always means the library",
                help=f'write `import "{beside}"` to read that one, or give its folder another name',
            )
        )


def run_constants(context: Context, module: Module) -> None:
    """Evaluate the constants of a file, so that a wrong one is reported even if nothing uses it."""
    for value in module.names.values():
        if isinstance(value, Definition):
            try:
                context.force(value)
            except Poisoned:
                continue
            except RecursionError:
                context.report(too_deep(value.span))
