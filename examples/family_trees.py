"""Family trees: a network finds what people of two families have in common, and completes facts it was never told.

    python examples/family_trees.py
    python examples/family_trees.py --quick

24 people in two trees of one shape, English and Italian; 12 relations; 104 pairs such as (Colin, aunt) with the people
who answer them.  Person and relation are coded by 6 units each, these by 12, those by 6, and these name the answer
(Rumelhart, Hinton and Williams 1986, Nature 323; Hinton 1986).  4 pairs are held out.
"""

import argparse

import numpy as np

import bpcore as bp

# (husband, wife, children), in each family alike
ENGLISH = [
    ("Christopher", "Penelope", ("Arthur", "Victoria")),
    ("Andrew", "Christine", ("James", "Jennifer")),
    ("Arthur", "Margaret", ()),
    ("James", "Victoria", ("Colin", "Charlotte")),
    ("Charles", "Jennifer", ()),
]
ITALIAN = [
    ("Roberto", "Maria", ("Emilio", "Lucia")),
    ("Pierro", "Francesca", ("Marco", "Angela")),
    ("Emilio", "Gina", ()),
    ("Marco", "Lucia", ("Alfonso", "Sophia")),
    ("Tomaso", "Angela", ()),
]
RELATIONS = (
    "father", "mother", "husband", "wife", "son", "daughter", "uncle", "aunt", "brother", "sister", "nephew", "niece",
)  # fmt: skip


def facts(couples: list) -> dict[tuple[str, str], set[str]]:
    """The people who answer each pair of person and relation."""
    found: dict[tuple[str, str], set[str]] = {}

    def say(person: str, relation: str, answer: str) -> None:
        found.setdefault((person, relation), set()).add(answer)

    sons = {children[0] for _, _, children in couples if children}
    spouse = {a: b for husband, wife, _ in couples for a, b in ((husband, wife), (wife, husband))}
    sibling = {a: b for _, _, children in couples if children for a, b in (children, children[::-1])}
    for husband, wife, children in couples:
        say(wife, "husband", husband)
        say(husband, "wife", wife)
        for child in children:
            say(child, "father", husband)
            say(child, "mother", wife)
            for parent in (husband, wife):
                say(parent, "son" if child in sons else "daughter", child)
                if parent in sibling:
                    for relative in (sibling[parent], spouse[sibling[parent]]):
                        male = any(relative == man for man, _, _ in couples)
                        say(child, "uncle" if male else "aunt", relative)
                        say(relative, "nephew" if child in sons else "niece", child)
    for person, other in sibling.items():
        say(person, "brother" if other in sons else "sister", other)
    return found


def network(seed: int) -> bp.Network:
    person, relation = bp.Input(24, name="person"), bp.Input(12, name="relation")
    coded = [bp.Dense(6, "logistic", name=f"{x.name}_code")(x) for x in (person, relation)]
    h = bp.Dense(12, "logistic")(bp.concat(coded))
    h = bp.Dense(6, "logistic")(h)
    return bp.Network([person, relation], bp.Dense(24, "logistic", name="answer")(h), seed=seed)


def right(answers: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether the k people who are named most strongly are the k who are right."""
    k = y.sum(1).astype(int)
    return np.array([set(a.argsort()[-n:]) == set(t.nonzero()[0]) for a, t, n in zip(answers, y, k, strict=True)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 seeds instead of 20")
    seeds = 2 if parser.parse_args().quick else 20
    known = {**facts(ENGLISH), **facts(ITALIAN)}
    people = sorted({person for person, _ in known})
    assert len(people) == 24 and len(known) == 104
    persons = np.array([np.eye(24)[people.index(person)] for person, _ in known])
    relations = np.array([np.eye(12)[RELATIONS.index(relation)] for _, relation in known])
    y = np.array([[person in answers for person in people] for answers in known.values()], float)
    total = trained_right = 0
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(104)
        told, held = order[:100], order[100:]
        net = network(seed)
        for epochs, optimizer in ((5000, bp.Adam(lr=0.02, weight_decay=1e-4)), (1000, bp.Adam(lr=0.002))):
            net.fit([persons[told], relations[told]], y[told], batch_size=20, epochs=epochs, optimizer=optimizer)
        trained_right += right(net.predict([persons[told], relations[told]]), y[told]).sum()
        new = int(right(net.predict([persons[held], relations[held]]), y[held]).sum())
        total += new
        print(f"seed {seed}: {new} of 4 right")
    print(f"told: {trained_right / seeds:.1f} of 100 right; never told: {total / seeds:.2f} of 4 (by chance 0.2)")
    assert trained_right / seeds > 95 and total / seeds > 1


if __name__ == "__main__":
    main()
