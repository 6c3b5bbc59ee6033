"""The history as the daemon uses it: record what happened, read it back, keep the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from truetally.clock import Clock
from truetally.history import rows
from truetally.history.database import Database, Parameters
from truetally.model.deliveries import Delivery, DeliveryRecord, DeliveryState
from truetally.model.findings import Finding, State, Transition
from truetally.model.memories import Memory, MemoryKind
from truetally.model.observations import SourceStatus

log = structlog.get_logger(__name__)

_EVER = datetime(1970, 1, 1, tzinfo=UTC)


class History:
    """The open history; every method raises `HistoryUnavailable` when the file cannot be used now."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> History:
        """Open the history for this daemon alone, make it if there is none, migrate it if it is older.

        Raises:
            HistoryInUse: another daemon has it.
            HistoryIsNewer: a newer truetally wrote it.
            HistoryUnavailable: the file or its place cannot be used; the text says why and what to do.
        """
        database = await Database.open(path)
        log.info("history opened", path=str(path))
        return cls(database, clock)

    @property
    def path(self) -> Path:
        """The database file."""
        return self._database.path

    async def record(self, transitions: Sequence[Transition], deliveries: Sequence[Delivery] = ()) -> None:
        """Keep a batch in one commit: the findings, their transitions, and what is to be told of them.

        When this has returned, the batch survives SIGKILL and a power cut; if it raises, nothing of the
        batch was kept. The same batch a second time changes nothing.
        """
        kept = [transition for transition in transitions if _is_kept(transition)]
        await self._database.write(
            [
                ("put_finding", [rows.finding_row(transition) for transition in kept]),
                ("add_transition", [rows.transition_row(transition) for transition in kept]),
                ("queue_delivery", [rows.delivery_row(delivery) for delivery in deliveries]),
            ]
        )

    async def open_findings(self) -> list[Finding]:
        """What is open or held, acknowledged or not: where a restarted daemon goes on."""
        return [rows.finding(text) for (text,) in await self._database.read("open_findings")]

    async def finding(self, fingerprint: str) -> Finding | None:
        """One finding as it stands or stood last."""
        found = await self._database.read("finding", fingerprint=fingerprint)
        return rows.finding(found[0][0]) if found else None

    async def recent_findings(self, state: State | None = None, limit: int = 100) -> list[Finding]:
        """The findings that changed last, newest first."""
        if state is None:
            found = await self._database.read("recent_findings", limit=limit)
        else:
            found = await self._database.read("findings_by_state", state=state.value, limit=limit)
        return [rows.finding(text) for (text,) in found]

    async def transitions(
        self, fingerprint: str | None = None, since: datetime = _EVER, limit: int = 100
    ) -> list[Transition]:
        """The latest transitions of one finding or of all, newest first."""
        start = rows.microseconds(since)
        if fingerprint is None:
            found = await self._database.read("recent_transitions", since=start, limit=limit)
        else:
            found = await self._database.read(
                "transitions_of_finding", fingerprint=fingerprint, since=start, limit=limit
            )
        return [rows.transition(row) for row in found]

    async def record_source_states(self, statuses: Sequence[SourceStatus]) -> None:
        """Keep the state of each source where it has changed."""
        now = self._clock.now()
        await self._database.write(
            [("add_source_state", [rows.source_state_row(status, now) for status in statuses])]
        )

    async def source_states(
        self, source: str | None = None, limit: int = 100
    ) -> list[tuple[datetime, SourceStatus]]:
        """The latest changes of the sources' states, newest first."""
        if source is None:
            found = await self._database.read("source_states", limit=limit)
        else:
            found = await self._database.read("source_states_of_source", source=source, limit=limit)
        return [rows.source_change(row) for row in found]

    async def remember(self, memories: Sequence[Memory]) -> None:
        """Keep what was seen of volumes and retained snapshots, for when they are gone."""
        at = rows.microseconds(self._clock.now())
        put: list[Parameters] = [
            {
                "kind": m.kind.value,
                "name": m.name,
                "cluster": m.cluster,
                "retained": int(m.retained),
                "at": at,
            }
            for m in memories
        ]
        await self._database.write([("put_memory", put)])

    async def memories(self) -> list[Memory]:
        """What was once seen and is not forgotten yet."""
        found = await self._database.read("memories")
        return [Memory(MemoryKind(str(k)), str(n), str(c), bool(r)) for k, n, c, r in found]

    async def backlog(self) -> dict[str, int]:
        """How many messages wait for each receiver that has any waiting."""
        found = await self._database.read("backlog")
        return {str(receiver): int(count or 0) for receiver, count in found}

    async def pending_deliveries(self, receiver: str, limit: int = 1_000) -> list[Delivery]:
        """The outbox of a receiver: what it is still to be told, in the order in which it was decided."""
        found = await self._database.read("pending_deliveries", receiver=receiver, limit=limit)
        return [rows.delivery(row) for row in found]

    async def recent_deliveries(self, limit: int = 100) -> list[DeliveryRecord]:
        """The latest deliveries and what has become of them, newest first."""
        found = await self._database.read("recent_deliveries", limit=limit)
        return [rows.delivery_record(row) for row in found]

    async def delivered(self, ids: Sequence[str], at: datetime, outcome: str = "") -> None:
        """The receiver has accepted them."""
        await self._settle(DeliveryState.DELIVERED, ids, at, outcome, attempted=1)

    async def dead(self, ids: Sequence[str], at: datetime, outcome: str) -> None:
        """They failed too often and are given up."""
        await self._settle(DeliveryState.DEAD, ids, at, outcome, attempted=1)

    async def dropped(self, ids: Sequence[str], at: datetime, outcome: str) -> None:
        """There is nothing left to tell."""
        await self._settle(DeliveryState.DROPPED, ids, at, outcome, attempted=0)

    async def _settle(
        self, state: DeliveryState, ids: Sequence[str], at: datetime, outcome: str, *, attempted: int
    ) -> None:
        common: Parameters = {
            "state": state.value,
            "at": rows.microseconds(at),
            "outcome": outcome,
            "attempted": attempted,
        }
        await self._database.write([("settle_delivery", [{"id": each, **common} for each in ids])])

    async def failed(self, ids: Sequence[str], error: str, next_at: datetime) -> None:
        """An attempt failed; the next one is due at `next_at`."""
        common: Parameters = {"error": error, "next_at": rows.microseconds(next_at)}
        await self._database.write([("postpone_delivery", [{"id": each, **common} for each in ids])])

    async def told(self) -> dict[tuple[str, str], datetime]:
        """Of what is open or held: who (fingerprint, receiver) is or will be told, of which occurrence."""
        found = await self._database.read("told")
        return {(str(each), str(receiver)): rows.instant(at) for each, receiver, at in found}

    async def was_told(self, fingerprint: str, receiver: str) -> bool:
        """Whether this receiver has ever accepted a message that the finding fires."""
        found = await self._database.read("told_to", fingerprint=fingerprint, receiver=receiver)
        return bool(found[0][0])

    async def firing_of(self, delivery: Delivery) -> DeliveryState | None:
        """What has become of the firing message that a resolved notice would follow."""
        found = await self._database.read(
            "firing_delivery",
            fingerprint=delivery.fingerprint,
            receiver=delivery.receiver,
            occurrence=rows.microseconds(delivery.occurrence),
        )
        return DeliveryState(str(found[0][0])) if found else None

    async def purge(self, before: datetime, limit: int = 500) -> int:
        """Delete up to `limit` rows of each table that are older; answers how many went.

        What belongs to a finding that is not resolved stays, however old.
        """
        bounds: Parameters = {"before": rows.microseconds(before), "limit": limit}
        tables = ("transitions", "deliveries", "findings", "source_states", "memories")
        return await self._database.write([(f"purge_{table}", [bounds]) for table in tables])

    async def integrity(self) -> list[str]:
        """What is wrong with the database file; empty if nothing is."""
        return await self._database.integrity()

    async def backup(self, to: Path) -> None:
        """Write a consistent copy to a new file while the daemon goes on."""
        await self._database.backup(to)

    async def close(self) -> None:
        """Leave one complete file behind and let go of it."""
        await self._database.close()
        log.info("history closed", path=str(self.path))


def _is_kept(transition: Transition) -> bool:
    """A suspicion that never became a finding was told to nobody and is not worth a row."""
    if transition.finding.state is State.PENDING:
        return False
    return not (transition.finding.state is State.RESOLVED and transition.before is State.PENDING)
