"""What trains and reshapes compiled models: proximal steps, block-coordinate descent, state-driven models."""

__all__: list[str] = []
