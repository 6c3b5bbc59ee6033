"""When which kind is read again. Pure: the clock is an argument."""

from __future__ import annotations

from collections.abc import Collection, Iterable

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
