"""The page as text: one file that needs no other, and runs nothing but its own script."""

from __future__ import annotations

import base64
import hashlib

import jinja2

from implicit_dsl import __version__, _resources
from implicit_dsl.page.parts import Section


def written(
    title: str, summary: str, facts: tuple[tuple[str, str], ...], sections: tuple[Section, ...]
) -> str:
    """The page. All text is escaped but pictures, which are escaped where they are made.

    Its policy allows its own style and script alone, by their digests: whatever came into it from elsewhere
    would not run, and nothing is asked of a network.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=jinja2.FunctionLoader(lambda name: _resources.read_text("codegen", name)),
    )
    style, script = (_resources.read_text("codegen", name) for name in ("report.css", "report.js"))
    return environment.get_template("report.html.jinja2").render(
        title=title,
        summary=summary,
        facts=facts,
        sections=sections,
        version=__version__,
        style=_inside(style),
        script=_inside(script),
        policy=f"default-src 'none'; img-src data:; style-src {_digest(style)}; script-src {_digest(script)}",
    )


def _inside(text: str) -> str:
    """Our own text for an element whose content is not escaped."""
    assert "</" not in text, "it would end its element"
    return text


def _digest(text: str) -> str:
    """How a policy names what stands between two tags."""
    found = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(found).decode('ascii')}'"
