"""Layers that are written with others: called on symbols they call these, which are what a network holds."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bpcore import _validate
from bpcore._dropout import Dropout
from bpcore._layers import Dense, Layer, named
from bpcore._matmul import MatMul
from bpcore._operations import Activate, Add, Concat, Multiply, Permute, Reshape
from bpcore._recurrent import Recurrent
from bpcore._symbols import Shape, Symbol


class Composed(Layer):
    """What they share: called twice, their parts share weights; a copy has parts of its own.

    parts: the layers with weights, by what they are used for.
    """

    parts: dict[str, Any]

    def add_part(self, use: str, layer: Layer) -> None:
        """Keeps a layer, with a name made of this one's and `use`, where this one has a name."""
        name = None if self.name is None else f"{self.name}_{use}"
        self.__dict__.setdefault("parts", {})[use] = dataclasses.replace(layer, name=name)  # type: ignore[type-var]

    def __copy__(self) -> Any:
        twin = super().__copy__()
        twin.__dict__["parts"] = {use: copy.copy(layer) for use, layer in self.parts.items()}
        return twin


_MERGES = {"concat": Concat(), "sum": Add(), "average": Add([0.5, 0.5]), "multiply": Multiply()}


@dataclass(frozen=True, eq=False, repr=False)
class Bidirectional(Composed):
    """A recurrent layer twice, with weights of their own: forwards and backwards in time (Schuster and Paliwal 1997).

        bp.Bidirectional(bp.LSTM(32))(x)    # (64,): the last h of one, then the h at step 0 of the other

    layer: SimpleRNN, LSTM or GRU, with its settings; of sequences=True both h of a step stand at that step.
    merge: "concat", the forward layer first, "sum", "average" or "multiply".
    Masks are those of the layer: called with a second symbol, Bidirectional(layer)(x, mask), or one that flows to it.

    A network holds its parts, two recurrent layers and what merges them: they are in `summary`, `net.layers` and files,
    by the names lstm_1, lstm_2 or, with name="both", both_forward, both_backward.
    Raises TypeError for another layer, ValueError for one that is reversed.
    """

    layer: Any
    merge: str = field(default="concat", kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Recurrent):
            raise TypeError(f"layer: expected a recurrent layer such as bp.LSTM(32), got {self.layer!r}")
        if self.layer.reverse:
            raise ValueError(f"layer: expected one that is not reversed, got {self.layer!r}; drop reverse=True")
        _validate.choice("merge", self.merge, _MERGES)
        named(self.name)
        if self.name is None and self.layer.name is not None:
            object.__setattr__(self, "name", self.layer.name)
        for use, reverse in (("forward", False), ("backward", True)):
            self.add_part(use, dataclasses.replace(self.layer.itself, reverse=reverse))

    def __repr__(self) -> str:
        return f"Bidirectional({self.layer!r}{'' if self.merge == 'concat' else f', merge={self.merge!r}'})"

    def __call__(self, *inputs: Symbol) -> Symbol:
        """The symbol of both on a sequence, and perhaps a mask."""
        return copy.copy(_MERGES[self.merge])(*(layer(*inputs) for layer in self.parts.values()))


@dataclass(frozen=True, eq=False, repr=False)
class MultiHeadAttention(Composed):
    """Attention of several heads (Vaswani et al. 2017), softmax(Q K^T / sqrt(key_dim)) V in each:

        mha = bp.MultiHeadAttention(4, 16)
        mha(x)                              # self-attention, from (time, features) to the same shape
        mha(x, memory, mask=mask)           # x asks, memory answers: (time of x, features of x)

    Q = query W_q + b_q, K = key W_k + b_k, V = value W_v + b_v; the heads side by side go through W_o, b_o.
    heads: how many.  key_dim: numbers of a query and of a key in a head; value_dim: of a value, key_dim unless given.
    units: of the output, the query's features unless given.  causal: query i has the keys 0..i alone.
    dropout: rate at which weights of the softmax are dropped in `fit`, as by `Dropout`.  bias: whether there are b.

    Called as mha(query, value, key, mask=mask): value is the query and key is the value unless given.  The mask says by
    0 which keys do not count: (keys,), (queries, keys) or (heads, queries, keys).  Without one it is that which flows
    with the key (see `Embedding`); the query's flows on.  A query that has no key gives b_o.

    A network holds its parts: four Dense layers, the products and a softmax; they are in `summary`, `net.layers` and
    files, the Dense layers by the names at_query, at_key, at_value, at_output where name="at".
    Raises ValueError for inputs that are no sequences, or do not fit each other.
    """

    heads: int
    key_dim: int
    value_dim: int | None = field(default=None, kw_only=True)
    units: int | None = field(default=None, kw_only=True)
    causal: bool = field(default=False, kw_only=True)
    dropout: float = field(default=0.0, kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("heads", "key_dim", "value_dim", "units"):
            value = getattr(self, name)
            if value is not None or name in ("heads", "key_dim"):
                object.__setattr__(self, name, _validate.integer(name, value, 1, _validate.MAX_UNITS))
        for name in ("causal", "bias"):
            object.__setattr__(self, name, _validate.flag(name, getattr(self, name)))
        object.__setattr__(self, "dropout", _validate.real("dropout", self.dropout, 0.0, 1.0, open_high=True))
        named(self.name)
        for use, width in (("query", self.key_dim), ("key", self.key_dim), ("value", self.value_dim or self.key_dim)):
            self.add_part(use, Dense(self.heads * width, bias=self.bias))

    def __repr__(self) -> str:
        return f"MultiHeadAttention({self.heads}, {self.key_dim}{', causal=True' if self.causal else ''})"

    def __call__(  # type: ignore[override]
        self, query: Symbol, value: Symbol | None = None, key: Symbol | None = None, *, mask: Symbol | None = None
    ) -> Symbol:
        """The symbol of the answers to `query`, (queries, units)."""
        value = query if value is None else value
        key = value if key is None else key
        self._check(query, value, key)
        q, k, v = self._split("query", query), self._split("key", key), self._split("value", value)
        scores = MatMul(transpose_b=True)(Add([self.key_dim**-0.5])(q), k)
        mask = key.mask if mask is None else mask
        weights = Activate("softmax", causal=self.causal)(scores, *([] if mask is None else [mask]))
        weights = Dropout(self.dropout)(weights) if self.dropout else weights
        answers = Permute((1, 0, 2))(weights @ v)
        if "output" not in self.parts:
            self.add_part("output", Dense(self.units or query.shape[-1], bias=self.bias))
        out: Symbol = self.parts["output"](Reshape((-1, answers.shape[1] * answers.shape[2]))(answers))
        out.mask = query.mask
        return out

    def _split(self, use: str, x: Symbol) -> Symbol:
        """(time, features) to (heads, time, features of a head)."""
        dense = self.parts[use]
        return Permute((1, 0, 2))(Reshape((-1, self.heads, dense.units // self.heads))(dense(x)))

    def _check(self, *inputs: Symbol) -> None:
        shapes: list[Shape] = []
        for use, x in zip(("query", "value", "key"), inputs, strict=True):
            if not isinstance(x, Symbol):
                raise TypeError(f"{self!r}: {use}: expected an output of a layer or bp.Input, got {type(x).__name__}")
            if len(x.shape) != 2:
                raise self.wrong(f"{use} to be a sequence (time, features)", x.shape)
            shapes.append(x.shape)
        if shapes[1][0] != shapes[2][0]:
            raise self.wrong("as many keys as values", f"{shapes[2][0]} and {shapes[1][0]}")
