"""What of a step does not depend on the steps before: computed for all steps at once, before them.

A recurrence is cut in two: a model of what is the same function at each step, whose batch are all steps
of all samples, and the step that is left, for which the results are sequences. Without sequences, as in the
integration of an `ode`, it is computed once, and the results are the same at all steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from implicit_dsl.model import Block, Chain, ImplicitModel, Term
from implicit_dsl.operators import activation_rule, linear_rule
from implicit_dsl.operators.base import Operator
from implicit_dsl.operators.timed import TIMED
from implicit_dsl.recurrence import Recurrence

_OF_A_BATCH = ("batch_norm", "dropout")  # not the same function for more samples at once


@dataclass(frozen=True, slots=True)
class Hoisted:
    """`ahead` is what is computed for all steps at once, if anything; `rest` the recurrence that is left.

    The sequences of `rest` that `ahead` computes carry the names of its states; so do values that are the
    same at all steps.
    """

    ahead: ImplicitModel | None
    rest: Recurrence[ImplicitModel]


def hoisted(recurrence: Recurrence[ImplicitModel], ahead: str = "mixing") -> Hoisted:
    """The recurrence, cut in two.

    Of the summands of what depends on the steps before, those that do not are computed ahead as well,
    `ahead` says which: "mixing", if a matrix or the like is among them; "all"; or "none".
    """
    step, timed = recurrence.step, recurrence.clock is not None
    late = _late(recurrence)
    free = [block for block in step.states if block.name not in late]
    made: list[Block] = []
    sums: list[Term] = []
    left: list[Term] = []
    if timed:
        step, before = _before_timed(step, late)
        free += before
    for block in step.states:
        if block.name not in late:
            continue
        for behind, terms in _arguments(block, step.terms_of[block.name]):
            early = [t for t in terms if (t.source is None or t.source not in late) and not stays(t, timed)]
            if not _is_ahead(early, ahead):
                left += (replace(term, chain=(*term.chain, *behind)) for term in terms)
                continue
            target = terms[0].chain[-1].target if terms[0].chain else step.blocks[str(terms[0].source)].shape
            name = f"{block.name}.ahead{len(made) + 1 if behind else ''}"
            made.append(
                Block(name, target, declared=False, line=block.line, text=block.text, file=block.file)
            )
            sums += (replace(term, target=name) for term in early)
            left.append(Term(block.name, name, behind))
            left += (replace(term, chain=(*term.chain, *behind)) for term in terms if term not in early)
    step, free, made, sums, left = _shared(step, free, made, sums, left, set(recurrence.results))
    recurrence = replace(recurrence, step=step)
    if not free and not made:
        return Hoisted(None, replace(recurrence, step=giving(step, recurrence.results)))
    return Hoisted(*_cut(recurrence, free, made, sums, left))


def _cut(
    recurrence: Recurrence[ImplicitModel],
    free: list[Block],
    made: list[Block],
    sums: list[Term],
    left: list[Term],
) -> tuple[ImplicitModel, Recurrence[ImplicitModel]]:
    step = recurrence.step
    gone = {block.name for block in free}
    given = {name for name, _ in (*recurrence.sequences, *recurrence.same)}
    results = recurrence.results
    read = {
        *results,
        *(term.source for term in left),
        *(name for one in step.recurrences for name in one.reads),
    }
    computed = tuple(block for block in (*free, *made) if block.name in read)
    made_ahead = tuple((block.name, "") for block in computed)
    timed = recurrence.clock is not None
    ahead = replace(
        step,
        inputs=tuple(block for block in step.inputs if block.name in given),
        states=(*free, *made),
        outputs=(),
        terms=(*(term for term in step.terms if term.target in gone), *sums),
        loops=tuple(loop for loop in step.loops if set(loop.states) <= gone),
        recurrences=(),
    )
    sequences = [pair for pair in recurrence.sequences if pair[0] in read]
    kept = {name for name, _ in sequences} | {name for name, _ in recurrence.same if name in read}
    kept |= {carry.before for carry in recurrence.carried}
    rest = replace(
        step,
        inputs=(
            *(replace(block, activation=None) for block in computed),
            *(block for block in step.inputs if block.name in kept),
        ),
        states=tuple(block for block in step.states if block.name not in gone),
        terms=tuple(left),
        loops=tuple(loop for loop in step.loops if not set(loop.states) <= gone),
    )
    return giving(ahead, [block.name for block in computed]), replace(
        recurrence,
        step=giving(rest, results),
        sequences=(*(() if timed else made_ahead), *sequences),
        same=(*(made_ahead if timed else ()), *(pair for pair in recurrence.same if pair[0] in kept)),
    )


def _is_ahead(early: list[Term], which: str) -> bool:
    """Whether the sum of some terms that do not depend on the steps before is computed ahead."""
    if which == "all":
        return any(t.source and (t.chain or len(early) > 1) for t in early)
    mixing = any(linear_rule(op).mixing and t.source for t in early for op in t.chain)
    return mixing and which == "mixing"


def needing(cut: Hoisted, names: Collection[str]) -> Hoisted:
    """The same, where what is computed ahead is some of its states, and no more."""
    if cut.ahead is None:
        return cut
    computed = tuple((block.name, "") for block in cut.ahead.states if block.name in names)
    known = cut.ahead.terms_of
    others = tuple(pair for pair in cut.rest.sequences if pair[0] not in known)
    rest = replace(cut.rest, sequences=(*computed, *others))
    kept = {*names}
    looped = {name: loop.states for loop in cut.ahead.loops for name in loop.states}
    for block in reversed(cut.ahead.states):
        if block.name in kept:
            kept |= set(looped.get(block.name, ()))
        if block.name in kept:
            kept |= {t.source for t in cut.ahead.terms_of[block.name] if t.source is not None}
    states = tuple(block for block in cut.ahead.states if block.name in kept)
    if not states:
        return Hoisted(None, rest)
    ahead = replace(
        cut.ahead,
        states=states,
        outputs=(),
        terms=tuple(term for term in cut.ahead.terms if term.target in {block.name for block in states}),
        loops=tuple(loop for loop in cut.ahead.loops if loop.states[0] in kept),
    )
    return Hoisted(giving(ahead, names), rest)


def giving(model: ImplicitModel, names: Iterable[str]) -> ImplicitModel:
    """A model with outputs for some of its states, so that these count as read."""
    states = [block for block in model.states if block.name in set(names)]
    outputs = tuple(Block(f"{block.name}.now", block.shape) for block in states)
    terms = (Term(to.name, block.name, ()) for to, block in zip(outputs, states))
    return replace(model, outputs=outputs, terms=(*model.terms, *terms))


def _late(recurrence: Recurrence[ImplicitModel]) -> set[str]:
    """The blocks of a step that depend on the steps before, or that are computed step by step anyway."""
    step = recurrence.step
    late = {carry.before for carry in recurrence.carried}
    given = {name for one in step.recurrences for name, *_ in one.gives}
    late |= given
    changed = True
    while changed:
        changed = False
        for block in step.states:
            if block.name in late:
                continue
            terms = step.terms_of[block.name]
            if any(t.source in late or stays(t, recurrence.clock is not None) for t in terms):
                late.add(block.name)
                changed = True
        for loop in step.loops:
            if set(loop.states) & late and not set(loop.states) <= late:
                late |= set(loop.states)
                changed = True
    return late


def stays(term: Term, timed: bool) -> bool:
    """Whether a term is computed step by step: not the same for more samples, or not at all times."""
    kinds = (*_OF_A_BATCH, *TIMED) if timed else _OF_A_BATCH
    return any(operator.kind in kinds for operator in term.chain)


def _before_timed(step: ImplicitModel, late: set[str]) -> tuple[ImplicitModel, list[Block]]:
    """A step in which a number of the time scales a state of its own, if that is the same at all steps."""
    terms: list[Term] = []
    made: list[Block] = []
    for term in step.terms:
        at = next((n for n, operator in enumerate(term.chain) if operator.kind in TIMED), 0)
        mixes = any(linear_rule(operator).mixing for operator in term.chain[:at])
        if term.source is None or term.source in late or not mixes:
            terms.append(term)
            continue
        name = f"{term.target}.once{len(made) + 1}"
        block = step.blocks[term.target]
        made.append(replace(block, name=name, shape=term.chain[at].source, activation=None, declared=False))
        terms += (Term(name, term.source, term.chain[:at]), replace(term, source=name, chain=term.chain[at:]))
    return replace(step, states=(*made, *step.states), terms=tuple(terms)), made


def _shared(
    step: ImplicitModel,
    free: list[Block],
    made: list[Block],
    sums: list[Term],
    left: list[Term],
    results: set[str],
) -> tuple[ImplicitModel, list[Block], list[Block], list[Term], list[Term]]:
    """The same, where what several stages of a step have in common is computed once."""
    terms_of = {block.name: step.terms_of[block.name] for block in free}
    for term in sums:
        terms_of[term.target] = (*terms_of.get(term.target, ()), term)
    kept = {name for loop in step.loops for name in loop.states}
    kept |= results | {name for one in step.recurrences for name in one.reads}
    instead: dict[str, str] = {}
    known: dict[object, str] = {}
    for block in (*free, *made):
        key = tuple((instead.get(t.source or "", t.source), t.chain) for t in terms_of.get(block.name, ()))
        if block.name not in kept:
            first = known.setdefault((block.shape, block.activation, key), block.name)
            if first != block.name:
                instead[block.name] = first

    def renamed(term: Term) -> Term:
        return replace(term, source=instead.get(term.source or "", term.source))

    states = tuple(block for block in step.states if block.name not in instead)
    terms = tuple(renamed(term) for term in step.terms if term.target not in instead)
    return (
        replace(step, states=states, terms=terms),
        [block for block in free if block.name not in instead],
        [block for block in made if block.name not in instead],
        [renamed(term) for term in sums if term.target not in instead],
        [renamed(term) for term in left],
    )


def _arguments(block: Block, terms: tuple[Term, ...]) -> list[tuple[Chain, tuple[Term, ...]]]:
    """The sums that an activation takes, each with the operator that puts it there."""
    if any(term.chain and term.chain[-1].kind == "place" for term in terms):  # parts side by side
        return [(term.chain[-1:], (replace(term, chain=term.chain[:-1]),)) for term in terms]
    if block.activation is None or len(activation_rule(block.activation).arguments) == 1:
        return [((), terms)]
    slots: dict[Operator, list[Term]] = {}
    for term in terms:
        slots.setdefault(term.chain[-1], []).append(replace(term, chain=term.chain[:-1]))
    return [((slot,), tuple(found)) for slot, found in slots.items()]
