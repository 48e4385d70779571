"""XOR by one hidden unit, with direct links from the inputs to the output (Rumelhart, Hinton and Williams 1986).

    python examples/xor.py
    python examples/xor.py --quick
"""

import argparse

import bpcore as bp


def network(seed: int) -> bp.Network:
    x = bp.Input(2)
    hidden = bp.Dense(1, "logistic", name="hidden")(x)
    return bp.Network(x, bp.Dense(1, "logistic", name="output")(bp.concat([x, hidden])), dtype="float64", seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 seeds")
    seeds = 5 if parser.parse_args().quick else 100
    X, y = bp.datasets.xor()
    solved, net = 0, None
    for seed in range(seeds):
        trained = network(seed)
        optimizer = bp.SGD(lr=2, momentum=0.9)
        history = trained.fit(X, y, loss="squared_error", optimizer=optimizer, epochs=3000, batch_size=None)
        right = trained.evaluate(X, y)["accuracy"] == 1
        solved += right
        if right and net is None:
            net, at = trained, history
    print(f"{solved} of {seeds} first weights lead to XOR")
    assert net is not None
    print(f"loss {at.loss[0]:.3f} -> {at.loss[-1]:.5f}")
    for row, answer in zip(X, net.predict(X), strict=True):
        print(f"{row} -> {answer[0]:.3f}")
    for name, value in net.params.items():
        print(f"{name}: {value.ravel().round(2)}")
    assert solved > seeds / 2


if __name__ == "__main__":
    main()
