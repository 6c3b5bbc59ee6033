"""What the API may ask: answered from memory, except for what only the history knows.

Plain methods answer from the reconciler's memory and never wait. Awaited ones read or write
the history, and may fail with HistoryUnavailable, or go through every volume in slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from truetally.model.answers import (
    CheckedItem,
    Explanation,
    RuleAnswer,
    SnapshotsAnswer,
    StatusAnswer,
    VolumeAnswer,
)
from truetally.model.findings import Finding, Severity, State, Transition
from truetally.model.snapshots import SnapshotOrder, SnapshotVerdict

EXPLAINABLE = ("pvc", "pv", "dataset", "snapshot", "share", "target")
"""The kinds that can be explained, as people type them."""


class Tally(Protocol):
    """Whoever holds the graph and the ledger."""

    def status(self) -> StatusAnswer:
        """The daemon as a whole."""
        ...

    async def findings(
        self,
        *,
        state: frozenset[State] | None,
        rule: str | None,
        severity: Severity | None,
        source: str | None,
    ) -> Sequence[Finding]:
        """The findings that match everything given."""
        ...

    async def finding(self, fingerprint: str) -> Finding:
        """The finding whose fingerprint begins so; resolved ones by their whole fingerprint.

        Raises:
            NotFound: none does, or several do.
            HistoryUnavailable: it is none of the unresolved ones, and the history cannot be read.
        """
        ...

    def explain(self, kind: str, name: str, source: str | None) -> Sequence[Explanation]:
        """What is known of the things of this name, `kind` being one of EXPLAINABLE.

        Raises:
            NotFound: with the nearest names.
        """
        ...

    async def volumes(
        self, *, source: str | None, namespace: str | None, state: str | None
    ) -> Sequence[VolumeAnswer]:
        """The volumes that match everything given."""
        ...

    async def snapshots(
        self,
        *,
        source: str | None,
        volume: str | None,
        verdict: SnapshotVerdict | None,
        older_than: timedelta | None,
        order: SnapshotOrder,
    ) -> SnapshotsAnswer:
        """The snapshots that match everything given, and what would come back without them.

        Raises:
            NotFound: nothing is called like the volume.
        """
        ...

    def rules(self) -> Sequence[RuleAnswer]:
        """All rules, also those that are disabled."""
        ...

    def validation(self) -> Sequence[CheckedItem]:
        """Whether classes, drivers and NAS fit together, the worst first."""
        ...

    async def acknowledge(self, fingerprint: str, by: str, reason: str) -> Finding:
        """Note that somebody has seen the finding, and return it as it is then.

        Raises:
            NotFound: no finding, or several, have a fingerprint that begins so.
            HistoryUnavailable: it could not be recorded, so it was not done.
        """
        ...

    async def transitions(self, fingerprint: str) -> Sequence[Transition]:
        """What has become of the finding, oldest first.

        Raises:
            NotFound: no finding, or several, have a fingerprint that begins so.
            HistoryUnavailable: the history cannot be read.
        """
        ...

    def live(self) -> bool:
        """Whether the daemon's own work goes on; if not, it should be restarted."""
        ...

    def ready(self) -> tuple[bool, str]:
        """Whether its answers can be relied on, and if not, what is missing."""
        ...
