"""From a network's nodes to a compiled plan, and a few of them kept for the next call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bpcore import _core
from bpcore._activations import Activation
from bpcore._losses import BuiltIn, Loss

if TYPE_CHECKING:
    from bpcore._network import Network

PREDICT = _core.FORWARD
TRACE = _core.FORWARD | _core.CACHE
EVALUATE = _core.FORWARD | _core.LOSS
TRAIN = _core.FORWARD | _core.CACHE | _core.LOSS | _core.BACKWARD
REVERSE = _core.LOSS | _core.BACKWARD | _core.INPUT_GRAD

# A plan without a backward pass takes any number of rows, in chunks of at most so many.
INFERENCE_ROWS = 16384
_KEPT = 8


@dataclass(frozen=True)
class Key:
    """What a plan was compiled for."""

    flags: int
    rows: int
    n_threads: int
    loss: BuiltIn | Loss | None = None
    target_cols: int = 0
    target_is_integer: bool = False
    weighted: bool = False


@dataclass
class Compiled:
    """A plan and the numbers of its buffers; lists are by layer, 0..L."""

    plan: _core.Plan
    z: list[int]
    a: list[int]
    df: list[int]
    target: int = -1
    weight: int = -1


def compiled(net: Network, key: Key) -> Compiled:
    """A plan of this network's own operations."""
    plan = _core.Plan(net.dtype)
    made = Compiled(plan, [-1], [plan.buffer(net.n_inputs)], [-1])
    slots = {name: plan.param(p.offset, p.rows, p.cols, p.decay) for name, p in net._parameters.items()}
    for node in net._nodes[1:]:
        z = plan.op("dense", [made.a[-1]], [slots[name] for name in node.parameters])
        f = node.layer.activation
        if isinstance(f, Activation):
            a = plan.op("user_function" if f.is_low_level else "python_function", [z], function=(f.f, f.df))
        elif f == "identity":
            a = z
        elif f == "softmax":
            a = plan.op("softmax", [z])
        else:
            a = plan.op("activation", [z], function=f)
        made.z.append(z)
        made.a.append(a)
        made.df.append(-1 if a == z else plan.cache(a))
    if key.loss is not None:
        made.target = plan.buffer(key.target_cols, integer=key.target_is_integer)
        if isinstance(key.loss, Loss):
            plan.loss(None, made.a[-1], made.target, function=(key.loss.value, key.loss.gradient))
        else:
            plan.loss(key.loss.name, made.a[-1], made.target, key.loss.attr)
    if key.weighted:
        made.weight = plan.buffer(1)
    plan.compile(key.flags, key.rows, key.n_threads)
    return made


class PlanCache:
    """The plans a network used last, each handed to one call at a time.

    Threads may use it at once: every step is one operation on a dict or list, and a plan that is lost to a race is
    compiled again.
    """

    def __init__(self) -> None:
        self._free: dict[Key, list[Compiled]] = {}

    @contextmanager
    def take(self, net: Network, key: Key) -> Iterator[Compiled]:
        """A plan for `key`, this call's alone until it is done."""
        try:
            made = self._free[key].pop()
        except (KeyError, IndexError):
            made = compiled(net, key)
        yield made
        plans = self._free.pop(key, [])
        plans.append(made)
        self._free[key] = plans[-_KEPT:]  # the youngest key is last
        for old in list(self._free)[:-_KEPT]:
            self._free.pop(old, None)
