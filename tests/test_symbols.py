"""Arithmetic on symbols and their indices, against NumPy's; what has no layer is a TypeError with the cure."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

import bpcore as bp

RNG = np.random.default_rng(0)
FORMULAS = [
    lambda a: -a, lambda a: a / 2, lambda a: 2 - a, lambda a: a - 2, lambda a: np.float32(2) * a, lambda a: 2 + a,
    lambda a: a**1, lambda a: a**2, lambda a: a**5, lambda a: a**8, lambda a: -(a**3) / 4 + a * a - 1,
    lambda a: a @ a, lambda a: (a - a / 3) * (2 * a),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(FORMULAS)))
def test_values_and_gradients(number):
    f, x = FORMULAS[number], bp.Input((4, 4))
    net = bp.Network(x, f(bp.Scale()(x)), dtype="float64")
    net.theta = RNG.uniform(0.5, 1.5, 4)
    X, y = RNG.uniform(-1, 1, (5, 4, 4)), RNG.uniform(-1, 1, (5, 4, 4))
    want = np.array([f(a) for a in X * net.theta])
    np.testing.assert_allclose(net.predict(X), want, rtol=1e-14, atol=1e-14)
    assert max(bp.check_gradients(net, X, y).values()) < 1e-7


BOTH = "bp.Function"
WRONG = {
    "a / b": (lambda a: a / a, TypeError, BOTH),
    "1 / a": (lambda a: 1 / a, TypeError, BOTH),
    "NumPy's 1 / a": (lambda a: np.float64(1) / a, TypeError, BOTH),
    "2 ** a": (lambda a: 2**a, TypeError, BOTH),
    "a ** 0.5": (lambda a: a**0.5, TypeError, BOTH),
    "a ** a": (lambda a: a**a, TypeError, BOTH),
    "a ** True": (lambda a: a**True, TypeError, "got True"),
    "a ** 0": (lambda a: a**0, ValueError, "from 1 to 64, got 0"),
    "a ** -1": (lambda a: a**-1, ValueError, "from 1 to 64, got -1"),
    "a / 0": (lambda a: a / 0, ZeroDivisionError, "/ 0"),
    "a * inf": (lambda a: a * np.inf, ValueError, "expected a finite number, got inf$"),
    "a * array": (lambda a: a * np.ones(3), TypeError, "expected a number, got array"),
    "array * a": (lambda a: np.ones(3) * a, TypeError, "expected a number, got array"),
    "a + text": (lambda a: a + "1", TypeError, "got '1'"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_has_no_layer(kind):
    f, error, text = WRONG[kind]
    with pytest.raises(error, match=text):
        f(bp.Input((3, 4)))


def test_bounds_that_are_not_there_are_not_named():
    with pytest.raises(ValueError, match=r"expected a finite number, got nan$"):
        bp.Input(3) * np.nan
    with pytest.raises(ValueError, match=r"lr: expected a finite number in \[0, inf\), got -1"):
        bp.SGD(lr=-1)


SHAPE = (3, 4, 2)
NUMBERS = np.arange(48.0).reshape(2, *SHAPE)
whole = hnp.basic_indices(SHAPE, allow_newaxis=False, allow_ellipsis=True)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(index=whole)
def test_indices_are_numpys(index):
    """But a number alone is (1,), and an index that leaves nothing is a ValueError."""
    want = NUMBERS[(slice(None), *(index if isinstance(index, tuple) else (index,)))]
    x = bp.Input(SHAPE)
    if want.size == 0:
        with pytest.raises(ValueError, match="leaves something"):
            x[index]
        return
    part = x[index]
    assert part.shape == (want.shape[1:] or (1,))
    got = bp.Network(x, part).predict(NUMBERS)
    assert np.array_equal(got, want.reshape(2, *part.shape))


@pytest.mark.parametrize("index", [None, True, 1.0, "a", [0], np.array([0]), (0, None), (slice(None), [1])])
def test_other_indices_are_type_errors(index):
    with pytest.raises(TypeError, match="index"):
        bp.Input(SHAPE)[index]


@pytest.mark.parametrize("index", [3, -4, (0, 4), (0, 0, 0, 0), (..., ...), (0, 0, 2)])
def test_indices_beyond_the_shape(index):
    with pytest.raises(ValueError, match=r"expected an index of \(3, 4, 2\)"):
        bp.Input(SHAPE)[index]


def test_modules_may_be_imported():
    import bpcore.activations
    import bpcore.losses
    from bpcore.losses import Huber

    assert bpcore.losses is bp.losses and bpcore.activations is bp.activations and Huber is bp.losses.Huber
    for module in (bp.losses, bp.activations):
        assert all(hasattr(module, name) for name in module.__all__)
