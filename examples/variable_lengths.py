"""Which of two words comes more often: texts of 3 to 30 words, padded, read in both directions.

    python examples/variable_lengths.py
    python examples/variable_lengths.py --quick

The word 0 is none: the mask of `Embedding(mask_zero=True)` flows through the recurrent layer to the pooling, so that
what a text is padded with changes nothing.
"""

import argparse

import numpy as np

import bpcore as bp

LONGEST, WORDS = 30, 20


def texts(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """X (n, LONGEST) of words 1..WORDS-1, 0 behind a text's end; y (n,): whether 1 comes more often than 2."""
    rng = np.random.default_rng(seed)
    lists = [rng.choice(np.r_[1, 1, 1, 2, 2, 2, 3:WORDS], size) for size in rng.integers(3, LONGEST + 1, n)]
    X, _ = bp.pad(lists, LONGEST)
    return X, (X == 1).sum(1) > (X == 2).sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts")
    quick = parser.parse_args().quick
    train, test = texts(1000 if quick else 5000, 0), texts(500, 1)
    words = bp.Input(LONGEST, integer=True)
    h = bp.Embedding(WORDS, 8, mask_zero=True)(words)
    h = bp.Bidirectional(bp.LSTM(16, sequences=True))(h)
    net = bp.Network(words, bp.Dense(1, "logistic")(bp.GlobalAveragePool()(h)), seed=0)
    net.fit(*train, optimizer=bp.Adam(lr=0.01), epochs=8, batch_size=32)
    accuracy = net.evaluate(*test)["accuracy"]
    print(f"{net.n_params:,} parameters, {accuracy:.1%} of {len(test[1])} texts right")
    assert accuracy > (0.9 if quick else 0.97)


if __name__ == "__main__":
    main()
