"""What generated modules import. It knows nouns, operators and matrices, and never the compiler's stages."""

from implicit_dsl.demands import Family, MatrixTerm, Measured, Piece, SystemPart
from implicit_dsl.runtime.adjoints import JFB, Backward, Implicit, Neumann, Phantom, Unrolled
from implicit_dsl.runtime.attention import masked_attention
from implicit_dsl.runtime.block_operator import BlockOperator
from implicit_dsl.runtime.certificates import Certificate, PerronBounds, certify, perron_bounds
from implicit_dsl.runtime.constraints import (
    Block,
    ConstraintError,
    GroupBound,
    MeasureBound,
    MonotoneBound,
    PerronBound,
    RowBound,
    SpectralBound,
    Within,
    add_parameters,
    effective_weights,
    project_,
    project_after,
    require,
)
from implicit_dsl.runtime.convolution import ConvReluMaxPool2d, SingleChannelConv2d, relu_max_pool2d
from implicit_dsl.runtime.dense import DenseEquilibrium
from implicit_dsl.runtime.elman import elman
from implicit_dsl.runtime.equilibrium import Equilibrium
from implicit_dsl.runtime.failure import ConvergenceError, ConvergenceWarning
from implicit_dsl.runtime.gated import gru, lstm
from implicit_dsl.runtime.implicit.sweeps import unrolled
from implicit_dsl.runtime.integration import IntegrationError, integrate, require_finite
from implicit_dsl.runtime.lengths import at_step, reverse_upto, upto
from implicit_dsl.runtime.matrix_functions import spectral_norm
from implicit_dsl.runtime.measures.applying import penalty, prox_
from implicit_dsl.runtime.measures.penalty import Penalty, Steps
from implicit_dsl.runtime.positions import sinusoids
from implicit_dsl.runtime.pruning import Pruned, prune_
from implicit_dsl.runtime.recurrence import (
    RecurrenceError,
    last,
    or_zeros,
    require_finite_steps,
    stack,
)
from implicit_dsl.runtime.scan import scan
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
from implicit_dsl.runtime.structures import Nonneg, Orthogonal, Structure, members, start_nonneg_
from implicit_dsl.runtime.system import System
from implicit_dsl.runtime.transposes import (
    adaptive_avg_pool_transposed,
    avg_pool_transposed,
    interpolate_transposed,
    pad_transposed,
)
from implicit_dsl.sets.linear import (
    Banded,
    BlockBanded,
    Circulant,
    Diagonal,
    Skew,
    Sparse,
    Symmetric,
    Toeplitz,
)

__all__ = [
    "JFB",
    "Anderson",
    "Auto",
    "Backward",
    "Banded",
    "Block",
    "BlockBanded",
    "BlockOperator",
    "Broyden",
    "Certificate",
    "Circulant",
    "ConstraintError",
    "ConvReluMaxPool2d",
    "ConvergenceError",
    "ConvergenceWarning",
    "DenseEquilibrium",
    "Diagonal",
    "Equilibrium",
    "Family",
    "ForwardBackward",
    "GroupBound",
    "Implicit",
    "IntegrationError",
    "MatrixTerm",
    "MeasureBound",
    "Measured",
    "MonotoneBound",
    "Neumann",
    "Newton",
    "Nonneg",
    "Orthogonal",
    "PeacemanRachford",
    "Penalty",
    "PerronBound",
    "PerronBounds",
    "Phantom",
    "Picard",
    "Piece",
    "Pruned",
    "RecurrenceError",
    "RowBound",
    "SingleChannelConv2d",
    "Skew",
    "Solver",
    "Sparse",
    "SpectralBound",
    "Stats",
    "Steps",
    "Structure",
    "Symmetric",
    "System",
    "SystemPart",
    "Toeplitz",
    "Unrolled",
    "Within",
    "adaptive_avg_pool_transposed",
    "add_parameters",
    "at_step",
    "avg_pool_transposed",
    "certify",
    "channels_last",
    "effective_weights",
    "elman",
    "first_guesses",
    "gru",
    "integrate",
    "interpolate_transposed",
    "last",
    "lstm",
    "masked_attention",
    "members",
    "or_zeros",
    "pad_transposed",
    "penalty",
    "perron_bounds",
    "project_",
    "project_after",
    "prox_",
    "prune_",
    "relu_max_pool2d",
    "require",
    "require_finite",
    "require_finite_steps",
    "reverse_upto",
    "scan",
    "sinusoids",
    "spectral_norm",
    "stack",
    "start_nonneg_",
    "unrolled",
    "update_statistics",
    "upto",
]
