"""Pictures: where a matrix has entries (`spy_…`), and the network as a diagram.

Everything here is made as text or bytes, deterministically; nothing heavy is imported before it is drawn.
"""

from __future__ import annotations

from implicit_dsl.pictures.diagram import dot, mermaid
from implicit_dsl.pictures.diagram import svg as diagram_svg
from implicit_dsl.pictures.folding import folded
from implicit_dsl.pictures.spy import Spy, spy_of
from implicit_dsl.pictures.spy_png import spy_png
from implicit_dsl.pictures.spy_svg import spy_svg
from implicit_dsl.pictures.spy_text import spy_text

__all__ = ["Spy", "diagram_svg", "dot", "folded", "mermaid", "spy_of", "spy_png", "spy_svg", "spy_text"]
