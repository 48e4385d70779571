"""Words of other libraries: whoever uses one is told bpcore's, which is no alias but the only one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, Self, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

# names of activations and losses, in lower case
NAMES = {
    "sigmoid": "logistic", "linear": "identity", "swish": "silu", "leakyrelu": "leaky_relu",
    "hardsigmoid": "hard_sigmoid", "hardtanh": "hard_tanh",
    "mean_squared_error": "mse", "mseloss": "mse", "l2": "mse", "crossentropyloss": "cross_entropy",
    "categorical_crossentropy": "cross_entropy", "sparse_categorical_crossentropy": "cross_entropy",
    "log_loss": "cross_entropy", "nll": "cross_entropy", "binary_crossentropy": "binary_cross_entropy",
    "categorical_focal_crossentropy": "categorical_focal", "binary_focal_crossentropy": "focal",
    "bce": "binary_cross_entropy", "bceloss": "binary_cross_entropy",
    "mse": "rmse", "acc": "accuracy", "r2_score": "r2",
    "auc": "roc_auc", "val_auc": "val_roc_auc", "f1_score": "f1", "mean_absolute_error": "mae",
}  # fmt: skip

_RATE = "the optimiser has it, optimizer=bp.Adam(lr=...)"
_NORM = "the optimiser has it, optimizer=bp.Adam(clip_norm=...)"
_SCHEDULE = "rates fall by bp.schedules"
_INPUT = "sizes of inputs are those of bp.Input"
_PENALTY = "layers with weights have l1= and l2=, which is twice Keras's"
_NONE = "penalties are of weights alone"
_DROPOUT = "it is a layer, bp.Dropout(rate)"
_WHOLE = "net.fit has it; several networks are trained for whole epochs"
_ROWS = "it takes all rows, in batches of its own"

# keywords of Keras, PyTorch and scikit-learn: bpcore's, of which those are meant that the callable has; else a sentence
KEYWORDS: dict[str, tuple[str, str]] = {
    # optimisers and schedules
    "learning_rate": ("lr", _RATE), "learning_rate_init": ("lr", _RATE), "eta": ("lr", _RATE), "lr": ("", _RATE),
    "momentum": ("", "the optimiser has it, optimizer=bp.SGD(momentum=...)"),
    "weight_decay": ("", "the optimiser has it, optimizer=bp.AdamW(weight_decay=...)"),
    "beta_1": ("beta1", ""), "beta_2": ("beta2", ""), "betas": ("beta1 beta2", ""), "epsilon": ("eps", ""),
    "clipnorm": ("clip_norm", _NORM), "global_clipnorm": ("clip_norm", _NORM), "max_grad_norm": ("clip_norm", _NORM),
    "clip_norm": ("", _NORM), "clipvalue": ("clip_value", ""), "clip_value": ("", _NORM.replace("norm", "value")),
    "decay": ("weight_decay", _SCHEDULE), "lr_decay": ("", _SCHEDULE), "lr_scheduler": ("", _SCHEDULE),
    "initial_learning_rate": ("peak", _SCHEDULE), "max_lr": ("peak", _SCHEDULE), "decay_steps": ("length every", ""),
    "ema_decay": ("ema", ""),
    "total_steps": ("length", ""), "T_max": ("length", ""), "decay_rate": ("factor", ""), "gamma": ("factor", ""),
    "step_size": ("every", ""), "eta_min": ("end", ""), "warmup_steps": ("warmup", _SCHEDULE),
    "milestones": ("boundaries", ""),
    # layers
    "out_features": ("units", ""), "hidden_size": ("units", ""), "embedding_dim": ("units", ""),
    "output_dim": ("units", ""), "num_embeddings": ("n", ""), "input_dim": ("n", _INPUT), "input_shape": ("", _INPUT),
    "input_size": ("", _INPUT), "in_features": ("", _INPUT), "in_channels": ("", _INPUT),
    "out_channels": ("filters", ""), "kernel_size": ("size taps", ""), "pool_size": ("size", ""),
    "strides": ("stride", ""), "dilation_rate": ("dilation", ""), "data_format": ("", "channels come last"),
    "nonlinearity": ("activation", ""), "recurrent_activation": ("", "gates are logistic"), "use_bias": ("bias", ""),
    "kernel_initializer": ("init", ""), "embeddings_initializer": ("init", ""),
    "recurrent_initializer": ("recurrent_init", ""), "bias_initializer": ("bias_init", "biases begin at 0"),
    "kernel_regularizer": ("l1 l2", _PENALTY), "recurrent_regularizer": ("l1 l2", _PENALTY),
    "embeddings_regularizer": ("l1 l2", _PENALTY), "bias_regularizer": ("", _NONE), "activity_regularizer": ("", _NONE),
    "kernel_constraint": ("max_norm", ""), "recurrent_constraint": ("max_norm", ""),
    "embeddings_constraint": ("max_norm", ""), "trainable": ("", "layers are frozen by name, net.frozen = {'dense_1'}"),
    "return_sequences": ("sequences", ""), "go_backwards": ("reverse", ""), "batch_first": ("", "rows come first"),
    "stateful": ("", "net.stepper() carries states over"), "num_layers": ("", "a layer is one; put several in a row"),
    "unit_forget_bias": ("forget_bias", ""), "p": ("rate", ""), "dropout": ("", _DROPOUT),
    "recurrent_dropout": ("", _DROPOUT), "target_shape": ("shape", ""),
    "num_heads": ("heads", ""), "embed_dim": ("", "key_dim is that of one head, embed_dim / num_heads"),
    "is_causal": ("causal", ""), "use_causal_mask": ("causal", ""), "output_shape": ("units", ""),
    "merge_mode": ("merge", ""), "backward_layer": ("", "the other direction has a copy of the layer"),
    "mask_value": ("", "bp.Mask() finds what is 0"), "padding_idx": ("mask_zero", ""),
    # sequences
    "sequence_length": ("length", ""), "sequence_stride": ("stride", ""), "maxlen": ("length", ""),
    "padding": ("side", ""), "padding_side": ("side", ""), "padding_value": ("value", ""),
    "truncating": ("", "cut sequences first, [a[-length:] for a in arrays]"),
    # losses
    "from_logits": ("", "losses are computed from z behind softmax and logistic outputs, without being told"),
    "reduction": ("", "the cost is the weighted mean over rows"),
    "ignore_index": ("", "rows of sample_weight 0 do not count"),
    "weight": ("class_weight", "fit has it, net.fit(X, y, class_weight={label: weight})"),
    "pos_weight": ("class_weight", "fit has it, net.fit(X, y, class_weight={1: weight})"),
    # networks, and what their methods take
    "hidden_layer_sizes": ("", "layers come as a list, [bp.Input(4), bp.Dense(64, 'relu'), bp.Dense(1)]"),
    "random_state": ("seed", ""), "custom_objects": ("custom", ""), "device": ("", "bpcore runs on the CPU"),
    "n_epochs": ("epochs", ""), "nb_epoch": ("epochs", ""), "num_epochs": ("epochs", ""), "max_iter": ("epochs", ""),
    "sample_weights": ("sample_weight", ""), "class_weights": ("class_weight", ""), "criterion": ("loss", ""),
    "solver": ("optimizer", ""), "n_jobs": ("n_threads", ""), "workers": ("n_threads", ""),
    "num_workers": ("n_threads", ""), "num_threads": ("n_threads", ""), "batch_size": ("", _ROWS),
    "steps": ("", _ROWS), "steps_per_epoch": ("", "an epoch takes all rows"), "verbose": ("", "it prints nothing"),
    "return_dict": ("", "it returns a dict"), "initial_epoch": ("", "epochs go on counting, see net.epoch"),
    "validation_fraction": ("validation_split", ""), "max_steps": ("", _WHOLE), "max_seconds": ("", _WHOLE),
    "resume": ("", "net.fit has it, for one network"),
    "early_stopping": ("", "it is a callback, callbacks=bp.EarlyStopping(...)"), "tol": ("min_delta", ""),
    "restore_best_weights": ("restore_best", ""),
    "mode": ("", "metrics know which way is better"), "to_file": ("path", ""),
    "show_shapes": ("", "shapes are shown"), "show_layer_names": ("", "names are shown"),
}  # fmt: skip


def did_you_mean(value: str, names: Sequence[str]) -> str:
    """A question after the nearest of the names, whatever its case: what others call so, or spelt alike."""
    import difflib

    by_lower = {name.lower(): name for name in reversed(names)}
    near = difflib.get_close_matches(value.lower(), by_lower, 1, 0.5)
    name = NAMES.get(value.lower())
    name = name if name in names else NAMES.get(name or "")  # a loss's, where a metric is meant
    if name not in names:
        name = by_lower[near[0]] if near else None
    return f" Did you mean {name!r}?" if name else ""


def refuse(owner: str, given: Iterable[str], valid: Sequence[str]) -> None:
    """TypeError for the first keyword that the owner does not have: bpcore's word for it, or the nearest one."""
    for name in given:
        if name in valid:
            continue
        words, sentence = KEYWORDS.get(name, ("", ""))
        own = [word for word in words.split() if word in valid]
        if own:
            answer = f"bpcore calls it {' and '.join(own)}"
        else:
            answer = sentence or f"there is no such keyword.{did_you_mean(name, valid)}"
        takes = f" ({owner} takes {', '.join(valid)})" if valid else ""
        raise TypeError(f"{name}: {answer}{takes}") from None


def _refuse_positions(owner: str, given: Sequence[Any], function: Any) -> None:
    """TypeError where more is given by position than a Python function takes, but `self`: it takes that by name."""
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & 0x04:  # *
        return
    names = [name for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if name != "self"]
    n = code.co_argcount - (code.co_varnames[:1] == ("self",))
    if len(given) > n:
        import reprlib

        by_position = f"takes {', '.join(names[:n])} by position" if n else "takes nothing by position"
        by_name = f", all else by name ({', '.join(names[n:])})" if names[n:] else ", and no more"
        raise TypeError(f"{owner}: {by_position}{by_name}; got also {reprlib.repr(given[n])}") from None


@functools.lru_cache(maxsize=1024)
def keywords(function: Any) -> tuple[str, ...] | None:
    """What a Python function takes by name, but `self`; None where it takes any."""
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & 0x08:  # **
        return None
    first, last = code.co_posonlyargcount, code.co_argcount + code.co_kwonlyargcount
    return tuple(name for name in code.co_varnames[first:last] if name != "self")


class Settings(type):
    """The class of classes whose objects hold settings: `dir`, and so `help`, lists these, and not what bpcore's own
    modules ask of the objects (docs/extending.md)."""

    def __dir__(cls) -> list[str]:
        settings: list[str] = [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []
        return [name for name in super().__dir__() if name.startswith("_") or name in settings]


class Worded:
    """A class whose constructor answers keywords that it does not have with bpcore's, and says what it takes by name
    alone."""

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        if args:
            _refuse_positions(cls.__name__, args, cls.__init__)
        if settings and (valid := keywords(cls.__init__)) is not None:
            refuse(cls.__name__, settings, valid)
        return super().__new__(cls)


def worded(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The same for a function, or a method: at no cost but that of a call."""
    valid = keywords(function) or ()
    takes_self = function.__code__.co_varnames[:1] == ("self",)

    @functools.wraps(function)
    def call(*args: _P.args, **settings: _P.kwargs) -> _R:
        try:
            return function(*args, **settings)
        except TypeError:
            refuse(function.__name__, settings, valid)
            _refuse_positions(function.__name__, args[takes_self:], function)
            raise

    return call
