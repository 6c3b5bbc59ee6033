"""The real daemon in its own process, on the lab's cluster and NAS, with database, socket and webhook."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from truetally.lab.stage import Stage
from truetally.lab.world import LabWorld, Volume
from truetally.model.refs import Kind

GRACE = timedelta(seconds=1)


@asynccontextmanager
async def a_stage(
    directory: Path, *, volumes: int = 3, start: bool = True, **config: Any
) -> AsyncIterator[Stage]:
    """A stage with a daemon whose settings are quick; `config` is laid over its configuration."""
    age = timedelta(days=1)
    world = LabWorld(lambda: datetime.now(UTC) - age)
    world.furnish()
    world.populate(volumes, 1)
    age = timedelta(0)
    stage = Stage(directory, world, GRACE, timedelta(seconds=1))
    try:
        await world.nas.start()
        await world.cluster.start()
        await stage.receiver.start()
        stage.write_files()
        quick = {"grace": "1s", "source_unavailable_after": "0s", "claim_pending_after": "1s"}
        change(stage, rules=quick)
        nas = yaml.safe_load(stage.config.read_text())["nas"]
        change(stage, nas=[nas[0] | {"call_timeout": "2s"}], **config)
        if start:
            await stage.start_daemon()
        yield stage
    finally:
        await stage.stop()


def change(stage: Stage, **sections: Any) -> None:
    """Lays settings over the configuration file: a dict over a section, anything else instead of it."""
    content = yaml.safe_load(stage.config.read_text())
    for name, value in sections.items():
        content[name] = content.get(name, {}) | value if isinstance(value, dict) else value
    stage.config.write_text(yaml.safe_dump(content))


async def ready(stage: Stage) -> dict[str, Any]:
    async def is_ready() -> dict[str, Any] | None:
        status = await stage.ask("status")
        return status if status["ready"] else None

    found: dict[str, Any] = await stage.until("everything is listed", is_ready, 20.0)
    return found


async def finding(stage: Stage, rule: str, state: str = "open", within: float = 20.0) -> dict[str, Any]:
    async def is_there() -> dict[str, Any] | None:
        answer = await stage.ask(f"findings?rule={rule}&state={state}")
        return answer["findings"][0] if answer["findings"] else None

    found: dict[str, Any] = await stage.until(f"{rule} is {state}", is_there, within)
    return found


async def findings(stage: Stage, **filters: str) -> list[dict[str, Any]]:
    query = "&".join(f"{k}={v}" for k, v in filters.items())
    found: list[dict[str, Any]] = (await stage.ask(f"findings?{query}"))["findings"]
    return found


async def source(stage: Stage, name: str) -> dict[str, Any]:
    status = await stage.ask("status")
    found: dict[str, Any] = next(s for s in status["sources"] if s["name"] == name)
    return found


async def until_source(stage: Stage, name: str, state: str, within: float = 30.0) -> dict[str, Any]:
    async def is_so() -> dict[str, Any] | None:
        found = await source(stage, name)
        return found if found["state"] == state else None

    found: dict[str, Any] = await stage.until(f"{name} is {state}", is_so, within)
    return found


async def messages(stage: Stage, count: int, within: float = 20.0) -> list[dict[str, Any]]:
    async def are_there() -> bool:
        return len(stage.receiver.messages) >= count

    await stage.until(f"{count} messages have arrived", are_there, within)
    return stage.receiver.messages


def lose_one(stage: Stage, number: int = 0) -> Volume:
    """One of the populated volumes loses its claim and PersistentVolume."""
    claim = stage.world.cluster.get(Kind.PERSISTENT_VOLUME_CLAIM, f"data-{number}", "load")
    assert claim is not None
    name = claim["spec"]["volumeName"]
    volume = Volume("load", f"data-{number}", name, name)
    stage.world.lose(volume)
    return volume


def truetally(*words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "truetally", *words],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        **how,
    )


async def in_a_thread(*words: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(truetally, *words)
