"""The recorder commits in order, waits out a history that cannot be written, and drops nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from truetally.clock import SystemClock
from truetally.history.history import History
from truetally.history.recorder import Recorder
from truetally.model.findings import Finding, Severity, State, Transition
from truetally.model.refs import Kind, Ref

NOW = datetime(2026, 11, 24, 9, tzinfo=UTC)
SOON = timedelta(seconds=10)


def opened(number: int) -> Transition:
    subject = Ref("nas1", Kind.DATASET, f"tank/{number}")
    finding = Finding(
        f"{number}", "rule", subject, Severity.INFO, State.OPEN, "s", "f", {}, NOW, opened_at=NOW
    )
    return Transition(finding, State.PENDING, NOW + timedelta(seconds=number))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def recording(path: Path, **options: object) -> AsyncIterator[tuple[History, Recorder, list[str]]]:
    history = await History.open(path, SystemClock())
    await history._database._writer.execute("PRAGMA busy_timeout = 1")
    told: list[str] = []
    recorder = Recorder(
        history,
        lambda transitions: told.extend(each.finding.fingerprint for each in transitions),
        retry_within=timedelta(milliseconds=20),
        **options,
    )
    task = asyncio.create_task(recorder.run())
    try:
        yield history, recorder, told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await history.close()


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def test_what_is_put_is_committed_and_then_told(tmp_path: Path):
    async with recording(tmp_path / "h") as (history, recorder, told):
        for number in range(5):
            await recorder.put([opened(number)])
        assert await recorder.flush(SOON)
        assert told == ["0", "1", "2", "3", "4"]
        assert [each.fingerprint for each in await history.open_findings()] == told


async def test_while_the_history_is_locked_nothing_is_told_and_nothing_lost(tmp_path: Path):
    async with recording(tmp_path / "h") as (history, recorder, told):
        async with locked(tmp_path / "h"):
            await recorder.put([opened(0)])
            await until(lambda: recorder.trouble is not None)
            await recorder.put([opened(1)])
            assert "holds a lock" in str(recorder.trouble)
            assert told == []
            assert not await recorder.flush(timedelta(milliseconds=1))
        assert await recorder.flush(SOON)
        assert recorder.trouble is None
        assert told == ["0", "1"]
        assert len(await history.open_findings()) == 2


async def test_a_full_queue_makes_the_sender_wait(tmp_path: Path):
    async with recording(tmp_path / "h", capacity=1) as (_, recorder, told):
        async with locked(tmp_path / "h"):
            await recorder.put([opened(0)])
            second = asyncio.create_task(recorder.put([opened(1)]))
            await until(lambda: recorder.trouble is not None)
            assert not second.done()
        await second
        assert await recorder.flush(SOON)
        assert told == ["0", "1"]
