"""The stage of the lab: where it keeps its files, who listens for messages, and the daemon that watches.

The daemon is a process of its own with a configuration like any other, so that what a person
types in another terminal is exactly what they will type later.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

from truetally.errors import TruetallyError
from truetally.lab.world import DRIVER, INSTANCE, PARENT, SNAPSHOTS_PARENT, LabWorld

_STOP_WITHIN = 20.0
_RECONCILE_EVERY = timedelta(seconds=2)


class LabFailed(TruetallyError):
    """The lab's story did not come out as it should."""


class Receiver:
    """A webhook on loopback that keeps the messages it is sent."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Begins to listen."""
        app = web.Application()
        app.router.add_post("/", self._receive)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"json://127.0.0.1:{self._runner.addresses[0][1]}/"

    async def stop(self) -> None:
        """Stops listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        self.messages.append(await request.json())
        return web.json_response({})


class Stage:
    """A lab's world, receiver and daemon, all running.

    Attributes:
        socket: where the daemon answers.
        config: the daemon's configuration file.
        log: the daemon's log file.
    """

    def __init__(
        self,
        directory: Path,
        world: LabWorld,
        grace: timedelta,
        reconcile_every: timedelta = _RECONCILE_EVERY,
    ) -> None:
        self.world = world
        self.receiver = Receiver()
        self.directory = directory
        self.socket = directory / "truetally.sock"
        self.config = directory / "truetally.yaml"
        self.log = directory / "truetally.log"
        self._grace = grace
        self._reconcile_every = reconcile_every
        self._daemon: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts everything; the daemon answers when this returns.

        Raises:
            LabFailed: the daemon did not start.
        """
        await self.world.nas.start()
        await self.world.cluster.start()
        await self.receiver.start()
        self.write_files()
        await self.start_daemon()

    async def start_daemon(self) -> None:
        """Starts the daemon, for the first time or again.

        Raises:
            LabFailed: it does not answer.
        """
        with self.log.open("ab") as log:
            self._daemon = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "truetally", "run", "-c", str(self.config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if not k.startswith("TRUETALLY_")},
            )
        await self.until("the daemon answers", self._answers, 30.0)

    async def stop(self) -> int:
        """Stops everything in order; returns the daemon's exit code."""
        code = await self.stop_daemon()
        await self.receiver.stop()
        await self.world.cluster.stop()
        await self.world.nas.stop()
        return code

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return self._daemon.pid if self._daemon is not None else 0

    def kill_daemon(self) -> None:
        """Ends the daemon without a warning, as a power cut would."""
        if self._daemon is not None and self._daemon.returncode is None:
            self._daemon.kill()

    async def stop_daemon(self) -> int:
        """Asks the daemon to end; returns its exit code."""
        if self._daemon is None:
            return 0
        if self._daemon.returncode is None:
            self._daemon.terminate()
        try:
            async with asyncio.timeout(_STOP_WITHIN):
                return await self._daemon.wait()
        except TimeoutError:
            self._daemon.kill()
            return await self._daemon.wait()

    def write_files(self) -> None:
        """Writes credentials and the daemon's configuration."""
        key = self.directory / "nas.key"
        kubeconfig = self.directory / "kubeconfig"
        self.world.cluster.write_kubeconfig(kubeconfig)
        _write_private(key, self.world.nas.add_key())
        _write_private(self.config, yaml.safe_dump(self.configuration(kubeconfig, key), sort_keys=False))

    def configuration(self, kubeconfig: Path, key: Path) -> dict[str, Any]:
        """The daemon's configuration, as its file holds it."""
        receiver = self.directory / "receiver.url"
        _write_private(receiver, self.receiver.url)
        return {
            "clusters": [{"name": "lab", "kubeconfig": str(kubeconfig)}],
            "nas": [
                {
                    "name": "nas1",
                    "url": self.world.nas.url,
                    "username": "truetally",
                    "api_key": {"file": str(key)},
                    "addresses": ["127.0.0.1"],
                    "reconcile_every": f"{self._reconcile_every.total_seconds():g}s",
                    "snapshots_every": f"{10 * self._reconcile_every.total_seconds():g}s",
                }
            ],
            "drivers": [
                {
                    "driver": DRIVER,
                    "cluster": "lab",
                    "nas": "nas1",
                    "parent": PARENT,
                    "snapshots_parent": SNAPSHOTS_PARENT,
                    "instance_id": INSTANCE,
                }
            ],
            "rules": {"grace": f"{self._grace.total_seconds():g}s"},
            "history": {"path": str(self.directory / "history.sqlite3")},
            "notify": {
                "receivers": [{"name": "webhook", "url": {"file": str(receiver)}}],
                "routes": [{"receivers": ["webhook"]}],
            },
            "api": {"socket": str(self.socket)},
        }

    async def ask(self, path: str) -> dict[str, Any]:
        """The daemon's answer to a question."""
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self.socket))) as http,
            http.get(f"http://truetally/api/v1/{path}") as answer,
        ):
            found: dict[str, Any] = json.loads(await answer.read())
            return found

    async def until(self, what: str, condition: Callable[[], Any], within: float) -> Any:
        """Waits until a condition holds, and returns what it found.

        Raises:
            LabFailed: it did not hold in time, or the daemon has ended.
        """
        try:
            async with asyncio.timeout(within):
                while not (found := await condition()):
                    if self._daemon is not None and self._daemon.returncode is not None:
                        raise LabFailed(f"the daemon ended with {self._daemon.returncode}:\n{self.tail()}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise LabFailed(
                f"{what}: not within {within:g} s. The daemon's last words:\n{self.tail()}"
            ) from None
        return found

    def tail(self) -> str:
        """The last lines of the daemon's log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-15:])

    async def _answers(self) -> bool:
        try:
            return bool(await self.ask("status"))
        except (aiohttp.ClientError, OSError, ValueError):
            return False


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


@asynccontextmanager
async def staged(directory: Path, world: LabWorld, grace: timedelta) -> AsyncIterator[Stage]:
    """A running stage, which is stopped whatever happens on it."""
    stage = Stage(directory, world, grace)
    try:
        await stage.start()
        yield stage
    finally:
        await stage.stop()
