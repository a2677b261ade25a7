"""Block-coordinate descent on Fenchel divergences: states are free, and each block is improved in turn."""

from implicit_dsl.train.descent.data import ConstantWarning, DataError
from implicit_dsl.train.descent.fit import NothingLeftWarning, bcd
from implicit_dsl.train.descent.history import History, Step, Sweep
from implicit_dsl.train.descent.lifted import OutsideFamilyError
from implicit_dsl.train.descent.proximal import Penalty

__all__ = [
    "ConstantWarning",
    "DataError",
    "History",
    "NothingLeftWarning",
    "OutsideFamilyError",
    "Penalty",
    "Step",
    "Sweep",
    "bcd",
]
