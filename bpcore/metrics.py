"""Metrics: what answers are worth, in numbers for people; see each class for its formula."""

from bpcore._metrics import *  # noqa: F403
from bpcore._metrics import __all__  # noqa: F401
