"""The bits are those that are recorded in digests.json: a change that is to keep them has kept them.

BPCORE_COMPLETE=1 (.ci/run) adds the large networks, the other instruction set with fused multiply-add and 3 threads.
"""

import os

import pytest
from digests import CASES, FUSED, expected, lines, recorded

from bpcore import _core

COMPLETE = bool(os.environ.get("BPCORE_COMPLETE"))
LARGE = COMPLETE and _core.isa()[0] in FUSED  # others would take minutes
HINT = "bits changed: if meant, run python tests/digests.py --record and say why in the commit"
RECORD = recorded()
WAYS = [(1, False), (2, False), *([(3, True)] if COMPLETE else [])]  # threads; whether everything is parallel


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if LARGE or not case.slow])
def test_bits_are_those_recorded_on_any_number_of_threads(name, force):
    """Where multiply and add are not fused nothing is recorded: the numbers of threads agree."""
    for optimizer in CASES[name].optimizers:
        found = []
        for n_threads, always in WAYS:
            force(always, "")
            found.append(CASES[name].digest(optimizer, n_threads))
        wanted = expected(RECORD, name, optimizer, _core.isa()[0]) or found[0]
        assert found == [wanted] * len(WAYS), f"{name}, {optimizer}: {HINT}"


def test_every_case_is_recorded_for_each_of_its_optimisers():
    assert {name: list(kept) for name, kept in RECORD.items()} == {
        name: list(case.optimizers) for name, case in CASES.items()
    }


if COMPLETE:

    @pytest.mark.parametrize("isa", [isa for isa in _core.isa()[1] if isa in FUSED and isa != _core.isa()[0]])
    def test_other_instruction_sets_have_the_bits_recorded(isa):
        found = lines(isa, (2,), False, "recorded")
        assert len(found) == sum(len(case.optimizers) for case in CASES.values())
        for name, optimizer, _, used, digest in found:
            assert used == isa and digest == expected(RECORD, name, optimizer, isa), f"{name}, {optimizer}: {HINT}"
