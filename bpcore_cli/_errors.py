"""Wrong use of the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence


class Wrong(Exception):
    """What was asked for cannot be done: exit status 2, with one line that says what and how."""


@contextlib.contextmanager
def refused() -> Iterator[None]:
    """What bpcore refuses within is Wrong, in bpcore's words."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise Wrong(str(error)) from error


def nearest(name: str, names: Sequence[str]) -> str:
    """A question after the name that is meant, in bpcore's words, or nothing; bpcore is imported where one is wrong."""
    from bpcore._words import did_you_mean

    return did_you_mean(name, names)


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names for a message, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
