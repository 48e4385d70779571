"""to_keras and from_keras, on Keras's torch backend: predictions to 1e-6, and weights to the bit there and back."""

import os

os.environ["KERAS_BACKEND"] = "torch"

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from exchange import close, filled  # noqa: E402
from keras import layers as kl  # noqa: E402

import bpcore as bp  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras and torch

def answers(model, X):
    return keras.ops.convert_to_numpy(model(X, training=False))


def there_and_back(net):
    x = net._model.inputs[0]
    rng = np.random.default_rng(1)
    X = rng.integers(0, 5, (7, *x.shape)) if x.layer.integer else rng.standard_normal((7, *x.shape)).astype(net.dtype)
    model = bp.to_keras(net)
    close(answers(model, X), net.predict(X))
    back = bp.from_keras(model)
    close(back.predict(X), net.predict(X))
    assert [p.tobytes() for p in back.params.values()] == [p.tobytes() for p in net.params.values()]
    assert [s.tobytes() for s in back.state.values()] == [s.tobytes() for s in net.state.values()]
    assert list(back.params) == list(net.params) and list(back.inputs) == list(net.inputs)
    assert back.dtype == net.dtype and back.frozen == net.frozen
    return model


CHAINS = {
    "dense": [bp.Input(5, name="x"), bp.Dense(7, "leaky_relu"), bp.Dropout(0.2), bp.LayerNorm(),
              bp.Dense(3, "softmax")],
    "norms": [bp.Input(6), bp.BatchNorm(momentum=0.8), bp.RMSNorm(eps=1e-3), bp.GroupNorm(3),
              bp.Dense(4, bias=False), bp.AlphaDropout(0.1), bp.GaussianNoise(0.2)],
    "words": [bp.Input(4, integer=True), bp.Embedding(5, 3), bp.LSTM(4, sequences=True), bp.GRU(3, sequences=True),
              bp.SimpleRNN(5, activation="relu", reverse=True), bp.Dense(2)],
    "no biases": [bp.Input((6, 2)), bp.GRU(3, bias=False, sequences=True), bp.LSTM(2, bias=False, reverse=True)],
    "lenet": [bp.Input((14, 12, 2)), bp.Conv2D(6, 5, "relu", padding="same"), bp.MaxPool2D(2), bp.BatchNorm(),
              bp.Conv2D(4, (3, 2), "tanh", padding=(2, 1)), bp.AveragePool2D(3, stride=2, padding="same"),
              bp.Dropout(0.5, noise_shape=(1, 1, None)), bp.Reshape(-1), bp.Dense(12, "gelu")],
    "strides": [bp.Input((9, 8, 4)), bp.Conv2D(6, 4, "elu", stride=2, padding="same", groups=2), bp.GroupNorm(2),
                bp.MaxPool2D((2, 3), stride=1, padding="same"), bp.GlobalMaxPool()],
    "causal": [bp.Input((11, 3)), bp.Conv1D(4, 3, padding="causal", dilation=2), bp.Activate("silu"),
               bp.MaxPool1D(2), bp.TimeDelay(5, 2, "tanh"), bp.GlobalAveragePool()],
    "shapes": [bp.Input(12), bp.Reshape((3, 4)), bp.Permute((1, 0)), bp.Activate("softmax", axis=0),
               bp.Add([2.0], constant=-1.0)],
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CHAINS)
def test_there_and_back(name, dtype):
    there_and_back(filled(bp.Network(CHAINS[name], dtype=dtype)))


@pytest.mark.parametrize("f", bp.activations.NAMES)
def test_activations(f):
    there_and_back(filled(bp.Network([bp.Input(3), bp.Dense(40, f), bp.Activate(f)], dtype="float64")))


def test_frozen_layers_are_not_trainable():
    net = filled(bp.Network([bp.Input(3), bp.Dense(2, name="body"), bp.Dense(1, name="end")]))
    net.frozen = {"body"}
    model = there_and_back(net)
    assert [layer.trainable for layer in model.layers] == [False, True]


def test_models_of_others():
    """Nested, with settings that to_keras does not write."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((9, 10, 3)),
        keras.Sequential([kl.ZeroPadding2D(1), kl.Conv2D(8, 3, use_bias=False), kl.ReLU()]),
        kl.BatchNormalization(scale=False), kl.LayerNormalization(center=False), kl.GroupNormalization(-1),
        kl.Flatten(), kl.Dense(6, activation="swish", kernel_regularizer="l2"), kl.ELU(), kl.Softmax(),
    ])  # fmt: skip
    X = np.random.default_rng(0).standard_normal((4, 9, 10, 3)).astype("float32")
    close(bp.from_keras(model).predict(X), answers(model, X))
    gru = keras.Sequential([keras.Input((5, 3)), kl.GRU(4, bias_initializer="random_normal")])
    close(bp.from_keras(gru).predict(X[:, :5, :3, 0]), answers(gru, X[:, :5, :3, 0]))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (kl.GRU(2, reset_after=False), "reset_after=True"),
        (kl.LSTM(2, recurrent_activation="hard_sigmoid"), "recurrent_activation='sigmoid'"),
        (kl.LSTM(2, dropout=0.5), "dropout=0.0"),
        (kl.LSTM(2, go_backwards=True, return_sequences=True), "at their steps"),
        (kl.Dense(2, activation="leaky_relu"), "no activation 'leaky_relu'"),
        (kl.LeakyReLU(), "negative_slope=0.01"),
        (kl.LayerNormalization(axis=1), "axis=1"),
        (kl.ZeroPadding1D(1), "a convolution alone"),
        (kl.UnitNormalization(), "bpcore has no layer for it"),
        (kl.Bidirectional(kl.LSTM(2)), "bpcore has no layer for it"),
        (kl.Softmax(axis=0), "axis=0"),
    ],
)
def test_layers_that_bpcore_does_not_have(layer, why):
    model = keras.Sequential([keras.Input((4, 3)), layer])
    name = type(layer).__name__
    with pytest.raises(ValueError, match=rf"from_keras: expected layers that both .* \({name}\) is none: .*{why}"):
        bp.from_keras(model)


def test_what_is_no_model_for_from_keras():
    x = keras.Input((3,))
    with pytest.raises(TypeError, match="expected a keras.Sequential, got Functional"):
        bp.from_keras(keras.Model(x, kl.Dense(2)(x)))
    with pytest.raises(ValueError, match="one that is built"):
        bp.from_keras(keras.Sequential([kl.Dense(2)]))
    with pytest.raises(ValueError, match="an input of known size"):
        bp.from_keras(keras.Sequential([keras.Input((None, 3)), kl.LSTM(2)]))
    with pytest.raises(ValueError, match="float32 or of float64, got float16"):
        bp.from_keras(keras.Sequential([keras.Input((3,)), kl.Dense(2, dtype="float16")]))


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([bp.Input(2), bp.Scale()], "scale_1 .*bp.export_onnx writes it"),
        ([bp.Input((4, 3)), bp.LSTM(2, sequences=True, reverse=True)], "lstm_1 .*the last first"),
        ([bp.Input((4, 3)), bp.MaxPool1D(2, padding=1)], "max_pool1d_1 .*no numbers as padding"),
        ([bp.Input((4, 4)), bp.Activate("softmax", causal=True)], "activate_1 .*not causal"),
        ([bp.Input(4, integer=True), bp.Embedding(3, 2, mask_zero=True)], "embedding_1 .*masks flow"),
        ([bp.Input((8, 8, 2)), bp.Conv2D(2, 2, stride=2, dilation=2)], "conv2d_1 .*strides"),
        ([bp.Input((4, 3)), bp.SimpleRNN(2, activation="leaky_relu")], "simple_rnn_1 .*another slope"),
    ],
)
def test_layers_that_keras_does_not_have(layers, why):
    with pytest.raises(ValueError, match="to_keras: expected layers that both libraries have, and " + why):
        bp.to_keras(bp.Network(layers))
    body = bp.Dense(2)
    with pytest.raises(ValueError, match="dense_1@2 .*used twice"):
        bp.to_keras(bp.Network([bp.Input(2), body, body]))
