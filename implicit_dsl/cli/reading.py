"""Programs named on the command line, read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from implicit_dsl.cli.messages import Refusal
from implicit_dsl.cli.options import USAGE
from implicit_dsl.files import STANDARD_INPUT, cannot_read, read_source, read_standard_input

if TYPE_CHECKING:
    from implicit_dsl.errors import Diagnostic
    from implicit_dsl.source import Source


def read(file: str) -> Source | Diagnostic:
    """The text of a file, or of standard input for `-`. That it cannot be read is a finding."""
    try:
        return read_standard_input() if file == "-" else read_source(file)
    except (OSError, UnicodeDecodeError) as error:
        name = STANDARD_INPUT if file == "-" else file
        return cannot_read(name, error, None if file == "-" else file)
    except ValueError as error:  # a zero byte in the name
        raise Refusal(f"`{file}` is no name of a file: {error}", code=USAGE) from None
