"""From implicit models to one Python file. Templates loop and print; every decision is made here.

`emit` is the one public function. `forward` writes the computation, `members` the
parameters, `wording` documentation and comments, `inline` what a standalone file carries.
"""

from __future__ import annotations

import os
import re
import textwrap
from dataclasses import dataclass

import jinja2

from implicit_dsl import __version__, _resources
from implicit_dsl.emit.checks import checks
from implicit_dsl.emit.inline import Inlined, import_block, inlined
from implicit_dsl.emit.members import attributes, initialisers, structures
from implicit_dsl.emit.naming import Names
from implicit_dsl.emit.penalties import penalties
from implicit_dsl.emit.recurrences import Recurrent
from implicit_dsl.emit.solving import constraints, effective, equilibria, runtime_names
from implicit_dsl.emit.structure import literals
from implicit_dsl.emit.wording import WIDTH, class_doc, docstring, fitted, forward_doc, opened
from implicit_dsl.header import source_digest, stamp
from implicit_dsl.model import ImplicitModel
from implicit_dsl.source import Source


@dataclass(frozen=True, slots=True)
class _View:
    """What the template prints of one model: finished lines."""

    name: str
    doc: list[str]
    attributes: list[str]
    initialisers: list[str]
    structures: list[str]
    constraints: list[str]
    extended: bool
    projected: bool
    effective: str
    penalties: list[str]
    loops: list[str]
    stats: list[str]
    arguments: str
    returns: str
    forward_doc: str
    checks: list[str]
    body: list[str]
    output_class: str
    output_doc: str
    fields: list[str]
    system_head: list[str]
    system_doc: str
    system: list[str]
    certify_head: list[str]
    certify: list[str]
    prune_head: list[str]
    prune: list[str]
    functions: list[str]
    runtime: Names


def emit(
    models: tuple[ImplicitModel, ...],
    sources: tuple[Source, ...],
    parameters: tuple[tuple[str, str], ...] = (),
    *,
    standalone: bool = False,
    include: tuple[str, ...] = (),
) -> str:
    """The text of the module that holds the models; the same input gives the same bytes.

    `sources` are the program and its imports, `parameters` what was bound at compile
    time, `include` the folders of the include path, all for the header. A `standalone` file
    needs torch alone.
    """
    names = Names.of(models, standalone)
    forwards = [Recurrent(model, names) for model in models]
    views = [_view(model, forward, standalone) for model, forward in zip(models, forwards)]
    called = {name for forward in forwards for name in forward.runtime_calls}
    called |= {name for forward in forwards for name in forward.fusions.classes.values()}
    writers = [writer for forward in forwards for writer in forward.writers]
    called |= {name for writer in writers for name in runtime_names(writer.model, writer)}
    digest = source_digest(sources)
    carried = inlined(called, f"implicitc_{digest[:8]}", names) if standalone else Inlined([], [])
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=jinja2.FunctionLoader(lambda name: _resources.read_text("codegen", name)),
    )
    text = environment.get_template("module.py.jinja2").render(
        docstring=_module_doc(models, sources),
        imports=_imports(views, carried, names),
        exports=", ".join(f'"{name}"' for view in views for name in _exported(view)),
        models=views,
        functions=carried.lines,
        structures=literals(models),
    )
    command = _command(sources, parameters, standalone, include)
    return stamp(text, __version__, sources[0].name, digest, command)


def _view(model: ImplicitModel, forward: Recurrent, standalone: bool) -> _View:
    several = len(model.outputs) > 1
    output_class = forward.names.class_of_outputs(model) if several else ""
    returns = output_class or "Tensor"
    prepared = forward.preparations()
    body = forward.lines(output_class)
    made = constraints(model, forward.names)
    methods = {constraint.method for constraint in model.constraints if constraint.uses}
    given = ", x0: Mapping[str, Tensor] | None = None" if model.loops else ""
    return _View(
        name=model.name,
        doc=class_doc(model),
        attributes=attributes(model, forward.fusions.classes, forward.names),
        initialisers=initialisers(model, forward.names),
        structures=structures(model, forward.names),
        constraints=made,
        extended="parametrize" in methods,
        projected="project" in methods,
        effective=effective(model, forward),
        penalties=penalties(model, forward.names),
        loops=[line for writer in forward.writers for line in equilibria(writer.model, writer)],
        stats=[
            f'"{loop.name}": self.{writer.attributes[loop.name]}.stats,'
            for writer in forward.writers
            for loop in writer.model.loops
        ],
        arguments=", ".join(f"{name}: Tensor" for name in forward.inputs.values()) + given,
        returns=returns,
        forward_doc=forward_doc(model, forward.inputs),
        checks=checks(model, forward.inputs),
        body=[*prepared, *body],
        output_class=output_class,
        output_doc=f'"""What `{model.name}` gives."""',
        fields=[f"{name}: Tensor" for name in forward.fields().values()] if several else [],
        system_head=_head("system", model, "", "Any" if standalone else "runtime.System"),
        system_doc='"""The exact matrices A, B, C and D of the current weights, in evaluation mode."""',
        system=_system_lines(model, output_class, standalone),
        certify_head=_head(
            "certify", model, "tolerance: float = 1e-5", "Any" if standalone else "runtime.Certificate"
        ),
        certify=_certify_lines(model, standalone),
        prune_head=_prune_head(model, standalone),
        prune=_prune_lines(model, standalone),
        functions=[line for writer in forward.writers for line in writer.functions()],
        runtime=forward.names,
    )


def _head(name: str, model: ImplicitModel, given: str, returned: str) -> list[str]:
    """The first line of a method that takes the shapes of inputs, or its lines."""
    length = "length: int | None = None" if _takes_length(model) else ""
    arguments = list(filter(None, ("self", length, given, "**shapes: tuple[int, ...]")))
    return opened(f"def {name}", arguments, f" -> {returned}:", indent=4)


def _system_lines(model: ImplicitModel, output_class: str, standalone: bool) -> list[str]:
    several = f", result={output_class}" if output_class else ""
    several += ", length=length" if _takes_length(model) else ""
    result = f'return runtime.System.of(self, _STRUCTURES["{model.name}"], shapes{several})'
    return _with_package("system", result, standalone)


def _certify_lines(model: ImplicitModel, standalone: bool) -> list[str]:
    given = "shapes, tolerance, length" if _takes_length(model) else "shapes, tolerance"
    result = f'return runtime.certify(self, _STRUCTURES["{model.name}"], {given})'
    return _with_package("certify", result, standalone)


def _prune_head(model: ImplicitModel, standalone: bool) -> list[str]:
    """The first line of `prune_`, or its lines."""
    length = "length: int | None = None" if _takes_length(model) else ""
    given = ("self", "tolerance: float = 0.0", "*inputs: Tensor", length, "**shapes: tuple[int, ...]")
    returned = "Any" if standalone else "runtime.Pruned"
    return opened("def prune_", list(filter(None, given)), f" -> {returned}:", indent=4)


def _prune_lines(model: ImplicitModel, standalone: bool) -> list[str]:
    given = "tolerance, inputs, shapes, length" if _takes_length(model) else "tolerance, inputs, shapes"
    result = f'return runtime.prune_(self, _STRUCTURES["{model.name}"], {given})'
    return _with_package("prune_", result, standalone)


def _takes_length(model: ImplicitModel) -> bool:
    """Whether the number of steps may be given in place of shapes; an input of that name has its own."""
    return bool(model.step_axes) and all(block.name != "length" for block in model.inputs)


def _with_package(method: str, result: str, standalone: bool) -> list[str]:
    """A statement that needs the package, which a standalone file does without until then."""
    lines = fitted(result)
    if not standalone:
        return lines
    return [
        "try:",
        "    from implicit_dsl import runtime",
        "except ImportError as error:",
        f'    message = "{method}() needs the package `implicitc`; forward and backward do not"',
        "    raise ImportError(message) from error",
        *lines,
    ]


def _exported(view: _View) -> list[str]:
    return [view.name, view.output_class] if view.output_class else [view.name]


def _module_doc(models: tuple[ImplicitModel, ...], sources: tuple[Source, ...]) -> str:
    """What the file is: the first sentence of its one model, or the names of several."""
    text = models[0].summary if len(models) == 1 else ""
    wrapped = textwrap.wrap(text or ", ".join(model.name for model in models), WIDTH - 6)
    return "\n".join(docstring("\n".join(wrapped), ""))


def _imports(views: list[_View], carried: Inlined, names: Names) -> list[str]:
    written = (line for view in views for line in (*view.body, *view.attributes, *view.functions))
    wanted = {"from typing import Any", "import torch", "from torch import Tensor", "from torch import nn"}
    if any(view.fields for view in views):
        wanted.add("from typing import NamedTuple")
    if any("Mapping[" in view.arguments for view in views):
        wanted.add("from collections.abc import Mapping")
    body = "\n".join(written)
    if re.search(rf"\b{names.carried('math')}\.", body):
        local = names.carried("math")
        wanted.add("import math" if local == "math" else f"import math as {local}")
    if "F." in body + "\n".join(carried.lines):
        wanted.add("import torch.nn.functional as F")
    lines = import_block(wanted | set(carried.imports))
    return lines if names.standalone else [*lines, "", "from implicit_dsl import runtime"]


def _command(
    sources: tuple[Source, ...],
    parameters: tuple[tuple[str, str], ...],
    standalone: bool,
    include: tuple[str, ...],
) -> str:
    """The command that writes this file again. Absolute folders are of one machine, and not told."""
    words = ["implicitc compile", os.path.basename(sources[0].name)]
    words += [f"-I {_shell(folder)}" for folder in include if not os.path.isabs(folder)]
    words += [f"-P {_shell(f'{name}={value}')}" for name, value in parameters]
    return " ".join([*words, *(["--standalone"] if standalone else [])])


def _shell(given: str) -> str:
    plain = all(c.isalnum() or c in "=.,_-/" for c in given)
    return given if plain else "'" + given.replace("'", "'\\''") + "'"
