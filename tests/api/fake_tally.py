"""A tally with known answers, and a status server that answers with them on a real socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path

import msgspec
import structlog

from truetally.api.server import StatusServer
from truetally.errors import HistoryUnavailable, NotFound, TruetallyError
from truetally.model.answers import (
    CheckedItem,
    Explanation,
    IncompleteKind,
    Link,
    ReceiverAnswer,
    RuleAnswer,
    SnapshotAnswer,
    SnapshotsAnswer,
    SourceAnswer,
    StatusAnswer,
    VolumeAnswer,
)
from truetally.model.findings import Acknowledgement, Finding, Severity, State, Transition, fingerprint
from truetally.model.refs import Kind, Ref
from truetally.model.snapshots import SnapshotOrder, SnapshotVerdict
from truetally.settings import ApiSettings

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
CLAIM = Ref("prod", Kind.PERSISTENT_VOLUME_CLAIM, "media/data")
VOLUME = Ref("prod", Kind.PERSISTENT_VOLUME, "pvc-1")
DATASET = Ref("nas1", Kind.DATASET, "tank/k8s/volumes/pvc-1")
ORPHAN = Ref("nas1", Kind.DATASET, "tank/k8s/volumes/pvc-9")


def a_finding(
    subject: Ref = ORPHAN,
    rule: str = "dataset-without-volume",
    severity: Severity = Severity.WARNING,
    state: State = State.OPEN,
    summary: str = "No PersistentVolume uses dataset tank/k8s/volumes/pvc-9",
    acknowledged: Acknowledgement | None = None,
) -> Finding:
    return Finding(
        fingerprint=fingerprint(rule, subject),
        rule=rule,
        subject=subject,
        severity=severity,
        state=state,
        summary=summary,
        fix="Look what the dataset holds, then import it as a volume or destroy it.",
        facts={"used_bytes": 5 * 2**30, "protocol": "nfs", "clones": ("a", "b"), "encrypted": False},
        since=NOON - timedelta(hours=3),
        opened_at=NOON - timedelta(hours=2),
        changed_at=NOON - timedelta(hours=2),
        acknowledged=acknowledged,
    )


def a_status(**changes: object) -> StatusAnswer:
    status = StatusAnswer(
        version="0.1.0",
        started_at=NOON - timedelta(days=2, hours=3),
        uptime_seconds=183600.0,
        ready=True,
        sources=(
            SourceAnswer("prod", "cluster", "connected", version="v1.33.1", complete=("PersistentVolume",)),
            SourceAnswer(
                "nas1",
                "nas",
                "connected",
                version="25.10.1",
                reconnects=2,
                complete=("Dataset",),
                incomplete=(
                    IncompleteKind("IscsiTarget", "denied", "grant SHARING_ISCSI_READ to the API key's user"),
                ),
            ),
        ),
        findings={"open": 1, "held": 0, "pending": 2, "resolved": 7},
        objects={"Dataset": 412, "PersistentVolume": 410},
        volumes=410,
        last_batch_seconds=0.004,
        notify=(ReceiverAnswer("ops", "failing", "timed out after 20s", delivered=3, failed=1, waiting=1),),
        config_file="/etc/truetally/truetally.yaml",
        warnings=("nas[0].api_key: stands in the file itself",),
    )
    return msgspec.structs.replace(status, **changes)


def an_explanation(subject: Ref = CLAIM, **changes: object) -> Explanation:
    explanation = Explanation(
        subject=subject,
        verdict="whole: both sides know it, and they agree",
        why=("✓ the claim is bound to pvc-1", "✗ its dataset is missing", "? tank was not read yet"),
        links=(
            Link(CLAIM, "claim", state="Bound"),
            Link(VOLUME, "volume", "spec.claimRef.uid", "exact", state="Bound"),
            Link(DATASET, "dataset", "volume handle", "exact", "5 GiB of 10 GiB", "present"),
        ),
    )
    return msgspec.structs.replace(explanation, **changes)


def a_volume(**changes: object) -> VolumeAnswer:
    volume = VolumeAnswer(
        cluster="prod",
        namespace="media",
        claim="data",
        volume="pvc-1",
        storage_class="nfs",
        phase="Bound",
        nas="nas1",
        dataset="tank/k8s/volumes/pvc-1",
        protocol="nfs",
        capacity_bytes=10 * 2**30,
        used_bytes=5 * 2**30,
        snapshots=3,
        state="whole",
    )
    return msgspec.structs.replace(volume, **changes)


def a_snapshot(**changes: object) -> SnapshotAnswer:
    snapshot = SnapshotAnswer(
        nas="nas1",
        dataset="tank/k8s/volumes/pvc-1",
        name="snapshot-7c1d2e3f-0000-4000-8000-00000000000a",
        path="tank/k8s/volumes/pvc-1@snapshot-7c1d2e3f-0000-4000-8000-00000000000a",
        maker="csi",
        how="VolumeSnapshotContent snapcontent-1 (prod) refers to it",
        created_at=NOON - timedelta(days=40),
        used_bytes=2**20,
        referenced_bytes=5 * 2**30,
        clones=("tank/k8s/volumes/pvc-2",),
        cluster="prod",
        volume="pvc-1",
        namespace="media",
        claim="data",
        volume_snapshot="media/nightly",
        content="snapcontent-1",
        verdict="referenced",
    )
    return msgspec.structs.replace(snapshot, **changes)


class FakeTally:
    """Answers from lists that the test fills; remembers what it was asked to acknowledge."""

    def __init__(self) -> None:
        self.known = [a_finding()]
        self.explanations = {"pvc": {"media/data": an_explanation()}}
        self.listed = [a_volume()]
        self.snapshots_known = [a_snapshot()]
        self.space: tuple[int, int | None] = (2**20, 3 * 2**20)
        self.asked: list[tuple[object, ...]] = []
        self.readiness = (True, "")
        self.alive = True
        self.state = a_status()
        self.history_broken = False
        self.bug = False
        self.slow = False
        self.acknowledged: list[tuple[str, str, str]] = []

    def status(self) -> StatusAnswer:
        if self.bug:
            raise RuntimeError("s3cret detail of the inside")
        return self.state

    async def findings(
        self,
        *,
        state: frozenset[State] | None,
        rule: str | None,
        severity: Severity | None,
        source: str | None,
    ) -> Sequence[Finding]:
        return [
            finding
            for finding in self.known
            if (state is None or finding.state in state)
            and rule in (None, finding.rule)
            and severity in (None, finding.severity)
            and source in (None, finding.subject.source)
        ]

    async def finding(self, fingerprint: str) -> Finding:
        for finding in self.known:
            if finding.fingerprint.startswith(fingerprint):
                return finding
        raise NotFound(f"no finding {fingerprint}", [finding.fingerprint for finding in self.known])

    def explain(self, kind: str, name: str, source: str | None) -> Sequence[Explanation]:
        known = self.explanations.get(kind, {})
        if name not in known:
            raise NotFound(f"no {kind} is called {name}", get_close_matches(name, known))
        return [known[name]]

    async def volumes(
        self, *, source: str | None, namespace: str | None, state: str | None
    ) -> Sequence[VolumeAnswer]:
        return [
            volume
            for volume in self.listed
            if source in (None, volume.cluster, volume.nas)
            and namespace in (None, volume.namespace)
            and state in (None, volume.state)
        ]

    async def snapshots(
        self,
        *,
        source: str | None,
        volume: str | None,
        verdict: SnapshotVerdict | None,
        older_than: timedelta | None,
        order: SnapshotOrder,
    ) -> SnapshotsAnswer:
        self.asked.append((source, volume, verdict, older_than, order))
        found = [
            each
            for each in self.snapshots_known
            if source in (None, each.cluster, each.nas) and verdict in (None, each.verdict)
        ]
        if volume is not None and not any(each.volume == volume for each in found):
            raise NotFound(f"no volume is called {volume}", [each.volume for each in found])
        ready, detail = self.readiness
        return SnapshotsAnswer(tuple(found), *self.space, ready, detail)

    def validation(self) -> Sequence[CheckedItem]:
        return [
            CheckedItem("service-running", "service nfs (nas1)", "error", "it is STOPPED", "start nfs on it"),
            CheckedItem("one-default-class", "StorageClasses (prod)", "ok", "the default is truenas-nfs"),
        ]

    def rules(self) -> Sequence[RuleAnswer]:
        return [
            RuleAnswer(
                "dataset-without-volume",
                "Dataset without PersistentVolume",
                Severity.WARNING,
                ("Dataset", "PersistentVolume"),
                "Look what the dataset holds, then import it as a volume or destroy it.",
            ),
            RuleAnswer(
                "source-unavailable",
                "Source unavailable",
                Severity.CRITICAL,
                (),
                "Look at it.",
                enabled=False,
            ),
        ]

    async def acknowledge(self, fingerprint: str, by: str, reason: str) -> Finding:
        self._need_history()
        finding = await self.finding(fingerprint)
        if finding.state is State.RESOLVED:
            raise TruetallyError(f"finding {fingerprint} is resolved; there is nothing to acknowledge")
        self.acknowledged.append((finding.fingerprint, by, reason))
        return msgspec.structs.replace(finding, acknowledged=Acknowledgement(by, NOON, reason))

    async def transitions(self, fingerprint: str) -> Sequence[Transition]:
        self._need_history()
        if self.slow:
            await asyncio.Event().wait()
        finding = await self.finding(fingerprint)
        return [
            Transition(
                msgspec.structs.replace(finding, state=State.PENDING), None, NOON - timedelta(hours=3)
            ),
            Transition(finding, State.PENDING, NOON - timedelta(hours=2), "confirmed at both sources"),
        ]

    def live(self) -> bool:
        return self.alive

    def ready(self) -> tuple[bool, str]:
        return self.readiness

    def _need_history(self) -> None:
        if self.history_broken:
            raise HistoryUnavailable("the disk of the history is full; make room")


@contextmanager
def answering(tally: FakeTally, path: Path) -> Iterator[None]:
    """A status server in a thread of its own, for clients that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="status server")
    thread.start()
    server = StatusServer(tally, ApiSettings(socket=path))
    configured = structlog.get_config()
    # Its log would stand amid what the client prints.
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
        structlog.configure(**configured)
