"""What is known of snapshots, and which of them have to be read again. Pure: the clock is an argument.

A list of all snapshots is what costs a NAS most, so there are few. In between, a dataset that says that its
snapshots have changed has them read again, and a dataset that is gone has none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from truetally.model.observations import Value
from truetally.model.truenas import Dataset

# The resolution of `snapshots_changed`, and a second for whatever is late.
_SURELY_OVER = 2.0


class Told(NamedTuple):
    """What a dataset says that its snapshots can be judged by.

    Attributes:
        changed: the second in which one of them last came or went.
        origin: the snapshot that it was cloned from; it changes when snapshots move by a promotion.
    """

    changed: int
    origin: str = ""


class SnapshotChanges:
    """Which datasets' snapshots have to be read again, by what the datasets say of them.

    ZFS tells the last change to the second, so another change in the second in which the snapshots were read
    looks like none; therefore they are read again until that second is surely over.
    """

    def __init__(self) -> None:
        self._seen: dict[str, Told] = {}
        self._again: dict[str, float] = {}

    def prime(self, told: Mapping[str, Told], now: float) -> None:
        """All snapshots have been read, after the datasets told this.

        What changed lately may have changed once more in the same second; how late it is on the NAS is not
        known, but not before the latest of all changes.
        """
        self._seen = dict(told)
        latest = max((says.changed for says in told.values()), default=0)
        late = [path for path, says in told.items() if says.changed >= latest - _SURELY_OVER]
        self._again = dict.fromkeys(late, now)

    def take(self, told: Mapping[str, Told], now: float) -> list[str]:
        """The datasets to read now.

        Args:
            told: by dataset, of a complete listing of all datasets.
            now: the tick at which the listing was asked for.
        """
        changed = {path for path, says in told.items() if self._seen.get(path) != says}
        # A promotion moves snapshots to or from the dataset that a clone stands on, or stood on.
        origins = [says.get(path) for path in changed for says in (told, self._seen)]
        changed |= {says.origin.partition("@")[0] for says in origins if says is not None} & told.keys()
        self._again |= dict.fromkeys(changed, now)
        due = sorted(path for path in self._again if path in told)
        self._again = {path: since for path, since in self._again.items() if now - since < _SURELY_OVER}
        self._seen = dict(told)
        return due

    def forget(self, paths: Collection[str]) -> None:
        """These could not be read, and are to be read the next time."""
        for path in paths:
            self._seen.pop(path, None)


class HeldSnapshots:
    """The snapshots of one NAS as far as they were read."""

    def __init__(self) -> None:
        self._by_dataset: dict[str, dict[str, Value]] = {}
        self._datasets: frozenset[str] = frozenset()
        self._told: tuple[Mapping[str, Told], float] = ({}, float("-inf"))
        self._changes = SnapshotChanges()
        self._singly: dict[str, tuple[float, Value | None]] = {}

    @property
    def blind(self) -> bool:
        """Whether no dataset tells that its snapshots have changed, so that only a list of all does."""
        return not self._told[0]

    def told(self) -> tuple[Mapping[str, Told], float]:
        """What the datasets have said of their snapshots, and when they were asked: for `listed()`."""
        return self._told

    def datasets(self, names: frozenset[str], found: Mapping[str, Value], asked_at: float) -> None:
        """All datasets have been listed."""
        self._datasets = names
        says = {
            name: Told(value.snapshots_changed, value.origin)
            for name, value in found.items()
            if isinstance(value, Dataset) and value.snapshots_changed is not None
        }
        self._told = (says, asked_at)

    def listed(
        self, found: Mapping[str, Value], asked_at: float, told: tuple[Mapping[str, Told], float]
    ) -> None:
        """All snapshots have been listed; `told` is what the datasets had said before."""
        self._by_dataset = {}
        self._keep(found, asked_at)
        self._changes.prime(*told)

    def due(self) -> list[str]:
        """The datasets whose snapshots have to be read again; a dataset that is gone is among them."""
        gone = [each for each in self._by_dataset if each not in self._datasets]
        return self._changes.take(*self._told) + gone

    def still_there(self, due: Collection[str]) -> list[str]:
        """Those of them that exist."""
        return [each for each in due if each in self._datasets]

    def of(self, due: Collection[str]) -> dict[str, Value]:
        """What is known of their snapshots."""
        return {name: value for each in due for name, value in self._by_dataset.get(each, {}).items()}

    def read(self, due: Collection[str], found: Mapping[str, Value], asked_at: float) -> None:
        """Their snapshots have been read."""
        for each in due:
            self._by_dataset.pop(each, None)
        self._keep(found, asked_at)

    def failed(self, due: Collection[str]) -> None:
        """They could not be read, and are read the next time, or with all snapshots."""
        self._changes.forget(due)

    def single(self, name: str, value: Value | None, asked_at: float) -> None:
        """One snapshot has been read; None if it is gone."""
        self._singly[name] = (asked_at, value)
        self._keep_one(name, value)

    def _keep(self, found: Mapping[str, Value], asked_at: float) -> None:
        """Keeps the snapshots of a list, and what was read of single ones after the list was asked for."""
        for name, value in found.items():
            self._by_dataset.setdefault(name.partition("@")[0], {})[name] = value
        self._singly = {name: read for name, read in self._singly.items() if read[0] >= asked_at}
        for name, (_, single) in self._singly.items():
            self._keep_one(name, single)

    def _keep_one(self, name: str, value: Value | None) -> None:
        held = self._by_dataset.setdefault(name.partition("@")[0], {})
        if value is None:
            held.pop(name, None)
        else:
            held[name] = value
