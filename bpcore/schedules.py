"""Schedules of an optimiser's numbers, `lr=bp.schedules.Cosine(1e-3, warmup=100)`; see each class for its formula."""

from bpcore._schedules import *  # noqa: F403
from bpcore._schedules import __all__  # noqa: F401
