"""bpcore: backpropagation on the CPU.  Neural networks trained and run by a C core under a thin Python face."""

from bpcore import _threads

_threads.read_forced()
_threads.read_limit()

from bpcore import activations, data, datasets, debug, losses, metrics, plots, schedules  # noqa: E402
from bpcore._activations import Activation  # noqa: E402
from bpcore._callback_files import CSVLogger, JSONLines, ModelCheckpoint  # noqa: E402
from bpcore._callbacks import Callback, EarlyStopping, ReduceOnPlateau, State  # noqa: E402
from bpcore._check import check_gradients  # noqa: E402
from bpcore._composed import Bidirectional, MultiHeadAttention  # noqa: E402
from bpcore._config import show_config  # noqa: E402
from bpcore._convolution import (  # noqa: E402
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
from bpcore._dropout import AlphaDropout, Dropout, GaussianNoise  # noqa: E402
from bpcore._embedding import Embedding  # noqa: E402
from bpcore._ensemble import Ensemble  # noqa: E402
from bpcore._errors import DivergenceError  # noqa: E402
from bpcore._function import Function, get_include  # noqa: E402
from bpcore._history import History  # noqa: E402
from bpcore._layers import Dense, Input  # noqa: E402
from bpcore._losses import Loss  # noqa: E402
from bpcore._many import fit_many, fit_restarts  # noqa: E402
from bpcore._masks import Mask  # noqa: E402
from bpcore._matmul import MatMul  # noqa: E402
from bpcore._network import Network, load  # noqa: E402
from bpcore._normalization import BatchNorm, GroupNorm, LayerNorm, RMSNorm  # noqa: E402
from bpcore._operations import (  # noqa: E402
    Activate,
    Add,
    Bias,
    Concat,
    Multiply,
    Permute,
    Reshape,
    Scale,
    Slice,
    concat,
)
from bpcore._optimizers import (  # noqa: E402
    LBFGS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    LevenbergMarquardt,
    Lion,
    Nadam,
    RMSprop,
    Rprop,
    ScheduleFree,
)
from bpcore._rate_finder import LearningRateFinder  # noqa: E402
from bpcore._recurrent import GRU, LSTM, SimpleRNN  # noqa: E402
from bpcore._resume import Checkpoint  # noqa: E402
from bpcore._sequences import pad, windows  # noqa: E402
from bpcore._standardize import Standardize  # noqa: E402
from bpcore._symbols import Symbol  # noqa: E402
from bpcore._table import Table  # noqa: E402
from bpcore._tape import Gradients, Tape  # noqa: E402
from bpcore._threads import get_num_threads, set_num_threads  # noqa: E402
from bpcore._version import __version__  # noqa: E402
from bpcore.exports import (  # noqa: E402
    export_c,
    export_onnx,
    from_keras,
    from_onnx,
    from_sklearn,
    from_torch,
    to_keras,
    to_sklearn,
    to_torch,
)

__all__ = [
    "GRU",
    "LBFGS",
    "LSTM",
    "SGD",
    "__version__",
    "activations",
    "check_gradients",
    "concat",
    "data",
    "datasets",
    "debug",
    "export_c",
    "export_onnx",
    "fit_many",
    "fit_restarts",
    "from_keras",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "get_include",
    "get_num_threads",
    "load",
    "losses",
    "metrics",
    "pad",
    "plots",
    "schedules",
    "set_num_threads",
    "show_config",
    "to_keras",
    "to_sklearn",
    "to_torch",
    "windows",
    "Activate",
    "Activation",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Add",
    "AlphaDropout",
    "AveragePool1D",
    "AveragePool2D",
    "BatchNorm",
    "Bias",
    "Bidirectional",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "Concat",
    "Conv1D",
    "Conv2D",
    "Dense",
    "DivergenceError",
    "Dropout",
    "EarlyStopping",
    "Embedding",
    "Ensemble",
    "Function",
    "GaussianNoise",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Gradients",
    "GroupNorm",
    "History",
    "Input",
    "JSONLines",
    "LayerNorm",
    "LearningRateFinder",
    "LevenbergMarquardt",
    "Lion",
    "Loss",
    "Mask",
    "MatMul",
    "MaxPool1D",
    "MaxPool2D",
    "ModelCheckpoint",
    "MultiHeadAttention",
    "Multiply",
    "Nadam",
    "Network",
    "Permute",
    "RMSNorm",
    "RMSprop",
    "ReduceOnPlateau",
    "Reshape",
    "Rprop",
    "Scale",
    "ScheduleFree",
    "SimpleRNN",
    "Slice",
    "Standardize",
    "State",
    "Symbol",
    "Table",
    "Tape",
    "TimeDelay",
]
