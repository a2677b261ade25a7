"""`self.penalties`: what the source asks to make small, and measures of weights as Python."""

from __future__ import annotations

from implicit_dsl.demands import Family, Matrix, Measured, PenaltyDemand, Piece, SystemPart
from implicit_dsl.emit.members import structure
from implicit_dsl.emit.naming import Names
from implicit_dsl.emit.wording import INDENT, fitted, quoted
from implicit_dsl.model import ImplicitModel


def penalties(model: ImplicitModel, names: Names) -> list[str]:
    """What `__init__` assigns to `self.penalties`; nothing if nothing is asked."""
    if not model.demands.penalties:
        return []
    lines = ["self.penalties = ("]
    for term in model.demands.penalties:
        lines += ["    " + line for line in fitted(_penalty(term, model, names), ",", INDENT + 4)]
    return [*lines, ")"]


def _penalty(term: PenaltyDemand, model: ImplicitModel, names: Names) -> str:
    ids = term.measured.tensors
    tensors = {tensor.id: tensor for tensor in model.tensors}
    shapes = ", ".join(f"{quoted(id)}: {tensors[id].shape!r}" for id in ids)
    given = [
        quoted(term.text),
        str(term.line),
        repr(term.factor),
        measured(term.measured, names),
        f"{{{shapes}}}",
    ]
    within = {id: held for id in ids if (held := tensors[id].within) is not None}
    if within:
        sets = ", ".join(f"{quoted(id)}: {structure(made, names)}" for id, made in within.items())
        given.append(f"structures={{{sets}}}")
    made = sorted(set(ids) & _parametrised(model))
    if made:
        given.append(f"made=({', '.join(map(quoted, made))},)")
    if any(family.part is not None for family in term.measured.families):
        given.append(f'system=_STRUCTURES["{model.name}"]')
    return f"{names('Penalty')}({', '.join(given)},)"


def _parametrised(model: ImplicitModel) -> set[str]:
    return {
        id
        for constraint in model.constraints
        if constraint.method == "parametrize"
        for id in constraint.tensors
    }


def measured(given: Measured, names: Names) -> str:
    """A measure as Python: `runtime.Measured("l2", (runtime.Family("columns", (runtime.Piece("B"),)),))`."""
    parts = [quoted(given.name)]
    if given.families:
        parts.append(f"({', '.join(_family(family, names) for family in given.families)},)")
    if given.matrix:
        parts.append(f"matrix={_matrix(given.matrix, names)}")
    return f"{names('Measured')}({', '.join(parts)})"


def measured_names(given: Measured) -> list[str]:
    """What `measured` uses of the runtime, by name."""
    names = ["Measured"]
    names += ["Family"] if given.families else []
    names += ["Piece"] if any(family.pieces for family in given.families) else []
    names += ["SystemPart"] if any(family.part is not None for family in given.families) else []
    return [*names, "MatrixTerm"] if given.matrix else names


def _family(family: Family, names: Names) -> str:
    parts = [quoted(family.axis)]
    if family.pieces:
        parts.append(f"({', '.join(_piece(piece, names) for piece in family.pieces)},)")
    if family.part is not None:
        parts.append(f"part={_part(family.part, names)}")
    return f"{names('Family')}({', '.join(parts)})"


def _piece(piece: Piece, names: Names) -> str:
    parts = [quoted(piece.tensor)]
    parts += [f"rows={_numbers(piece.rows)}"] if piece.rows is not None else []
    parts += [f"columns={_numbers(piece.columns)}"] if piece.columns is not None else []
    return f"{names('Piece')}({', '.join(parts)})"


def _numbers(given: tuple[int, ...]) -> str:
    if len(given) > 3 and given == tuple(range(given[0], given[-1] + 1)):
        return f"tuple(range({given[0]}, {given[-1] + 1}))"
    return repr(given)


def _part(part: SystemPart, names: Names) -> str:
    blocks = _tuple([f"({quoted(row)}, {quoted(column)})" for row, column in part.blocks])
    tensors = _tuple([*map(quoted, part.tensors)])
    return f"{names('SystemPart')}({quoted(part.matrix)}, {blocks}, {tensors})"


def _tuple(entries: list[str]) -> str:
    """A tuple; a comma behind the last of several would ask for a line for each."""
    return f"({', '.join(entries)}{',' if len(entries) == 1 else ''})"


def _matrix(matrix: Matrix, names: Names) -> str:
    terms = []
    for term in matrix:
        factors = ", ".join(f"({quoted(id)}, {transposed})" for id, transposed in term.tensors)
        terms.append(f"{names('MatrixTerm')}({term.factor!r}, ({factors}{',' if factors else ''}))")
    return f"({', '.join(terms)},)"
