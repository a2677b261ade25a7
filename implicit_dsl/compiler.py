"""The straight line from source text to module, and nothing else.

Source ─parse→ Program ─resolve→ SignalGraph ─certify→ Certified ─assemble→ ImplicitModel ─emit→ str
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from implicit_dsl._collector import collector_at_rest
from implicit_dsl.assemble import assemble
from implicit_dsl.certify import Certified, certify
from implicit_dsl.errors import Diagnostic, Findings, Severity
from implicit_dsl.files import LARGEST_SOURCE, read_source
from implicit_dsl.parse import parse
from implicit_dsl.resolve import resolve
from implicit_dsl.source import Source, Span
from implicit_dsl.syntax import Definition, Expression

if TYPE_CHECKING:
    from implicit_dsl.model import ImplicitModel


@dataclass(frozen=True, slots=True)
class Checked:
    """What the front half of the compiler finds: certified graphs, findings, and all files read."""

    certified: tuple[Certified, ...]
    diagnostics: tuple[Diagnostic, ...]
    sources: tuple[Source, ...]
    parameters: tuple[tuple[str, str], ...]  # as given: name and value, as text
    include: tuple[str, ...] = ()  # folders of the include path, as given

    @property
    def models(self) -> tuple[ImplicitModel, ...]:
        """The implicit model of each graph."""
        return tuple(assemble(one) for one in self.certified)


def check(
    source: Source,
    *,
    parameters: Mapping[str, object] | None = None,
    model: str | None = None,
    include: Sequence[str] = (),
    pedantic: bool = False,
) -> Checked:
    """Everything up to the certificate. Findings are returned, never raised.

    `parameters` are compile-time parameters: numbers, booleans and lists, or strings in the
    syntax of the language (`"[16, 32]"`). `include` are folders in which imports are looked
    for, behind the folder of the file that imports. `pedantic` also finds what is right and yet
    worth a second look.
    """
    with collector_at_rest():
        checked = _check(source, parameters or {}, model, tuple(include))
    return _remarked(checked) if pedantic else checked


def _remarked(checked: Checked) -> Checked:
    """The same with the remarks of `--pedantic`, if nothing is wrong."""
    if any(one.severity is Severity.ERROR for one in checked.diagnostics):
        return checked
    from implicit_dsl.certify.pedantic import remarks

    findings = Findings()
    for one in (*checked.diagnostics, *(remark for found in checked.certified for remark in remarks(found))):
        findings.add(one)
    return replace(checked, diagnostics=tuple(findings))


def _check(
    source: Source, parameters: Mapping[str, object], model: str | None, include: tuple[str, ...]
) -> Checked:
    findings = Findings()
    if len(source.text) > LARGEST_SOURCE:  # of a file, `read_source` says so
        message = f"this program is larger than {LARGEST_SOURCE // 2**20} MiB"
        return Checked((), (Diagnostic("E0107", message, Span(source, 0, 0)),), (source,), ())
    program, diagnostics = parse(source)
    for diagnostic in diagnostics:
        findings.add(diagnostic)
    written = {name: _written(value) for name, value in parameters.items()}
    bindings = _bindings(written, findings)
    graphs, imported = resolve(
        program,
        findings,
        parse=parse,
        read=lambda path, name, title: read_source(path, name, title),
        bindings=bindings,
        model=model,
        include=include,
    )
    certified = tuple(one for one in (certify(graph, findings) for graph in graphs) if one is not None)
    found = tuple(findings)
    if findings.errors:
        # what is unused may be so only because the line that uses it is wrong
        found = tuple(d for d in found if d.severity is Severity.ERROR)
    return Checked(certified, found, (source, *imported), tuple(written.items()), include)


def compile(
    text: str | Source,
    *,
    parameters: Mapping[str, object] | None = None,
    model: str | None = None,
    standalone: bool = False,
    include: Sequence[str] = (),
) -> str:
    """The generated module, as text.

    Raises ImplicitError with all diagnostics if the program is wrong. `standalone` inlines
    what the module needs of the runtime, so that it depends on torch alone. `include` are
    folders in which imports are looked for.
    """
    from implicit_dsl.emit import emit

    source = text if isinstance(text, Source) else Source(text)
    checked = check(source, parameters=parameters, model=model, include=include)
    findings = Findings(list(checked.diagnostics))
    findings.raise_errors()
    return emit(
        checked.models,
        checked.sources,
        checked.parameters,
        standalone=standalone,
        include=checked.include,
    )


def _written(value: object) -> str:
    """A parameter in the syntax of the language."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple, range)):
        return "[" + ", ".join(_written(item) for item in value) + "]"
    return repr(value)


def _bindings(written: Mapping[str, str], findings: Findings) -> dict[str, Expression]:
    """`name=value` texts as expressions; each must be one expression."""
    bindings: dict[str, Expression] = {}
    for name, text in written.items():
        source = Source(f"{name} = {text}", "-P")
        program, diagnostics = parse(source)
        for diagnostic in diagnostics:
            findings.add(diagnostic)
        match program.body:
            case (Definition(value=value),) if not diagnostics:
                bindings[name] = value
            case _ if not diagnostics:
                findings.add(
                    Diagnostic("E0104", f"`{name}` needs one value", Span(source, 0, len(source.text)))
                )
    return bindings
