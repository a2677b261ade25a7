"""docs/peers.md and the tests of this folder speak of each other."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "peers.md"


def test_the_page_names_every_test_and_no_other() -> None:
    written = {
        name
        for file in HERE.glob("test_*.py")
        if file != Path(__file__)
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    }

    assert written == set(re.findall(r"`(test_\w+)`", PAGE.read_text(encoding="utf-8")))
