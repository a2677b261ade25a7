"""What generated modules import. It knows nouns, operators and matrices, and never the compiler's stages."""

from implicit_dsl.runtime.adjoints import JFB, Backward, Implicit, Neumann, Phantom, Unrolled
from implicit_dsl.runtime.block_operator import BlockOperator
from implicit_dsl.runtime.certificates import Certificate, certify
from implicit_dsl.runtime.constraints import (
    Block,
    ConstraintError,
    MeasureBound,
    MonotoneBound,
    PerronBound,
    RowBound,
    SpectralBound,
    add_parameters,
    effective_weights,
    project_,
    project_after,
    require,
)
from implicit_dsl.runtime.convolution import ConvReluMaxPool2d, SingleChannelConv2d, relu_max_pool2d
from implicit_dsl.runtime.dense import DenseEquilibrium
from implicit_dsl.runtime.equilibrium import Equilibrium
from implicit_dsl.runtime.failure import ConvergenceError, ConvergenceWarning
from implicit_dsl.runtime.implicit.sweeps import unrolled
from implicit_dsl.runtime.solvers import (
    Anderson,
    Auto,
    Broyden,
    ForwardBackward,
    Newton,
    PeacemanRachford,
    Picard,
    Solver,
)
from implicit_dsl.runtime.starting import channels_last, first_guesses, update_statistics
from implicit_dsl.runtime.statistics import Stats
from implicit_dsl.runtime.system import System

__all__ = [
    "JFB",
    "Anderson",
    "Auto",
    "Backward",
    "Block",
    "BlockOperator",
    "Broyden",
    "Certificate",
    "ConstraintError",
    "ConvReluMaxPool2d",
    "ConvergenceError",
    "ConvergenceWarning",
    "DenseEquilibrium",
    "Equilibrium",
    "ForwardBackward",
    "Implicit",
    "MeasureBound",
    "MonotoneBound",
    "Neumann",
    "Newton",
    "PeacemanRachford",
    "PerronBound",
    "Phantom",
    "Picard",
    "RowBound",
    "SingleChannelConv2d",
    "Solver",
    "SpectralBound",
    "Stats",
    "System",
    "Unrolled",
    "add_parameters",
    "certify",
    "channels_last",
    "effective_weights",
    "first_guesses",
    "project_",
    "project_after",
    "relu_max_pool2d",
    "require",
    "unrolled",
    "update_statistics",
]
