"""Every kind of layer, by the name that a file gives it."""

from __future__ import annotations

from typing import Any

from bpcore._convolution import (
    AveragePool1D,
    AveragePool2D,
    Conv1D,
    Conv2D,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool1D,
    MaxPool2D,
    TimeDelay,
)
from bpcore._embedding import Embedding
from bpcore._function import Function
from bpcore._layers import Dense, Input
from bpcore._matmul import MatMul
from bpcore._normalization import Dropout, LayerNorm
from bpcore._operations import Activate, Add, Bias, Concat, Multiply, Permute, Reshape, Scale, Slice
from bpcore._recurrent import GRU, LSTM, SimpleRNN

LAYERS: dict[str, type[Any]] = {
    kind.op: kind
    for kind in (
        Input, Dense,
        Add, Multiply, Concat, Reshape, Permute, Slice, Activate, Scale, Bias,
        Conv2D, Conv1D, TimeDelay,
        MaxPool2D, AveragePool2D, MaxPool1D, AveragePool1D, GlobalMaxPool, GlobalAveragePool,
        SimpleRNN, LSTM, GRU,
        Embedding, LayerNorm, Dropout, MatMul, Function,
    )
}  # fmt: skip
