"""Next year's sunspots: an LSTM and a time-delay network against the naive forecasts, on the years 1700 to 2008.

    python examples/sunspots_lstm.py
    python examples/sunspots_lstm.py --quick       # fewer networks

Trained on the years before 1930, tested on those from then on, one year ahead.  The number of epochs is what was best
for the years 1880 to 1929 after training on those before.
"""

import argparse
from collections.abc import Callable

import numpy as np

import bpcore as bp

PAST = 24  # years that a forecast sees: two cycles
FIRST_TEST = 1930
EPOCHS = 20


def windows(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each PAST numbers in a row, (n, PAST, 1), and the next, (n, 1)."""
    X = np.lib.stride_tricks.sliding_window_view(numbers[:-1], PAST)
    return X[:, :, None], numbers[PAST:, None]


def lstm(seed: int) -> bp.Network:
    return bp.Network([bp.Input((PAST, 1)), bp.LSTM(24), bp.Dense(1)], seed=seed)


def time_delay(seed: int) -> bp.Network:
    """Two layers of filters over the years, then a sum over what is left of them."""
    layers = [bp.TimeDelay(12, 12, "tanh"), bp.TimeDelay(8, 13, "tanh"), bp.Reshape(-1), bp.Dense(1)]
    return bp.Network([bp.Input((PAST, 1)), *layers], seed=seed)


Make = Callable[[int], bp.Network]


def forecast(make: Make, X: np.ndarray, y: np.ndarray, test: np.ndarray, nets: int) -> np.ndarray:
    """The mean of what a few networks of different seeds forecast."""
    answers = []
    for seed in range(nets):
        net = make(seed)
        net.fit(X, y, loss="mse", optimizer=bp.Adam(lr=3e-3), epochs=EPOCHS, batch_size=16)
        answers.append(net.predict(test))
    return np.mean(answers, axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer networks")
    options = parser.parse_args()
    years, numbers = bp.datasets.load_sunspots()
    mean, scale = numbers[years < FIRST_TEST].mean(), numbers[years < FIRST_TEST].std()
    X, y = windows((numbers - mean) / scale)
    late = years[PAST:] >= FIRST_TEST
    nets = 2 if options.quick else 8

    found = {
        "as last year": X[late, -1],
        "as 11 years ago": X[late, -11],
        "LSTM": forecast(lstm, X[~late], y[~late], X[late], nets),
        "time-delay network": forecast(time_delay, X[~late], y[~late], X[late], nets),
    }
    errors = {name: float(np.sqrt(np.mean((answer - y[late]) ** 2))) * scale for name, answer in found.items()}
    for name, error in errors.items():
        print(f"{name:20s} root mean squared error {error:5.1f} sunspots")
    assert max(errors["LSTM"], errors["time-delay network"]) < 0.8 * errors["as last year"]

    net = lstm(0)  # a network is fed year by year, too
    step = net.stepper()
    for x in X[-1]:
        answer = step(x)
    assert (answer == net.predict(X[-1:])[0]).all()


if __name__ == "__main__":
    main()
