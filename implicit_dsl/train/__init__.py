"""What trains and reshapes compiled models: proximal steps, block-coordinate descent, state-driven models."""

from implicit_dsl.train.discovering import discover
from implicit_dsl.train.proximal import ProximalStep

__all__ = ["ProximalStep", "discover"]
