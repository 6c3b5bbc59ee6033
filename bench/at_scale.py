"""The daemon at scale: cold start, memory, loop stalls, and the time from an event to its suspicion.

The lab's cluster and NAS run in this process, the daemon in its own, as in production.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil

from truetally import logs
from truetally.lab.stage import Stage
from truetally.lab.world import LabWorld
from truetally.model.refs import Kind


async def measure(volumes: int, snapshots: int, events: int, settle: float) -> dict[str, Any]:
    age = timedelta(days=30)
    world = LabWorld(lambda: datetime.now(UTC) - age)
    world.furnish()
    began = time.perf_counter()
    world.populate(volumes, snapshots)
    age = timedelta(0)
    _lose(world, volumes - 1)
    made = time.perf_counter() - began
    with tempfile.TemporaryDirectory(prefix="truetally-bench-") as directory:
        stage = Stage(Path(directory), world, timedelta(hours=1), timedelta(seconds=60))
        try:
            return {"lab_made_seconds": made} | await _on(stage, volumes, events, settle)
        finally:
            await stage.stop()


async def _on(stage: Stage, volumes: int, events: int, settle: float) -> dict[str, Any]:
    began = time.perf_counter()
    await stage.start()
    answers = time.perf_counter() - began
    await stage.until("all kinds are complete", lambda: _ready(stage, volumes - 1), 120.0)
    ready = time.perf_counter() - began
    # One volume has been lost before the start: when it is suspected, everything has been judged once.
    await stage.until("the first verdicts are there", lambda: _judged(stage), 120.0)
    judged = time.perf_counter() - began
    daemon = psutil.Process(stage.pid)
    at_ready = daemon.memory_info().rss
    cpu = sum(daemon.cpu_times()[:2])
    await asyncio.sleep(settle)
    steady = daemon.memory_info().rss
    idle = (sum(daemon.cpu_times()[:2]) - cpu) / settle
    latencies = [await _suspicion(stage, number) for number in range(events)]
    status = await stage.ask("status")
    asked = {}
    for question in ("status", "volumes", "findings"):
        before = time.perf_counter()
        await stage.ask(question)
        asked[f"{question}_answer_seconds"] = time.perf_counter() - before
    after = await stage.ask("status")
    return {
        "socket_answers_seconds": answers,
        "all_kinds_complete_seconds": ready,
        "first_verdicts_seconds": judged,
        "rss_at_ready_mib": at_ready / 2**20,
        "rss_steady_mib": steady / 2**20,
        "idle_cpu_share": idle,
        "event_to_pending_p50_ms": statistics.median(latencies) * 1000,
        "event_to_pending_p99_ms": sorted(latencies)[int(len(latencies) * 0.99) - 1] * 1000,
        "event_to_pending_max_ms": max(latencies) * 1000,
        "worst_stall_ms": status.get("worst_loop_lag_seconds", -1) * 1000,
        "worst_stall_while_answering_ms": after.get("worst_loop_lag_seconds", -1) * 1000,
        **asked,
    }


async def _ready(stage: Stage, volumes: int) -> bool:
    status = await stage.ask("status")
    return bool(status["ready"]) and status["volumes"] >= volumes


async def _judged(stage: Stage) -> bool:
    return bool((await stage.ask("status"))["findings"].get("pending", 0))


def _lose(world: LabWorld, number: int) -> None:
    claim = world.cluster.get(Kind.PERSISTENT_VOLUME_CLAIM, f"data-{number}", "load")
    assert claim is not None
    world.cluster.delete(Kind.PERSISTENT_VOLUME_CLAIM, f"data-{number}", "load")
    world.cluster.delete(Kind.PERSISTENT_VOLUME, claim["spec"]["volumeName"])


async def _suspicion(stage: Stage, number: int) -> float:
    """One volume loses claim and PersistentVolume; how long until its dataset is suspected."""
    known = (await stage.ask("status"))["findings"].get("pending", 0)
    began = time.perf_counter()
    _lose(stage.world, number)
    while (await stage.ask("status"))["findings"].get("pending", 0) == known:
        if time.perf_counter() - began > 10:
            raise AssertionError("no suspicion within 10 s")
    latency = time.perf_counter() - began
    await asyncio.sleep(0.1)
    return latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=10_000)
    parser.add_argument("--snapshots-per-volume", type=int, default=3)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument(
        "--settle",
        type=float,
        default=75.0,
        help="seconds before the steady memory is read; more than one reconcile (60 s)",
    )
    args = parser.parse_args()
    logs.configure("console", "warning")
    found = asyncio.run(measure(args.volumes, args.snapshots_per_volume, args.events, args.settle))
    print(json.dumps({k: round(v, 3) for k, v in found.items()}, indent=2))


if __name__ == "__main__":
    main()
