"""The options of what certifies accuracy, and how they are read."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from importlib.util import find_spec
from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import Refusal
from implicit_dsl.cli.options import USAGE, Parser

if TYPE_CHECKING:
    from argparse import Namespace

    from implicit_dsl.page.subject import Certifying, Samples

METHODS = ("crown", "interval", "nemon", "sensitivity", "lp", "sdp")
NORMS = ("inf", "2")
_MOST_RADII = 50
_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1)  # of the range of the inputs: radii where none are given


def options(parser: Parser, most: int | None, required: bool = False) -> None:
    """How far inputs are disturbed, and how that is bounded. `most`: samples that are taken by default."""
    parser.add_argument(
        "--epsilon",
        type=_radii,
        required=required,
        metavar="ε,…",
        help="radii of the disturbances of the inputs, such as 0.01,0.02"
        + ("" if required else " (shares of the range of the inputs)"),
    )
    parser.add_argument("--norm", choices=NORMS, default="inf", help="of the disturbances (inf)")
    parser.add_argument("--method", choices=METHODS, default="crown", help="what bounds the outputs (crown)")
    parser.add_argument(
        "--samples",
        type=_count,
        default=most,
        metavar="N",
        help=f"only the first N samples ({most or 'all'})",
    )
    parser.add_argument(
        "--lower", type=_number, metavar="X", help="disturbed inputs stay at or above this, as pixels do"
    )
    parser.add_argument("--upper", type=_number, metavar="X", help="and at or below this")
    parser.add_argument(
        "--no-attack",
        dest="attack",
        action="store_false",
        help="do not look for disturbed inputs that are misclassified",
    )
    parser.add_argument(
        "--thorough", action="store_true", help="prove as many as can be, by branch and bound; takes longer"
    )
    parser.add_argument("--processes", type=_count, default=1, metavar="N", help="that share the work (1)")


def asked(options: Namespace, samples: Samples | None) -> Certifying:
    """What the options say. Raises Refusal if the limits of the inputs contradict each other."""
    from implicit_dsl.page.subject import Certifying

    if options.method == "sdp" and not _installed("cvxpy"):
        raise Refusal("`--method sdp` needs a package", 'pip install "implicitc[sdp]"')
    lower, upper = options.lower, options.upper
    if lower is not None and upper is not None and lower >= upper:
        raise Refusal(f"`--lower {lower:g}` is not below `--upper {upper:g}`", code=USAGE)
    return Certifying(
        radii=options.epsilon if options.epsilon is not None else _usual(samples),
        method=options.method,
        norm=options.norm,
        lower=lower,
        upper=upper,
        processes=options.processes,
        attack=options.attack,
        thorough=options.thorough,
    )


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # it is kept from being imported
        return False


def _usual(samples: Samples | None) -> tuple[float, ...]:
    """Radii that suit the inputs: shares of their range, of two digits."""
    if samples is None:
        return ()
    real = [tensor for tensor in samples.inputs if tensor.is_floating_point() and tensor.numel()]
    width = max((float(tensor.max() - tensor.min()) for tensor in real), default=0.0)
    if not 0 < width < math.inf:
        width = 1.0
    return tuple(float(f"{share * width:.2g}") for share in _SHARES)


def _radii(text: str) -> tuple[float, ...]:
    found = []
    for word in text.split(","):
        value = _real(word)
        if not 0 <= value < math.inf:
            raise ArgumentTypeError(
                f"`{word.strip()}` is no radius of at least 0; write for example 0.01,0.02"
            )
        found.append(value)
    if len(found) > _MOST_RADII:
        raise ArgumentTypeError(f"{len(found)} radii are too many: at most {_MOST_RADII}")
    return tuple(sorted(dict.fromkeys(found)))


def _real(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _number(text: str) -> float:
    value = _real(text)
    if not math.isfinite(value):
        raise ArgumentTypeError(f"`{text}` is no number")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise ArgumentTypeError(f"`{text}` is no number of at least 1")
    return int(text)
