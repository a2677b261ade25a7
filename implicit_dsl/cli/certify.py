"""`implicitc certify`: how accurate a model is proved to be when its inputs are disturbed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from implicit_dsl.cli.messages import Refusal, plural, write
from implicit_dsl.cli.options import Parser

if TYPE_CHECKING:
    from implicit_dsl.analysis import CertifiedAccuracy
    from implicit_dsl.page.subject import Certifying, Samples

_EXAMPLES = """
implicitc certify net.impl --weights trained.safetensors --data digits.npz --epsilon 0.01,0.02
implicitc certify net.impl --weights trained.pt --data digits.npz --epsilon 0.1 --norm 2 --lower 0 --upper 1
implicitc certify net.impl --weights trained.pt --data digits.npz --epsilon 0.01 --processes 4 --json
"""
Results: TypeAlias = "Sequence[CertifiedAccuracy]"
Unproved: TypeAlias = Sequence[tuple[float, str]]  # radii for which nothing is proved, and why

_HEADER = ("ε", "clean", "certified", "attacked", "unbounded", "seconds")  # words: `table` splits them


def main(words: Sequence[str]) -> int:
    """Print the certified accuracy of the one model of a file, for each radius, beside that under attack."""
    options = _parser().read(words)
    from implicit_dsl.cli import certifying, data
    from implicit_dsl.cli.programs import bound, only, sound
    from implicit_dsl.cli.weights import instance

    found = sound(options.file, options)
    if found is None:
        return 1
    only(found)
    model = found.models[0]
    samples = data.samples(options.data, model, options.samples)
    if all(block.tokens for block in model.inputs):
        raise Refusal("all inputs are tokens, which no ε disturbs: they are these or others")
    if samples.labels is None:
        raise Refusal(f"there is no accuracy to certify: {samples.unlabelled}", data.HELP)
    asked = certifying.asked(options, samples)
    data.bind_to(samples, model, options)
    model = bound(model, options)
    data.fitting(options.data, samples, model)
    module = instance(found, weights=options.weights).eval()
    from implicit_dsl.page.robustness import accuracies

    results, without = accuracies(module, samples, asked)
    if not results:
        help = "`implicitc verify` says what is proved of its loops, and how far the rules got"
        raise Refusal(without[0][1].rstrip("."), help if model.loops else "")
    told = _as_json if options.json else _told
    write(told(model.name, samples, asked, results, without))
    return 0


def _parser() -> Parser:
    from implicit_dsl.cli import certifying, data

    parser = Parser(
        "certify",
        "Prove of how many samples no disturbance of the input up to ε changes the right class.\n"
        "Beside the share that is certified stands the one that withstands attacks: the accuracy in\n"
        "the worst case lies between the two.",
        _EXAMPLES,
    )
    parser.file()
    parser.program()
    parser.sizes()
    parser.add_argument(
        "--weights", metavar="FILE", required=True, help="a state_dict: .pt, .safetensors or .npz"
    )
    parser.add_argument("--data", metavar="FILE", required=True, help=data.HELP)
    certifying.options(parser, None, required=True)
    parser.add_argument("--json", action="store_true", help="print one JSON object, for tools")
    return parser


def _told(name: str, samples: Samples, asked: Certifying, results: Results, without: Unproved) -> str:
    from implicit_dsl.cli.table import printable, table

    norm = "∞" if asked.norm == "inf" else asked.norm
    head = (
        f"{name}: {plural(len(samples), 'sample')} of {samples.name}, {norm}-norm, bounds by {asked.method}"
    )
    rows = [
        (
            f"{one.epsilon:g}",
            _percent(one.clean),
            _percent(one.certified),
            "" if one.attacked is None else _percent(one.attacked),
            f"{one.unbounded:,}" if one.unbounded else "",
            f"{one.seconds:.1f}",
        )
        for one in results
    ]
    notes = "".join(
        f"\n  nothing is proved for ε = {epsilon:g}: {printable(why)}\n" for epsilon, why in without
    )
    return f"{printable(head)}\n\n{table(rows, _HEADER, right=' '.join(_HEADER[1:]))}\n{notes}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _as_json(name: str, samples: Samples, asked: Certifying, results: Results, without: Unproved) -> str:
    made: dict[str, Any] = {
        "version": 1,
        "model": name,
        "method": asked.method,
        "norm": asked.norm,
        "data": samples.name,
        "results": [
            {
                "epsilon": one.epsilon,
                "samples": one.samples,
                "clean": one.clean,
                "certified": one.certified,
                "attacked": one.attacked,
                "unbounded": one.unbounded,
                "seconds": one.seconds,
                "proved": one.proved.tolist(),
            }
            for one in results
        ],
        "unproved": [{"epsilon": epsilon, "reason": why} for epsilon, why in without],
    }
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"
