"""Losses: averages over examples of E_x(a, y); see each class for its formula."""

from bpcore._losses import *  # noqa: F403
from bpcore._losses import __all__  # noqa: F401
