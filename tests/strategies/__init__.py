"""What the tests draw at random.

`CASES` has a strategy for each kind of operator. A rule without one of its own is drawn from what it
says of itself: its formal arguments, and the operator of its example.
"""

from __future__ import annotations

from hypothesis import strategies as st

from implicit_dsl.operators import OPERATORS
from strategies import activations, matrices, places, times, windows
from strategies.activations import BODIES
from strategies.cases import Build, Case, shapes
from strategies.documented import as_documented, example_of
from strategies.matrices import linear_sets

__all__ = ["BODIES", "CASES", "Case", "example_of", "linear_sets", "shapes"]

_OWN: dict[str, Build] = {
    **matrices.OWN,
    **windows.OWN,
    **places.OWN,
    **times.OWN,
    **activations.OWN,
}

CASES: dict[str, st.SearchStrategy[Case]] = {
    kind: st.composite(_OWN.get(kind) or as_documented(kind))() for kind in OPERATORS
}
