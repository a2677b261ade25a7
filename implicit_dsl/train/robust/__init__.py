"""Certified training: the worst case within a box of inputs as a loss, by differentiable intervals."""

from implicit_dsl.train.robust.loss import robust_loss, worst_margins

__all__ = ["robust_loss", "worst_margins"]
