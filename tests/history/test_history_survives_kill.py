"""SIGKILL at any moment: what was acknowledged is there afterwards, and the file is sound."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import truetally
from truetally.clock import SystemClock
from truetally.history.history import History

_KILLS = 12

# Records for ever, and says of each finding that it was acknowledged only after it was.
_WRITER = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from truetally.clock import SystemClock
from truetally.history.history import History
from truetally.model.deliveries import Delivery, Event
from truetally.model.findings import Finding, Severity, State, Transition
from truetally.model.refs import Kind, Ref

async def write():
    history = await History.open(Path(sys.argv[1]), SystemClock())
    number, acknowledge = int(sys.argv[2]), int(sys.argv[3])
    while True:
        transitions, deliveries = [], []
        for part in range(3):
            now = datetime.now(UTC)
            finding = Finding(f"{number}-{part}", "rule", Ref("nas1", Kind.DATASET, "tank/x"), Severity.INFO,
                              State.OPEN, "summary" * 50, "fix", {"part": part}, now, opened_at=now)
            transitions.append(Transition(finding, State.PENDING, now))
            deliveries.append(Delivery(finding.fingerprint, now, "ops", Event.FIRING, finding, now))
        await history.record(transitions, deliveries)
        os.write(acknowledge, f"{number}\\n".encode())
        number += 1

asyncio.run(write())
"""


def _killed_while_writing(path: Path, start: int, after: float) -> list[int]:
    """The acknowledged numbers of a writer that is killed so long after its first one."""
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), str(start), str(writing)],
        stdout=subprocess.DEVNULL,
        env={"PYTHONPATH": str(Path(truetally.__file__).parent.parent)},
        pass_fds=[writing],
    ) as writer:
        os.close(writing)
        with os.fdopen(reading, "rb") as acknowledgements:
            first = acknowledgements.readline()
            assert first, "the writer did not start: it could not take over what a killed one had left"
            time.sleep(after)  # the moment of the kill is the subject of the test, not a synchronisation
            writer.send_signal(signal.SIGKILL)
            return [int(line) for line in (first + acknowledgements.read()).split()]


async def test_every_acknowledged_record_survives_sigkill(tmp_path: Path):
    path = tmp_path / "history.sqlite3"
    moments = random.Random(20261124)
    acknowledged: list[int] = []
    for _ in range(_KILLS):
        start = acknowledged[-1] + 1000 if acknowledged else 0
        acknowledged += _killed_while_writing(path, start, moments.uniform(0, 0.08))

    history = await History.open(path, SystemClock())
    try:
        found = {finding.fingerprint for finding in await history.open_findings()}
        waiting = {each.fingerprint for each in await history.pending_deliveries("ops", limit=1_000_000)}
        assert {f"{number}-{part}" for number in acknowledged for part in range(3)} <= found
        # Whole batches only, and what is to be told exactly of what was recorded.
        assert len(found) % 3 == 0
        assert waiting == found
        assert await history.integrity() == []
    finally:
        await history.close()


@pytest.mark.parametrize("moment", [0.0, 0.02])
async def test_a_killed_daemon_leaves_no_lock_behind(tmp_path: Path, moment: float):
    path = tmp_path / "history.sqlite3"
    _killed_while_writing(path, 0, moment)
    await (await History.open(path, SystemClock())).close()
