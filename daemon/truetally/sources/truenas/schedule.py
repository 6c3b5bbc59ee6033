"""When which kind is read again. Pure: the clock is an argument."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from truetally.model.refs import Kind
from truetally.settings import NasSettings
from truetally.sources.truenas.queries import EVERY, Every

# A kind whose listing takes so long is read so rarely that it takes a tenth of the time at most.
_SHARE = 10.0
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
        chance: random between 0 and 1; spreads the readings of many clients.
    """

    def __init__(
        self,
        kinds: Iterable[Kind],
        settings: NasSettings,
        now: float,
        *,
        failing: Collection[Kind] = (),
        chance: float = 1.0,
    ) -> None:
        self._settings = settings
        self._spread = _EARLIEST + (1 - _EARLIEST) * chance
        self._due: dict[Kind, float] = {}
        for kind in kinds:
            self.done(kind, now, now, failed=kind in failing)

    def next(self) -> tuple[Kind, float]:
        """The kind that is due first, and when."""
        kind = min(self._due, key=self._due.__getitem__)
        return kind, self._due[kind]

    def done(self, kind: Kind, began: float, ended: float, *, failed: bool = False) -> None:
        """Notes a listing. One that failed is tried again with the quick ones, not half an hour later."""
        wait = interval(kind, self._settings, ended - began)
        if failed:
            wait = min(wait, self._settings.reconcile_every.total_seconds())
        # Counted from its beginning: what changed during the listing waits no longer than the interval.
        self._due[kind] = max(began + wait * self._spread, ended)


class SnapshotChanges:
    """Which datasets' snapshots have to be read again, by what the datasets say of their last change.

    ZFS tells that to the second, so a change in the second in which the snapshots were read looks like none;
    therefore the snapshots of a dataset are read in two passes in a row.
    """

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._again: set[str] = set()

    def prime(self, told: Mapping[str, int]) -> None:
        """All snapshots have been read, after the datasets told this."""
        self._seen = dict(told)
        self._again = set()

    def take(self, told: Mapping[str, int]) -> list[str]:
        """The datasets to read now.

        Args:
            told: `snapshots_changed` by dataset, of a complete listing of all datasets.
        """
        changed = {path for path, when in told.items() if self._seen.get(path) != when}
        due = changed | (self._again & told.keys())
        self._again = changed
        self._seen = dict(told)
        return sorted(due)

    def forget(self, paths: Collection[str]) -> None:
        """These could not be read, and are to be read the next time."""
        for path in paths:
            self._seen.pop(path, None)
