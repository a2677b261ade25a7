"""`implicitc report`: what there is to know of a trained model, as one page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import Refusal
from implicit_dsl.cli.options import USAGE, Parser

if TYPE_CHECKING:
    from argparse import Namespace

    from implicit_dsl.page import Subject

_EXAMPLES = """
implicitc report net.impl --weights trained.safetensors             # net.html
implicitc report net.impl --weights trained.pt --data digits.npz -o report.html
implicitc report net.impl --weights trained.pt --data digits.npz --epsilon 0.01,0.02,0.05 --samples 100
"""
_SAMPLES = 200


def main(words: Sequence[str]) -> int:
    """Write the page of the one model of a file."""
    options = _parser().read(words)
    target = _target(options)
    subject = _subject(options)
    if subject is None:
        return 1
    from implicit_dsl.cli.artefacts import deliver
    from implicit_dsl.page import page

    deliver(page(subject), target)
    return 0


def _parser() -> Parser:
    from implicit_dsl.cli import certifying, data

    parser = Parser(
        "report",
        "Write one HTML page about a model with trained weights, which needs no other file and no\n"
        "network: its program, the picture of A, states, certificate, and with --data how solvers do,\n"
        "what outputs depend on, and how accurate it is proved to be when inputs are disturbed.",
        _EXAMPLES,
    )
    parser.file()
    parser.program()
    parser.sizes()
    parser.output("the page; the name of the program with .html if not given, - for standard output")
    parser.add_argument(
        "--weights", metavar="FILE", required=True, help="a state_dict: .pt, .safetensors or .npz"
    )
    parser.add_argument("--data", metavar="FILE", help=data.HELP)
    certifying.options(parser, _SAMPLES)
    parser.add_argument(
        "--time",
        action="store_true",
        help="measure the time for a sample (the page is then another each time)",
    )
    return parser


def _target(options: Namespace) -> str:
    """Where the page goes. Raises Refusal for a name that is not that of a page."""
    stem = os.path.splitext(os.path.basename(options.file))[0] if options.file != "-" else "report"
    target = options.output or f"{stem}.html"
    if target != "-" and os.path.splitext(target)[1].lower() not in (".html", ".htm"):
        raise Refusal(f"`{target}` must end in .html", code=USAGE)
    if not os.path.isdir(os.path.dirname(target) or "."):  # before anything is computed for it
        raise Refusal(f"`{target}` cannot be written: there is no such folder")
    return str(target)


def _subject(options: Namespace) -> Subject | None:
    """What the page is about, all of it checked; None if the program has errors, which are printed."""
    from implicit_dsl.cli.programs import bound, only, sound

    found = sound(options.file, options)
    if found is None:
        return None
    certified = only(found)
    from implicit_dsl.cli import certifying, data
    from implicit_dsl.cli.weights import instance

    model = found.models[0]
    samples = None if options.data is None else data.samples(options.data, model, options.samples)
    if samples is not None:
        data.bind_to(samples, model, options)
    model = bound(model, options)
    if samples is not None:
        data.fitting(options.data, samples, model)
    module = instance(found, weights=options.weights).eval()
    from implicit_dsl.page import Subject

    return Subject(
        sources=found.sources,
        graph=certified.graph,
        model=model,
        module=module,
        weights=os.path.basename(options.weights),
        samples=samples,
        certifying=certifying.asked(options, samples),
        timed=options.time,
    )
