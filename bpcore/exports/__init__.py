"""Networks as other libraries' files and objects, and back.  Each function imports what it needs when it is called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bpcore._words import worded

if TYPE_CHECKING:
    from bpcore._network import Network


@worded
def export_c(
    net: Network, path: str | os.PathLike[str], *, name: str = "net", dtype: str = "float32", style: str = "header"
) -> None:
    """Writes the network as one file of C99: its weights, and `name_predict(x, y)`, which computes for one example what
    `net.predict` does.  All or nothing.

    The function takes a pointer for each input, in order, then one for each output: numbers of `dtype` in C order; of
    an Input of whole numbers `const int *`; of one that a Standardize reads `const double *`, since it must not be
    rounded before.  Outputs are in the user's units where the network was fitted with standardize_y=True.  Where it
    needs more than 64 KiB of working memory, the caller gives it, `work`, as the last argument.  It returns nothing;
    with inputs of whole numbers 0, or -1 where one is out of range.  The comment at the head of the file says all this
    of the file at hand, with the names of inputs, outputs and columns, and the bytes of weights and stack.

    It allocates nothing, writes to its arguments and its stack alone, so that any number of threads may call it, and
    needs of the C library at most exp, tanh, sqrt, erf and log1p.  Answers agree with `predict` up to rounding: each
    sum of a product is one chain of additions.  What acts in `fit` alone (Dropout and its kin) is left out; BatchNorm
    computes with its running mean and variance.

    name: begins every name in the file, letters, digits and underscores.  dtype: "float32" or "float64", to which
    weights are rounded.  style: "header", to be included, its functions static; or "source", to be compiled by itself,
    `name_predict` having external linkage.

    Raises ValueError, before a file is written, for functions and activations of your own, which it cannot hold, and
    for numbers that are not finite in `dtype`; OSError where the file cannot be written.
    """
    from bpcore.exports import c_writer

    c_writer.export(net, path, name, dtype, style)


@worded
def export_onnx(net: Network, path: str | os.PathLike[str], *, opset: int = 17, dynamic_batch: bool = True) -> None:
    """Writes what `net.predict` computes as an ONNX model, all or nothing.

    Inputs and outputs have the network's names and shapes, (batch, *shape): float32 or float64 as the network, int64
    of whole numbers, and float64 of an input that a `Standardize` reads, which must not be rounded before.  Outputs are
    in the user's units where the network was fitted with standardize_y=True.  What acts in `fit` alone (Dropout and its
    kin) becomes Identity; BatchNorm computes with its running mean and variance.

    opset: of ONNX's operations, 17 or later.  dynamic_batch: whether any number of rows may come at once; False: one.
    The model names bpcore and its version, and its metadata hold `feature_names`, and of a table `classes`.  It was
    checked by onnx.checker, with shape inference, before the file is written.  Float64 is written as it is; ONNX
    Runtime has no float64 kernels for convolution, average pooling and gelu.

    Raises ValueError, before a file is written, for functions and activations of your own, which ONNX cannot hold, and
    for 2 GiB of weights or more; ImportError without the package onnx (pip install 'bpcore[onnx]').
    """
    from bpcore.exports import onnx_writer

    onnx_writer.export(net, path, opset, dynamic_batch)


@worded
def to_torch(net: Network) -> Any:
    """A torch.nn.Sequential that computes what `net.predict` does, in eval mode, with a copy of the weights.

    For lists of layers that both have: Dense, Conv1D, Conv2D, TimeDelay, pooling, BatchNorm, LayerNorm, RMSNorm,
    GroupNorm, Embedding, Dropout, AlphaDropout, Reshape, Activate.  Modules are called as the layers, activations after
    them; frozen layers want no gradients.  Its dtype is the network's.

    PyTorch has channels first: where the first layer that minds is a convolution, a pooling, a BatchNorm or a
    GroupNorm, the module takes (batch, channels, height, width) for (batch, height, width, channels), and (batch,
    features, time) for (batch, time, features); so does what it gives, unless it is flattened before.

    Raises ValueError that names a layer that PyTorch's Sequential cannot have, and for networks that are no list, or
    were fitted with standardize_y=True; ImportError without torch.
    """
    from bpcore.exports import torch_modules

    return torch_modules.to_torch(net)


@worded
def from_torch(module: Any, input_shape: int | tuple[int, ...]) -> Network:
    """A network that computes what a torch.nn.Sequential does in eval mode, with a copy of its weights.

    module: of modules that `to_torch` makes, Sequentials within it included, or one of them.  input_shape: of an
    example, as PyTorch has it, (channels, height, width) or (features,); the network takes (height, width, channels),
    see `to_torch`.  An activation behind a Linear or a convolution becomes its layer's.  Layers are called as modules
    that have names; modules whose parameters want no gradients are frozen.  Its dtype is that of the parameters,
    float32 or float64.

    Raises ValueError that names the module that bpcore has no layer for, and says why; TypeError for what is no module;
    ImportError without torch.
    """
    from bpcore.exports import torch_modules

    return torch_modules.from_torch(module, input_shape)


@worded
def to_sklearn(net: Network, *, classes: Any = None) -> Any:
    """A fitted MLPClassifier or MLPRegressor of scikit-learn, with a copy of the weights.

    For an input of one axis and Dense layers, the hidden ones of one activation: identity, logistic, tanh or relu.  An
    output of softmax, or of logistic, makes a classifier: of as many classes as softmax has outputs, of two for one
    logistic output, and of several labels at once for several.  One of identity makes a regressor, one of exp a
    regressor with loss="poisson".  A layer without bias gets intercepts of 0.

    classes: labels in ascending order, 0, 1, ... unless given; column k of the probabilities is classes[k].
    It has scikit-learn's default settings for what training asks, and `partial_fit` goes on from these weights.
    Raises ValueError for other networks and labels that do not fit; ImportError without scikit-learn.
    """
    from bpcore.exports import sklearn_mlp

    return sklearn_mlp.to_sklearn(net, classes)


@worded
def from_sklearn(mlp: Any) -> Network:
    """A network that computes what a fitted MLPClassifier or MLPRegressor does, with a copy of its weights.

    mlp: scikit-learn's, or bpcore.sklearn's.  `predict` gives what predict_proba does (of two classes the probability
    of classes_[1] alone, (n, 1)), or the regressor's prediction, (n, outputs).  Its dtype is that of the weights;
    names of columns are kept in `feature_names`.
    Raises TypeError for another object, sklearn.exceptions.NotFittedError before `fit`; ImportError without
    scikit-learn.
    """
    from bpcore.exports import sklearn_mlp

    return sklearn_mlp.from_sklearn(mlp)


@worded
def to_keras(net: Network) -> Any:
    """A keras.Sequential that computes what `net.predict` does, with a copy of the weights; Keras 3, of any backend.

    For lists of layers that both have: Dense, Conv1D, Conv2D, TimeDelay, pooling, LSTM, GRU, SimpleRNN, BatchNorm,
    LayerNorm, RMSNorm, GroupNorm, Embedding, Dropout, AlphaDropout, GaussianNoise, Reshape, Permute, Activate, and a
    factor and a constant.  Names of the input and of layers are kept; frozen layers are not trainable; the dtype is the
    network's.  What training alone reads (l1, l2, max_norm, lr_scale, truncate) stays behind.

    Raises ValueError that names a layer that Keras's Sequential cannot have, and for networks that are no list, or
    were fitted with standardize_y=True; ImportError without Keras.
    """
    from bpcore.exports import keras_layers

    return keras_layers.to_keras(net)


@worded
def from_keras(model: Any) -> Network:
    """A network that computes what a keras.Sequential does, with a copy of its weights.

    model: of layers that `to_keras` makes, Sequentials within it included; it is built, with an input of known size.
    Names are kept where bpcore may have them; layers that are not trainable are frozen; the dtype is that of the
    layers, float32 or float64.  Initialisers, regularisers, constraints, loss and optimiser stay behind.

    Raises ValueError that names the layer that bpcore does not have, and says why; TypeError for another model;
    ImportError without Keras.
    """
    from bpcore.exports import keras_layers

    return keras_layers.from_keras(model)


@worded
def from_onnx(path: str | os.PathLike[str]) -> Network:
    """A network that computes what an ONNX model does, with its weights; of models of `export_onnx` and of others.

    Its inputs are (batch, ...) with known sizes behind the batch, its opset is 13 or later.  It may have Gemm, MatMul,
    Conv, pooling, LSTM, GRU, RNN, LayerNormalization, BatchNormalization, GroupNormalization, InstanceNormalization,
    Add, Sub, Mul, Div, Concat, Slice, Gather of a table, reshapes, activations and Softmax; see docs/exports.md.  Axes
    are as in the model: images (channels, height, width).  What is constant beside a value is a number of an Add, or
    the parameter of a Scale or Bias.  The dtype is that of the outputs, float32 or float64.

    Nothing is executed and no other file is read: tensors in external files, graphs within the graph, functions and
    operations of other domains are refused, and the size of every tensor is compared with its bytes before it is read.
    Raises ValueError that names the operation that bpcore has no layer for, and says why, or for what is no such file;
    FileNotFoundError and its kin for what the system says; ImportError without the package onnx.
    """
    from bpcore.exports import onnx_reader

    return onnx_reader.from_onnx(path)
