"""State-driven implicit models: A, B, C and D fitted to the states of a trained network, row by row.

Source: Tsai, Gao and El Ghaoui, "State-driven implicit modeling" (PMLR 260, 2024).
"""

from implicit_dsl.train.state_driven.collecting import States, collect_states
from implicit_dsl.train.state_driven.fitting import SimWarning, sim, sim_path
from implicit_dsl.train.state_driven.result import StateDriven, StateError

__all__ = ["SimWarning", "StateDriven", "StateError", "States", "collect_states", "sim", "sim_path"]
