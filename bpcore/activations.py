"""Activations: NAMES that layers take, and `Activation` for functions of your own."""

from bpcore._activations import NAMES, Activation

__all__ = ["NAMES", "Activation"]
