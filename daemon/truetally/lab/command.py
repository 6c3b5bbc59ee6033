"""`truetally lab`: a cluster, a NAS and a daemon that watches them, all on this machine; or the NAS alone."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from truetally import logs
from truetally.lab.nas.alone import Running, Wanted, run_alone
from truetally.lab.nas.machine import ADMINISTRATOR, VERSIONS
from truetally.lab.stage import Stage, staged
from truetally.lab.story import leave_one_behind, play
from truetally.lab.world import LabWorld

_GRACE_WATCHED, _GRACE_ALONE = timedelta(seconds=15), timedelta(seconds=3)


@click.group(invoke_without_command=True)
@click.option("--volumes", default=20, show_default=True, help="Whole volumes that are there from the start.")
@click.option("--snapshots-per-volume", default=2, show_default=True, help="Periodic snapshots of each.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to keep configuration, history and log; without it they are removed at the end.",
)
@click.option("--once/--stay", default=None, help="End after the story, or stay; it stays on a terminal.")
@click.pass_context
def lab(
    ctx: click.Context, volumes: int, snapshots_per_volume: int, directory: Path | None, once: bool | None
) -> None:
    """Try truetally on a NAS and a cluster that it brings along.

    Both speak the real protocols on 127.0.0.1. A story is played: a volume is provisioned, used and
    snapshotted, its claim vanishes and leaves a dataset behind, and truetally finds and tells it.
    """
    logs.configure("console", "warning")
    if ctx.invoked_subcommand is not None:
        return
    if once is None:
        once = not sys.stdout.isatty()
    with ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="truetally-lab-")))
        directory.mkdir(parents=True, exist_ok=True)
        asyncio.run(_run(directory.absolute(), volumes, snapshots_per_volume, once=once))


def _pools(_: click.Context, param: click.Parameter, given: Sequence[str]) -> list[tuple[str, int]]:
    return [_pool(text, param) for text in given]


def _pool(text: str, param: click.Parameter) -> tuple[str, int]:
    """A pool's name and bytes, of `NAME` or `NAME:SIZE`."""
    found = re.fullmatch(r"([A-Za-z][\w.-]*)(?::(\d+)([KMGTP]?)(?:iB)?)?", text)
    if found is None:
        reason = f"{text!r} is no pool; write a name, or a name and a size like tank:10TiB"
        raise click.BadParameter(reason, param=param)
    name, size, unit = found.groups()
    return name, int(size) << _SHIFTS[unit] if size else _POOL_BYTES


_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}
_POOL_BYTES = 10 << 40


@lab.command("nas")
@click.option(
    "--version",
    type=click.Choice(list(VERSIONS)),
    default="25.10",
    show_default=True,
    help="The TrueNAS that it imitates.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0, the default, takes a free one.")
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Begin with the state in this file, if it is there, and write it back at the end.",
)
@click.option("--tls", is_flag=True, help="TLS, with a certificate made for the day.")
@click.option(
    "--api-key",
    envvar="TRUETALLY_LAB_API_KEY",
    show_envvar=True,
    help="The API key of root, as ID-SECRET; otherwise one is made up.",
)
@click.option(
    "--password",
    envvar="TRUETALLY_LAB_PASSWORD",
    show_envvar=True,
    help="The password of root; otherwise one is made up.",
)
@click.option(
    "--pool",
    "pools",
    metavar="NAME[:SIZE]",
    callback=_pools,
    multiple=True,
    default=["tank:10TiB"],
    show_default=True,
    help="A pool that it has, if no state brings others; can be given several times.",
)
@click.option(
    "--control/--no-control",
    default=True,
    show_default=True,
    help="Whether /lab/ answers: changes as over SSH, nodes, faults.",
)
def nas(
    version: str,
    host: str,
    port: int,
    state: Path | None,
    tls: bool,
    api_key: str | None,
    password: str | None,
    pools: Sequence[tuple[str, int]],
    control: bool,
) -> None:
    """Run the lab's NAS alone, until Ctrl-C.

    Point any client or driver of TrueNAS at it. From 25.04 on a TrueNAS revokes a key that comes over
    plain HTTP from another machine, and so does this one: use --tls then.
    """
    wanted = Wanted(version, host, port, tls, state, api_key, password, pools, control)
    asyncio.run(_run_nas(wanted))


async def _run_nas(wanted: Wanted) -> None:
    await run_alone(wanted, _introduce_nas, _interrupted())
    click.echo("The lab NAS has ended.")


def _introduce_nas(running: Running) -> None:
    click.echo(f"{running.version} (a lab) answers at {running.url}\n")
    click.echo(f"  user      {ADMINISTRATOR}")
    click.echo(f"  password  {running.password}")
    click.echo(f"  API key   {running.api_key}")
    if running.authority is not None:
        click.echo(f"  CA file   {running.authority}")
    if running.control is not None:
        click.echo(f"\nChange it as over SSH, and so on: {_example(running)}")
    click.echo("\nPress Ctrl-C to end it.")


def _example(running: Running) -> str:
    """A command for a shell that changes the NAS, where `GET` of the folder lists all."""
    trusting = f" --cacert {running.authority}" if running.authority is not None else ""
    login = f"-H 'Authorization: Bearer {running.api_key}'"
    pool = next(iter(running.pools), "tank")
    snapshot = f'{running.control}ssh/snapshot -d \'{{"path": "{pool}@now"}}\''
    return f"curl{trusting} {login} {snapshot}  (all: GET {running.control})"


def _interrupted() -> asyncio.Event:
    """What is set by Ctrl-C, or by who ends the process."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _run(directory: Path, volumes: int, snapshots_per_volume: int, *, once: bool) -> None:
    stop = _interrupted()
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
