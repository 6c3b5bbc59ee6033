"""What a check is, and how all of them are run.

A check looks at what is known now and gives one item for each thing it looked at. What cannot be judged
because a kind is not known in full is `unknown`, never `ok`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

import msgspec

from truetally.graph.world import World
from truetally.model.refs import KUBERNETES_KINDS, Kind


class Outcome(StrEnum):
    """How a thing looked at came out; the worst last."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    ERROR = "error"


class Item(msgspec.Struct, frozen=True):
    """One thing that was looked at.

    Attributes:
        about: what it is, as `kind name (source)` or the name of a driver.
        found: what was seen, in a sentence.
        fix: what to do; empty if nothing is to be done.
    """

    about: str
    outcome: Outcome
    found: str
    fix: str = ""
    check: str = ""


class Check(msgspec.Struct, frozen=True):
    """One thing that has to be right.

    Attributes:
        needs: kinds that must be known in full at every source that has them.
        run: gives an item for each thing that it looks at.
    """

    id: str
    title: str
    needs: frozenset[Kind]
    run: Callable[[World], Iterable[Item]]


def ok(about: str, found: str) -> Item:
    """Nothing is to be done."""
    return Item(about, Outcome.OK, found)


def warning(about: str, found: str, fix: str) -> Item:
    """It works, and may hurt."""
    return Item(about, Outcome.WARNING, found, fix)


def error(about: str, found: str, fix: str) -> Item:
    """It does not work, or will not."""
    return Item(about, Outcome.ERROR, found, fix)


def unknown(about: str, found: str, fix: str = "") -> Item:
    """It cannot be judged."""
    return Item(about, Outcome.UNKNOWN, found, fix)


def validate(checks: Iterable[Check], world: World) -> Iterator[Item]:
    """Runs all checks."""
    for check in checks:
        gaps = list(_gaps(check, world))
        if gaps:
            for gap in gaps:
                yield msgspec.structs.replace(unknown(check.title, gap), check=check.id)
            continue
        for item in check.run(world):
            yield msgspec.structs.replace(item, check=check.id)


def _gaps(check: Check, world: World) -> Iterator[str]:
    for kind in sorted(check.needs):
        for source in world.clusters if kind in KUBERNETES_KINDS else world.nas_names:
            if not world.graph.proves_absence(source, kind):
                state = world.graph.completeness(source, kind)
                yield f"{kind.value} at {source} is not known in full" + (
                    f": {state.reason}" if state.reason else ""
                )
