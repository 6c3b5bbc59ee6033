"""When which kind is read again. Pure: the clock is an argument."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from truetally.model.refs import Kind
from truetally.settings import NasSettings
from truetally.sources.truenas.queries import EVERY, Every

# A kind whose listing takes so long is read so rarely that it takes a tenth of the time at most.
_SHARE = 10.0
# The resolution of `snapshots_changed`, and a second for whatever is late.
_SURELY_OVER = 2.0
# Hardly ever at the same moment as another client, and never later than configured.
_EARLIEST = 0.9


def interval(kind: Kind, settings: NasSettings, took: float = 0.0) -> float:
    """Seconds until a kind is read again, after a listing that took so many."""
    if (configured := settings.intervals.get(kind.value)) is not None:
        every = configured
    else:
        every = {
            Every.FAST: settings.reconcile_every,
            Every.SLOW: settings.seldom_every,
            Every.SELDOM: settings.snapshots_every,
        }[EVERY[kind]]
    return max(every.total_seconds(), took * _SHARE)


class Schedule:
    """When each kind of one connection is due.

    Args:
        kinds: all of them, each of which has just been read.
        failing: those of them that could not be.
        blind: those of whose changes nothing tells.
        chance: random between 0 and 1; spreads the readings of many clients.
    """

    def __init__(
        self,
        kinds: Iterable[Kind],
        settings: NasSettings,
        now: float,
        *,
        failing: Collection[Kind] = (),
        blind: Collection[Kind] = (),
        chance: float = 1.0,
    ) -> None:
        self._settings = settings
        self._spread = _EARLIEST + (1 - _EARLIEST) * chance
        self._due: dict[Kind, float] = {}
        for kind in kinds:
            self.done(kind, now, now, failed=kind in failing, blind=kind in blind)

    def next(self) -> tuple[Kind, float]:
        """The kind that is due first, and when."""
        kind = min(self._due, key=self._due.__getitem__)
        return kind, self._due[kind]

    def done(
        self, kind: Kind, began: float, ended: float, *, failed: bool = False, blind: bool = False
    ) -> None:
        """Notes a listing.

        Args:
            failed: it is tried again with the quick ones, not half an hour later.
            blind: nothing else would tell of a change, so it is read as often as the rest.
        """
        wait = interval(kind, self._settings, ended - began)
        if blind:
            wait = min(wait, max(self._settings.seldom_every.total_seconds(), (ended - began) * _SHARE))
        if failed:
            wait = min(wait, self._settings.reconcile_every.total_seconds())
        # Counted from its beginning: what changed during the listing waits no longer than the interval.
        self._due[kind] = max(began + wait * self._spread, ended)


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
