"""What trains and reshapes compiled models: proximal steps, block-coordinate descent, state-driven models."""

from implicit_dsl.train.descent import History, bcd
from implicit_dsl.train.discovering import discover
from implicit_dsl.train.proximal import ProximalStep
from implicit_dsl.train.reduction import expand_, reduce_
from implicit_dsl.train.robust import robust_loss, worst_margins
from implicit_dsl.train.state_driven import (
    SimWarning,
    StateDriven,
    StateError,
    States,
    collect_states,
    sim,
    sim_path,
)
from implicit_dsl.train.transfer import TransferError, opened_of, transfer_

__all__ = [
    "History",
    "ProximalStep",
    "SimWarning",
    "StateDriven",
    "StateError",
    "States",
    "TransferError",
    "bcd",
    "collect_states",
    "discover",
    "expand_",
    "opened_of",
    "reduce_",
    "robust_loss",
    "sim",
    "sim_path",
    "transfer_",
    "worst_margins",
]
