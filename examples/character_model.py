"""A character-level LSTM learns a nursery rhyme, then goes on by itself, one character at a time.

    python examples/character_model.py
    python examples/character_model.py --quick       # fewer epochs
"""

import argparse
import textwrap

import numpy as np

import bpcore as bp

# "This is the House that Jack Built" (traditional, 1755)
DEEDS = (
    "lay in", "ate", "killed", "worried", "tossed", "milked", "kissed", "married", "woke", "kept",
)  # fmt: skip
WHO = (
    "the house that jack built", "the malt", "the rat", "the cat", "the dog", "the cow with the crumpled horn",
    "the maiden all forlorn", "the man all tattered and torn", "the priest all shaven and shorn",
    "the cock that crowed in the morn", "the farmer sowing his corn",
)  # fmt: skip
STEPS = 48


def rhyme() -> str:
    """All verses."""
    verses = []
    for i in range(len(WHO)):
        parts = [f"this is {WHO[i]}"]
        parts += [f"that {DEEDS[k]} {WHO[k]}" for k in reversed(range(i))]
        verses.append("\n".join(parts) + ".\n\n")
    return "".join(verses)


def network(n_characters: int, seed: int) -> bp.Network:
    """Characters so far to the probabilities of the next one, at every step."""
    layers = [bp.LSTM(96, sequences=True), bp.Dense(n_characters, "softmax")]
    return bp.Network([bp.Input((STEPS, n_characters)), *layers], seed=seed)


def sample(net: bp.Network, alphabet: list[str], start: str, n: int, sharpness: float, seed: int) -> str:
    """Goes on after `start` by n characters, drawn with probabilities ~ p^sharpness."""
    one_hot, rng = np.eye(len(alphabet), dtype=np.float32), np.random.default_rng(seed)
    step = net.stepper()
    text = start
    for i in range(len(start) + n - 1):
        p = step(one_hot[alphabet.index(text[i])]).astype(float) ** sharpness
        if i + 1 == len(text):
            text += str(rng.choice(alphabet, p=p / p.sum()))
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    text = rhyme()
    alphabet = sorted(set(text))
    numbers = np.array([alphabet.index(c) for c in text])
    at = np.arange(0, len(text) - STEPS - 1, 5)[:, None] + np.arange(STEPS)
    X, y = np.eye(len(alphabet), dtype=np.float32)[numbers[at]], numbers[at + 1]
    net = network(len(alphabet), options.seed)
    for epochs, lr in ((6, 1e-2), (2, 1e-3)) if options.quick else ((20, 1e-2), (5, 1e-3)):
        net.fit(X, y, optimizer=bp.Adam(lr=lr), epochs=epochs, batch_size=16)
    found = net.evaluate(X, y)
    print(f"{len(text):,} characters, {net.n_params:,} parameters: {found['loss'] / np.log(2):.2f} bits a character,"
          f" {found['accuracy']:.1%} right; on its own:\n")  # fmt: skip
    print(textwrap.indent(sample(net, alphabet, "this is the ", 240, 1.5, options.seed), "    "))
    assert found["accuracy"] > (0.6 if options.quick else 0.9)


if __name__ == "__main__":
    main()
