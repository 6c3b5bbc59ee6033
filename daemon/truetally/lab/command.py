"""`truetally lab`: a cluster, a NAS and a daemon that watches them, all on this machine."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from truetally import logs
from truetally.lab.stage import Stage, staged
from truetally.lab.story import leave_one_behind, play
from truetally.lab.world import LabWorld

_GRACE_WATCHED, _GRACE_ALONE = timedelta(seconds=15), timedelta(seconds=3)


@click.command()
@click.option("--volumes", default=20, show_default=True, help="Whole volumes that are there from the start.")
@click.option("--snapshots-per-volume", default=2, show_default=True, help="Periodic snapshots of each.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to keep configuration, history and log; without it they are removed at the end.",
)
@click.option("--once/--stay", default=None, help="End after the story, or stay; it stays on a terminal.")
def lab(volumes: int, snapshots_per_volume: int, directory: Path | None, once: bool | None) -> None:
    """Try truetally on a NAS and a cluster that it brings along.

    Both speak the real protocols on 127.0.0.1. A story is played: a volume is provisioned, used and
    snapshotted, its claim vanishes and leaves a dataset behind, and truetally finds and tells it.
    """
    logs.configure("console", "warning")
    if once is None:
        once = not sys.stdout.isatty()
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="truetally-lab-")))
        directory.mkdir(parents=True, exist_ok=True)
        asyncio.run(_run(directory.absolute(), volumes, snapshots_per_volume, once=once))


async def _run(directory: Path, volumes: int, snapshots_per_volume: int, *, once: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    world = LabWorld(lambda: datetime.now(UTC))
    world.furnish()
    world.populate(volumes, snapshots_per_volume)
    grace = _GRACE_ALONE if once else _GRACE_WATCHED
    async with staged(directory, world, grace) as stage:
        if not once:
            _introduce(stage)
        began = time.monotonic()
        telling = asyncio.create_task(play(stage, lambda line: _say(began, line), 0.0 if once else 3.0))
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({telling, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            await telling
            if not once:
                left = leave_one_behind(stage)
                click.echo("\nThe lab goes on, and one more orphan is on its way to be found:\n")
                click.echo(f"  {_program()} explain dataset {left.dataset}\n")
                click.echo("Press Ctrl-C to end it.")
                await stopped
        for task in (telling, stopped):
            task.cancel()
        await asyncio.gather(telling, stopped, return_exceptions=True)
    click.echo("The lab has ended.")


def _introduce(stage: Stage) -> None:
    click.echo(f"In another terminal:\n\n  export TRUETALLY_SOCKET={stage.socket}")
    for words in ("status", "findings", "explain pvc load/data-0", "volumes", "rules"):
        click.echo(f"  {_program()} {words}")
    click.echo(f"\nThe daemon's configuration is {stage.config}, and its log {stage.log}\n")


def _say(began: float, line: str) -> None:
    click.echo(f"{time.monotonic() - began:6.1f} s  {line}")


def _program() -> str:
    return str(Path(sys.argv[0]).absolute())
