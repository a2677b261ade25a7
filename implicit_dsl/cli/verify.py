"""`implicitc verify`: whether loops are proved to have one equilibrium, with given weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import Refusal, write
from implicit_dsl.cli.options import USAGE, Parser

if TYPE_CHECKING:
    from argparse import Namespace

    from implicit_dsl.compiler import Checked
    from implicit_dsl.runtime.certificates import Certificate

_EXAMPLES = """
implicitc verify deq.impl --weights trained.safetensors
implicitc verify deq.impl --weights trained.pt --json
implicitc verify conv.impl --size u=3,32,32 --tolerance 1e-6
"""
_TOLERANCE = 1e-5


def main(words: Sequence[str]) -> int:
    """Print the certificate of the one model of a file; 1 if a loop is not proved."""
    options = _parser().read(words)
    from implicit_dsl.cli.programs import bound, only, sound

    found = sound(options.file, options)
    if found is None:
        return 1
    only(found)
    from implicit_dsl.runtime.certificates import same_in_all_steps

    if options.sizes or options.length or not same_in_all_steps(found.models[0]):
        bound(found.models[0], options)  # refuses sizes that are missing or do not fit
    certificate = _certificate(found, options)
    write(certificate.as_json() + "\n" if options.json else f"{certificate}\n")
    return 0 if certificate.proved else 1


def _parser() -> Parser:
    parser = Parser(
        "verify",
        "Prove that each loop has exactly one equilibrium, with the weights of a file.\n"
        "Prints the rule, the contraction rate κ and the number of steps for a tolerance; for a loop\n"
        "that is refused, how far each rule got and the strongest cycle. Exit code 1 if one is refused.",
        _EXAMPLES,
    )
    parser.file()
    parser.program()
    parser.sizes()
    parser.add_argument(
        "--weights", metavar="FILE", help="a state_dict: .pt, .safetensors or .npz; without: new weights"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for new weights (0)")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=_TOLERANCE,
        metavar="ε",
        help=f"the error that steps are counted for, beside the first step ({_TOLERANCE:g})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for tools")
    return parser


def _tolerance(text: str) -> float:
    from argparse import ArgumentTypeError

    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise ArgumentTypeError(f"`{text}` is no number between 0 and 1, such as 1e-5")
    return value


def _certificate(found: Checked, options: Namespace) -> Certificate:
    from implicit_dsl.cli.options import unique
    from implicit_dsl.cli.weights import instance
    from implicit_dsl.runtime.certificates import certify

    module = instance(found, options.seed, options.weights)
    shapes: dict[str, tuple[int, ...]] = unique(options.sizes, "--size")  # type: ignore[assignment]
    try:
        return certify(module, found.models[0].as_data(), shapes, options.tolerance, options.length)
    except ValueError as error:
        raise Refusal(str(error), code=USAGE) from None
