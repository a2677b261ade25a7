"""What generated modules import. It knows nouns, operators and matrices, and never the compiler's stages."""

from implicit_dsl.runtime.block_operator import BlockOperator
from implicit_dsl.runtime.pooling import relu_max_pool2d
from implicit_dsl.runtime.system import System

__all__ = ["BlockOperator", "System", "relu_max_pool2d"]
