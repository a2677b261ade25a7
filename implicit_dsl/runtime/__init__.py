"""What generated modules import. It knows nouns, operators and matrices, and never the compiler's stages."""

from implicit_dsl.runtime.block_operator import BlockOperator
from implicit_dsl.runtime.convolution import ConvReluMaxPool2d, SingleChannelConv2d, relu_max_pool2d
from implicit_dsl.runtime.system import System

__all__ = ["BlockOperator", "ConvReluMaxPool2d", "SingleChannelConv2d", "System", "relu_max_pool2d"]
