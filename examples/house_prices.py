"""House prices from a CSV of numbers with gaps, words and dates: a table, a network, a file, an answer for one house.

    python examples/house_prices.py
    python examples/house_prices.py --quick       # fewer houses and epochs

The houses are made up, so that the noise is known: no model can be nearer to a price than 10,000 on average.
"""

import argparse
import csv
import datetime
import tempfile
import time
from pathlib import Path

import numpy as np

import bpcore as bp

HEATING = {"gas": 0, "oil": -20_000, "heat pump": 40_000, "district": 10_000}
NOISE = 12_533  # a mean distance of 10,000


def write(path: Path, n: int) -> None:
    """A CSV of n houses."""
    rng = np.random.default_rng(0)
    worth = rng.normal(0, 60_000, 120)  # of each street
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["area", "rooms", "garden", "street", "heating", "sold", "price"])
        for _ in range(n):
            area, rooms, street = rng.gamma(16, 8), int(rng.integers(1, 8)), int(rng.integers(0, len(worth)))
            garden, heating = bool(rng.random() < 0.4), str(rng.choice(list(HEATING)))
            sold = datetime.date(2015, 1, 1) + datetime.timedelta(days=int(rng.integers(0, 4000)))
            price = 2500 * area + 8000 * rooms + HEATING[heating] + worth[street] + 15 * (sold.toordinal() - 735_600)
            price += garden * 400 * rooms * np.sqrt(area) + rng.normal(0, NOISE)
            shown = "" if rng.random() < 0.05 else f"{area:.0f}"  # some areas are not known
            writer.writerow([shown, rooms, garden, f"street {street}", heating, sold, f"{price:.0f}"])


def read(path: Path) -> dict[str, list]:
    """Columns with the types that they have; pandas.read_csv(path) would do."""
    types = {"area": lambda text: float(text) if text else None, "rooms": int, "garden": lambda text: text == "True",
             "sold": datetime.date.fromisoformat, "price": float}  # fmt: skip
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: [types.get(name, str)(line[name]) for line in lines] for name in lines[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer houses and epochs")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "houses.csv"), 2000 if quick else 20_000)
        houses = read(Path(folder, "houses.csv"))
        n = len(houses["price"]) * 4 // 5
        train, test = ({name: column[part] for name, column in houses.items()} for part in (slice(n), slice(n, None)))

        table = bp.Table(train, target="price", min_count=3)
        print(table.summary())
        net = bp.Network.from_table(table, hidden=(64, 32), seed=0)
        optimizer = bp.AdamW(lr=bp.schedules.Cosine(3e-3), weight_decay=0.01)
        net.fit(train, optimizer=optimizer, epochs=8 if quick else 40)
        scores = net.evaluate(test, metrics=["mae", "r2"])
        known = [area is not None for area in test["area"]]
        errors = np.abs(net.predict(test)[:, 0] - test["price"])
        distance = f"{errors[known].mean():,.0f}"
        print(f"mean distance {scores['mae']:,.0f}, r2 {scores['r2']:.3f}; where the area is known {distance}")
        net.save(Path(folder, "houses.safetensors"))

        answer = bp.load(Path(folder, "houses.safetensors")).predictor()
    house = {"area": 120.0, "rooms": 4, "garden": True, "street": "street 7", "heating": "gas", "sold": "2024-06-01"}
    print(f"{house}: {answer(house)[0]:,.0f}")
    start = time.perf_counter()
    for _ in range(10_000):
        answer(house)
    print(f"{1e6 * (time.perf_counter() - start) / 10_000:.1f} us a house")


if __name__ == "__main__":
    main()
