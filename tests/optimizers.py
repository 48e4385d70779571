"""The tests' one list of optimisers: each kind, and each way in which its numbers change what it keeps or does.

A new kind is entered here, and its oracle, a function of its name, in reference.py; tests/test_optimizers.py and others
take both from there.
"""

import dataclasses

import numpy as np
import pytest
import reference as ref

import bpcore as bp

OPTIMIZERS = {
    "sgd": bp.SGD(lr=0.1),
    "sgd decay": bp.SGD(lr=0.1, weight_decay=0.05),
    "momentum": bp.SGD(lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": bp.SGD(lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.01),
    "clip_norm": bp.SGD(lr=0.1, clip_norm=0.02),
    "clip_norm decay": bp.SGD(lr=0.05, momentum=0.5, weight_decay=0.01, clip_norm=0.3),
    "clip_value": bp.SGD(lr=0.1, clip_value=0.002),
    "adam": bp.Adam(lr=0.01),
    "adam decay": bp.Adam(lr=0.02, beta1=0.8, beta2=0.99, eps=1e-6, weight_decay=0.01),
    "adam amsgrad": bp.Adam(lr=0.01, beta2=0.7, amsgrad=True, weight_decay=0.01),
    "adamw": bp.AdamW(lr=0.01, beta1=0.8, weight_decay=0.1),
    "nadam": bp.Nadam(lr=0.003, beta1=0.8, beta2=0.99, eps=1e-3, momentum_decay=0.3, weight_decay=0.01),
    "adamax": bp.Adamax(lr=0.01, beta1=0.8, beta2=0.6, eps=0.01, weight_decay=0.01),
    "rmsprop": bp.RMSprop(lr=0.003, rho=0.8, eps=0.02),
    "rmsprop momentum": bp.RMSprop(lr=0.003, eps=0.02, momentum=0.5, weight_decay=0.01),
    "rmsprop centered": bp.RMSprop(lr=0.003, eps=0.1, momentum=0.5, centered=True, clip_norm=0.3),
    "adagrad": bp.Adagrad(lr=0.05, eps=0.01, weight_decay=0.01, clip_value=0.02),
    "adadelta": bp.Adadelta(lr=0.5, rho=0.7, eps=1e-3, weight_decay=0.01),
    "lion": bp.Lion(lr=0.002, beta1=0.8, beta2=0.7, weight_decay=0.1, clip_norm=0.3),
    "adam clips": bp.Adam(lr=0.01, clip_norm=0.1, clip_value=0.01),
    "sgd ema": bp.SGD(lr=0.1, ema=0.9),
    "adam ema": bp.Adam(lr=0.01, clip_norm=0.1, ema=0.8),
    "schedule free": bp.ScheduleFree(bp.SGD(lr=0.2, momentum=0.8, weight_decay=0.05, clip_norm=0.3)),
    "schedule free adamw": bp.ScheduleFree(bp.AdamW(lr=0.01, beta1=0.7, beta2=0.99, weight_decay=0.1), r=0.5,
                                           weight_lr_power=1.0),
}  # fmt: skip
# SGD, Adam and RMSprop are all that the engine treats in different ways; what differs from them in its kernel alone is
# spared the long tests of the engine
_KERNELS = {name: o for name, o in OPTIMIZERS.items()
            if o.kind not in ("sgd", "adam", "rmsprop") or "amsgrad" in name or o.settings["ema"]}  # fmt: skip
every_kernel = pytest.mark.parametrize("optimizer", _KERNELS.values(), ids=_KERNELS)
_WAYS = {name: o for name, o in OPTIMIZERS.items() if name not in _KERNELS}
every_way = pytest.mark.parametrize("optimizer", _WAYS.values(), ids=_WAYS)
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
_PLAIN = {name: o for name, o in OPTIMIZERS.items() if not o.leads}  # others are test_schedule_free.py's
every_plain_optimizer = pytest.mark.parametrize("optimizer", _PLAIN.values(), ids=_PLAIN)
_UNBOUNDED = {name: o for name, o in OPTIMIZERS.items() if o.settings["clip_norm"] is o.settings["clip_value"] is None}
every_unbounded_optimizer = pytest.mark.parametrize("optimizer", _UNBOUNDED.values(), ids=_UNBOUNDED)


def move(optimizer, params, gradients, states, rates=None):
    """One step of the oracle in place: params, each (array, whether it decays), their gradients, a dict each, and
    rates, the lr of each, if not the optimiser's.  The average of theta is test_ema.py's; of what leads, params are
    ahead of what the network shows, until `settle`."""
    settings = dict(optimizer.settings)
    del settings["ema"]
    clip_norm, clip_value, decay = (settings.pop(name) for name in ("clip_norm", "clip_value", "weight_decay"))
    norm = np.sqrt(sum((g**2).sum() for g in gradients))
    factor = 1.0 if clip_norm is None else min(1.0, clip_norm / (norm + 1e-6))
    rates = rates or [settings["lr"]] * len(params)
    for (p, decays), g, state, lr in zip(params, gradients, states, rates, strict=True):
        g = g * factor
        if clip_value is not None:
            g = np.clip(g, -clip_value, clip_value)
        getattr(ref, optimizer.rule)(p, g, state, weight_decay=decay if decays else 0.0, **{**settings, "lr": lr})


def settle(params, states):
    """What a network shows, in place of where `move` left the params."""
    for (p, _), state in zip(params, states, strict=True):
        p[...] = state.get("x", p)


def changed(optimizer, **numbers):
    """The same with other numbers."""
    if optimizer.leads:
        return dataclasses.replace(optimizer, optimizer=dataclasses.replace(optimizer.optimizer, **numbers))
    return dataclasses.replace(optimizer, **numbers)
