"""From any PyTorch module to a program of the language, and the compiled model that holds its weights."""

from __future__ import annotations

from implicit_dsl.translation.refusal import TranslationError
from implicit_dsl.translation.translate import Translated, from_torch

__all__ = ["Translated", "TranslationError", "from_torch"]
