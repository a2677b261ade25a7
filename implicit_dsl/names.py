"""From the user's names to Python's: letters of any script to ASCII, and words that are taken."""

from __future__ import annotations

import keyword
import re
from functools import lru_cache

# Kept for later versions of the language.
RESERVED = frozenset({"function", "while", "return", "let", "match", "use", "struct", "module"})

_LETTERS = "αβγδεζηθικλμνξοπρςστυφχψωϵϑϕϱµ"
_SPELLED = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma sigma tau
    upsilon phi chi psi omega epsilon theta phi rho mu
"""
_GREEK = dict(zip(_LETTERS, _SPELLED.split()))
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉⁰¹²³⁴⁵⁶⁷⁸⁹", "01234567890123456789")


@lru_cache(maxsize=4096)
def identifier(name: str) -> str:
    """An ASCII identifier for a name of the language: `κ` -> `kappa`, `h[1].relu1` -> `h_1_relu1`."""
    if name.isascii() and name.isidentifier():
        return name
    import unicodedata

    pieces: list[str] = []
    for letter in unicodedata.normalize("NFD", name.translate(_SUBSCRIPTS)):
        if letter.lower() in _GREEK:
            word = _GREEK[letter.lower()]
            pieces.append(word if letter.islower() else word.capitalize())
        elif letter.isascii() and (letter.isalnum() or letter == "_"):
            pieces.append(letter)
        elif unicodedata.combining(letter):
            pieces.append(_COMBINING.get(letter, ""))
        elif letter.isalnum():
            pieces.append(f"u{ord(letter):x}")
        elif letter == "-":
            pieces.append("m")
        else:
            pieces.append("_")
    joined = re.sub(r"_+", "_", "".join(pieces)).rstrip("_")
    if not joined or joined[0].isdigit():
        joined = f"_{joined}"
    return f"{joined}_" if keyword.iskeyword(joined) else joined  # λ


_COMBINING = {"\u0302": "_hat", "\u0303": "_tilde", "\u0304": "_bar", "\u0307": "_dot"}


def reserved(name: str) -> str:
    """Why a name may not be given to anything, or ''."""
    if keyword.iskeyword(name):
        return "it is a keyword of Python, in which the model is written"
    if identifier(name).startswith("__"):
        return "names that begin with two underscores belong to Python"
    if name in RESERVED:
        return "it is kept for later versions of the language"
    return ""


_ATTRIBUTES = """
    T_destination add_module apply bfloat16 buffers call_super_init certify children compile constraints
    cpu cuda device double dtype dump_patches effective_weights eval extra_repr float forward get_buffer
    get_extra_state get_parameter get_submodule half ipu load_state_dict modules mtia named_buffers
    named_children named_modules named_parameters parameters penalties penalty project_ prox_ prune_
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook
    register_full_backward_hook register_full_backward_pre_hook register_load_state_dict_post_hook
    register_load_state_dict_pre_hook register_module register_parameter register_state_dict_post_hook
    register_state_dict_pre_hook requires_grad_ reset_parameters set_extra_state set_submodule
    share_memory state_dict stats structures system to to_empty train training type xpu zero_grad
"""
_GLOBALS = """
    F NamedTuple Tensor annotations nn runtime self torch
    ValueError RuntimeError ImportError abs float len int range str None super tuple type zip
"""
# What `nn.Module` and the generated class use themselves: an attribute gets `_` behind it.
TAKEN_ATTRIBUTES = frozenset(_ATTRIBUTES.split())
# What the generated file calls by name: a class may not have it, a variable gets `_` behind it.
TAKEN_GLOBALS = frozenset(_GLOBALS.split())
