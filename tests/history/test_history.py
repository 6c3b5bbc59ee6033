"""The history keeps what it has acknowledged, reads back what it was given, and says what is wrong."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from truetally.clock import SystemClock
from truetally.errors import HistoryInUse, HistoryIsNewer, HistoryUnavailable
from truetally.history.history import History
from truetally.history.retention import purge
from truetally.model.deliveries import Delivery, DeliveryState, Event
from truetally.model.findings import Acknowledgement, Finding, Severity, State, Transition, fingerprint
from truetally.model.memories import Memory, MemoryKind
from truetally.model.observations import SourceState, SourceStatus
from truetally.model.refs import Kind, Ref

NOW = datetime(2026, 11, 24, 9, 0, 0, 123456, tzinfo=UTC)


class StoppedClock:
    def now(self) -> datetime:
        return NOW

    def ticks(self) -> float:
        return 0.0


def a_finding(name: str = "tank/k8s/pvc-1", **changes: object) -> Finding:
    subject = Ref("nas1", Kind.DATASET, name)
    finding = Finding(
        fingerprint=fingerprint("dataset-without-volume", subject),
        rule="dataset-without-volume",
        subject=subject,
        severity=Severity.WARNING,
        state=State.OPEN,
        summary=f"No PersistentVolume uses dataset {name}",
        fix="Look what it holds.",
        facts={"used_bytes": 10, "ratio": 1.0, "clones": ("a", "b"), "locked": None, "quota": True},
        since=NOW - timedelta(hours=1),
        opened_at=NOW,
        changed_at=NOW,
    )
    return msgspec.structs.replace(finding, **changes)


def opened(finding: Finding | None = None, at: datetime = NOW) -> Transition:
    return Transition(finding=finding or a_finding(), before=State.PENDING, at=at, reason="verified")


def resolved(finding: Finding | None = None, at: datetime = NOW + timedelta(hours=1)) -> Transition:
    gone = msgspec.structs.replace(finding or a_finding(), state=State.RESOLVED, resolved_at=at)
    return Transition(finding=gone, before=State.OPEN, at=at)


def a_delivery(
    finding: Finding | None = None, receiver: str = "ops", event: Event = Event.FIRING
) -> Delivery:
    finding = finding or a_finding()
    return Delivery(
        fingerprint=finding.fingerprint,
        occurrence=NOW,
        receiver=receiver,
        event=Event.FIRING,
        finding=finding,
        at=NOW,
        reason="a route takes this severity",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "history.sqlite3"


@pytest.fixture
async def history(path: Path) -> AsyncIterator[History]:
    history = await History.open(path, StoppedClock())
    yield history
    await history.close()


async def reopened(path: Path) -> History:
    return await History.open(path, SystemClock())


# Reading back


async def test_a_restart_reads_back_what_was_recorded(path: Path):
    before = await reopened(path)
    acknowledged = a_finding(
        "tank/b", acknowledged=Acknowledgement(by="ada", at=NOW, reason="known"), state=State.HELD, note="x"
    )
    await before.record([opened(), opened(acknowledged, at=NOW + timedelta(seconds=1))], [a_delivery()])
    await before.close()

    after = await reopened(path)
    assert await after.open_findings() == [a_finding(), acknowledged]
    assert await after.transitions(a_finding().fingerprint) == [opened()]
    assert await after.pending_deliveries("ops") == [a_delivery()]
    await after.close()


async def test_a_resolved_finding_is_remembered_and_no_longer_open(history: History):
    await history.record([opened(), resolved()])
    assert await history.open_findings() == []
    assert await history.finding(a_finding().fingerprint) == resolved().finding
    assert await history.recent_findings(State.RESOLVED) == [resolved().finding]
    assert await history.recent_findings() == [resolved().finding]


async def test_transitions_come_newest_first(history: History):
    await history.record([opened(), opened(a_finding("tank/b"), at=NOW + timedelta(seconds=1)), resolved()])
    assert await history.transitions(a_finding().fingerprint) == [resolved(), opened()]
    assert [each.at for each in await history.transitions(limit=2)] == [
        resolved().at,
        NOW + timedelta(seconds=1),
    ]
    assert await history.transitions(since=NOW + timedelta(minutes=1)) == [resolved()]


async def test_a_suspicion_is_not_kept(history: History):
    pending = a_finding(state=State.PENDING, opened_at=None)
    vanished = msgspec.structs.replace(pending, state=State.RESOLVED)
    await history.record([Transition(pending, None, NOW), Transition(vanished, State.PENDING, NOW)])
    assert await history.transitions() == []
    assert await history.recent_findings() == []


async def test_the_same_batch_a_second_time_changes_nothing(history: History):
    await history.record([opened()], [a_delivery()])
    await history.record([opened()], [a_delivery()])
    assert await history.transitions() == [opened()]
    assert await history.pending_deliveries("ops") == [a_delivery()]


async def test_a_name_that_no_utf8_can_hold_is_recorded_all_the_same(history: History):
    await history.record([opened(a_finding(summary="half \ud800 a pair"))])
    assert (await history.open_findings())[0].summary == "half ? a pair"


async def test_a_batch_is_kept_whole_or_not_at_all(history: History):
    broken = msgspec.structs.replace(a_delivery(), event=Event.FIRING, receiver=None)  # NOT NULL refuses it
    with pytest.raises(sqlite3.IntegrityError):
        await history.record([opened()], [broken])
    assert await history.open_findings() == []
    await history.record([opened()])
    assert await history.open_findings() == [a_finding()]


async def test_source_states_are_kept_where_they_change(history: History):
    up = SourceStatus("nas1", "truenas", SourceState.CONNECTED, version="25.04")
    down = SourceStatus("nas1", "truenas", SourceState.UNREACHABLE, detail="connection refused")
    other = SourceStatus("nas2", "truenas", SourceState.CONNECTED, version="25.04")
    for statuses in ([up, other], [up, other], [down], [up]):
        await history.record_source_states(statuses)
    assert await history.source_states("nas1") == [(NOW, up), (NOW, down), (NOW, up)]
    assert len(await history.source_states()) == 4


# The outbox


async def test_what_was_delivered_is_not_pending_after_a_restart(path: Path):
    before = await reopened(path)
    await before.record([opened()], [a_delivery(), a_delivery(receiver="chat")])
    await before.delivered([a_delivery().id], NOW)
    await before.close()

    after = await reopened(path)
    assert await after.backlog() == {"chat": 1}
    assert await after.was_told(a_finding().fingerprint, "ops")
    assert not await after.was_told(a_finding().fingerprint, "chat")
    assert set(await after.told()) == {(a_finding().fingerprint, each) for each in ("ops", "chat")}
    await after.close()


async def test_a_failed_delivery_stays_pending_with_its_reason(history: History):
    await history.record([opened()], [a_delivery()])
    await history.failed([a_delivery().id], "HTTP 500", NOW + timedelta(seconds=5))
    [pending] = await history.pending_deliveries("ops")
    assert (pending.attempts, pending.error, pending.next_at) == (1, "HTTP 500", NOW + timedelta(seconds=5))


async def test_what_was_given_up_counts_as_not_told_and_may_be_queued_again(history: History):
    await history.record([opened()], [a_delivery()])
    await history.dead([a_delivery().id], NOW, "HTTP 500")
    assert await history.told() == {}
    assert [each.state for each in await history.recent_deliveries()] == [DeliveryState.DEAD]
    await history.record([], [a_delivery()])
    assert await history.pending_deliveries("ops") == [a_delivery()]


# Retention


async def test_what_is_old_goes_and_what_is_open_stays(history: History):
    long_ago = NOW - timedelta(days=100)
    still_open = a_finding("tank/open")
    await history.record([opened(at=long_ago), opened(still_open, at=long_ago)], [a_delivery(still_open)])
    await history.record([resolved(at=long_ago + timedelta(hours=1))], [a_delivery()])
    await history.delivered([a_delivery().id, a_delivery(still_open).id], long_ago)

    assert await purge(history, StoppedClock()) == 4  # 2 transitions, 1 delivery, 1 finding

    assert await history.recent_findings() == [still_open]
    assert [each.finding for each in await history.transitions()] == [still_open]
    assert await history.was_told(still_open.fingerprint, "ops")


async def test_the_last_state_of_a_source_is_not_purged(history: History):
    await history.record_source_states([SourceStatus("nas1", "truenas", SourceState.STARTING)])
    await history.record_source_states([SourceStatus("nas1", "truenas", SourceState.CONNECTED)])
    await history.purge(NOW + timedelta(days=1), limit=10)
    assert [status.state for _, status in await history.source_states()] == [SourceState.CONNECTED]


# One owner, one schema, one file


async def test_a_second_daemon_is_refused_and_told_who_has_it(history: History, path: Path):
    with pytest.raises(HistoryInUse, match=rf"in use by another truetally \(pid {os.getpid()}\)"):
        await reopened(path)


async def test_a_closed_history_can_be_opened_by_another(path: Path):
    first = await reopened(path)
    await first.close()
    assert not path.with_name(path.name + "-wal").exists()
    second = await reopened(path)
    await second.close()


async def test_a_newer_schema_is_refused_and_left_as_it_is(path: Path):
    await (await reopened(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(HistoryIsNewer, match="schema 99"):
        await reopened(path)
    assert path.read_bytes() == before


async def test_a_damaged_file_is_refused_and_not_deleted(path: Path):
    history = await reopened(path)
    await history.record([opened(a_finding(f"tank/{number}")) for number in range(500)])
    await history.close()
    data = bytearray(path.read_bytes())
    for start in range(4096, len(data), 8192):
        data[start : start + 2048] = b"\xff" * 2048
    path.write_bytes(data)
    with pytest.raises(HistoryUnavailable, match=r"is damaged; move it aside"):
        await reopened(path)
    assert path.read_bytes() == data


async def test_a_file_that_is_no_database_is_refused(path: Path):
    path.parent.mkdir()
    path.write_text("clusters: []\n" * 400)
    with pytest.raises(HistoryUnavailable, match="no SQLite database"):
        await reopened(path)


async def test_the_database_of_another_program_is_left_alone(path: Path):
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(HistoryUnavailable, match="database of another program"):
        await reopened(path)
    assert path.read_bytes() == before


async def test_a_directory_is_refused(tmp_path: Path):
    with pytest.raises(HistoryUnavailable, match="is a directory"):
        await reopened(tmp_path)


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(HistoryUnavailable, match="cannot be made"):
        await reopened(tmp_path / "file" / "history.sqlite3")


async def test_a_place_without_permission_is_named(tmp_path: Path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o555)
    with pytest.raises(HistoryUnavailable, match="must be able to write"):
        await reopened(tmp_path / "history.sqlite3")


async def test_a_refused_open_lets_go_of_the_lock(path: Path):
    path.parent.mkdir()
    path.write_text("no database" * 100)
    with pytest.raises(HistoryUnavailable):
        await reopened(path)
    path.unlink()
    await (await reopened(path)).close()


# Backup, integrity, locks, disks


async def test_a_backup_is_a_history_of_its_own(history: History, tmp_path: Path):
    await history.record([opened()])
    await history.backup(tmp_path / "copy.sqlite3")
    copy = await reopened(tmp_path / "copy.sqlite3")
    assert await copy.open_findings() == [a_finding()]
    await copy.close()


async def test_a_backup_overwrites_nothing(history: History, tmp_path: Path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(HistoryUnavailable, match="overwrites nothing"):
        await history.backup(tmp_path / "precious")
    assert (tmp_path / "precious").read_text() == "x"


async def test_a_sound_history_has_nothing_to_report(history: History):
    await history.record([opened()])
    assert await history.integrity() == []


async def test_a_lock_of_another_program_is_named_and_passes(history: History, path: Path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await history._database._writer.execute("PRAGMA busy_timeout = 10")
    with pytest.raises(HistoryUnavailable, match="another program holds a lock"):
        await history.record([opened()])
    other.execute("ROLLBACK")
    other.close()
    await history.record([opened()])
    assert await history.open_findings() == [a_finding()]


@pytest.fixture
def small_disk(tmp_path: Path):
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def _record_until_it_fails(history: History, acknowledged: list[str]) -> None:
    for number in range(10_000):
        finding = a_finding(f"tank/{number}")
        await history.record([opened(finding)])
        acknowledged.append(finding.fingerprint)


async def test_a_full_disk_loses_nothing_that_was_acknowledged(small_disk: Path):
    path = small_disk / "history.sqlite3"
    history = await reopened(path)
    acknowledged: list[str] = []
    with pytest.raises(HistoryUnavailable, match=r"the disk is full|the disk refuses"):
        await _record_until_it_fails(history, acknowledged)
    assert acknowledged
    assert {each.fingerprint for each in await history.open_findings()} == set(acknowledged)
    await history.close()

    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    history = await reopened(path)
    assert {each.fingerprint for each in await history.open_findings()} == set(acknowledged)
    assert await history.integrity() == []
    await history.record([opened(a_finding("tank/after"))])
    await history.close()


async def test_a_read_only_disk_is_named(small_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(HistoryUnavailable, match="Read-only file system"):
        await reopened(small_disk / "history.sqlite3")


async def test_memories_are_read_back_replaced_and_forgotten_when_they_are_old(tmp_path: Path):
    volume = Memory(MemoryKind.VOLUME, "pvc-1", "prod", False)
    kept = msgspec.structs.replace(volume, retained=True)
    snapshot = Memory(MemoryKind.SNAPSHOT, "pvc-1@snapshot-2", "prod", True)
    history = await History.open(tmp_path / "history.sqlite3", StoppedClock())
    await history.remember([volume, snapshot])
    await history.remember([kept])
    assert sorted(await history.memories(), key=lambda m: m.kind) == [snapshot, kept]
    await history.purge(NOW, 100)
    assert len(await history.memories()) == 2
    await history.purge(NOW + timedelta(seconds=1), 100)
    assert await history.memories() == []
    await history.close()
