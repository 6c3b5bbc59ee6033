"""The status server: starts, answers, stops, and leaves no socket file behind."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import structlog
from aiohttp import web

from truetally.api.application import only_probes, whole_api
from truetally.api.listening import forget, listen_for_probes, listen_on
from truetally.api.questions import Tally
from truetally.settings import ApiSettings

_log = structlog.get_logger(__name__)

_FAREWELL_SECONDS = 5.0


class StatusServer:
    """Answers on the unix socket, and on the health address if one is set.

    Attributes:
        health_port: the port of the health address while it listens; it may have been chosen by the kernel.
    """

    def __init__(
        self, tally: Tally, settings: ApiSettings, *, answer_within: timedelta = timedelta(seconds=30)
    ) -> None:
        self._tally = tally
        self._path = Path(settings.socket)
        self._health_address = settings.health_address
        self._answer_within = answer_within
        self._runners: list[web.AppRunner] = []
        self._made: os.stat_result | None = None
        self.health_port: int | None = None

    async def start(self) -> None:
        """Listen; raises CannotListen, and then listens nowhere."""
        try:
            await self._serve_questions()
            if self._health_address is not None:
                await self._serve_probes(self._health_address)
        except BaseException:
            await self.stop()
            raise
        _log.info("status socket listening", socket=str(self._path), health_address=self._health_address)

    async def stop(self) -> None:
        """Answer what was asked, refuse what comes now, and remove the socket file."""
        if self._made is not None:
            forget(self._path, self._made)
            self._made = None
        while self._runners:
            await self._runners.pop().cleanup()
        self.health_port = None

    async def _serve_questions(self) -> None:
        runner = await self._runner(whole_api(self._tally, self._answer_within))
        listening = listen_on(self._path)
        self._made = self._path.lstat()
        await web.SockSite(runner, listening).start()

    async def _serve_probes(self, address: str) -> None:
        runner = await self._runner(only_probes(self._tally, self._answer_within))
        listening = listen_for_probes(address)
        self.health_port = listening.getsockname()[1]
        await web.SockSite(runner, listening).start()

    async def _runner(self, application: web.Application) -> web.AppRunner:
        runner = web.AppRunner(
            application,
            access_log=None,
            keepalive_timeout=15.0,
            shutdown_timeout=_FAREWELL_SECONDS,
        )
        await runner.setup()
        self._runners.append(runner)
        return runner
