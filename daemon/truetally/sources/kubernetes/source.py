"""One cluster as a source: a reflector for each kind, and one status for all of them."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from truetally.clock import Clock
from truetally.errors import SourceUnavailable, TruetallyError
from truetally.model.observations import Emit, SourceState, SourceStatus, Trouble
from truetally.model.refs import Kind
from truetally.settings import ClusterSettings
from truetally.sources.kubernetes.client import ClusterClient
from truetally.sources.kubernetes.kinds import RESOURCES
from truetally.sources.kubernetes.reflector import Pace, reflectors

log = structlog.get_logger(__name__)

_VERSION_EVERY = 600.0
_STATES = {
    Trouble.UNREACHABLE: SourceState.UNREACHABLE,
    Trouble.FAILED: SourceState.UNREACHABLE,
    Trouble.CREDENTIALS: SourceState.REFUSED,
}


class _Version(msgspec.Struct, rename="camel"):
    git_version: str = ""


class ClusterSource:
    """Watches one cluster for ever."""

    def __init__(self, settings: ClusterSettings, emit: Emit, clock: Clock, pace: Pace | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._pace = pace or Pace()
        self._client = ClusterClient(settings)
        self._reflectors = reflectors(settings.name, RESOURCES, self._client, emit, clock, self._pace)
        self._version = ""

    async def run(self) -> None:
        """Works until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for reflector in self._reflectors:
                    name = f"{self._settings.name} {reflector.resource.kind.value}"
                    tasks.create_task(reflector.run(), name=name)
                tasks.create_task(self._ask_version(), name=f"{self._settings.name} version")
        finally:
            await self._client.close()

    async def relist(self, kinds: frozenset[Kind]) -> None:
        """Lists the kinds again in full; returns when the lists have been emitted.

        Raises:
            SourceUnavailable, AccessDenied, CredentialsRefused: one of them could not be listed.
        """
        now = self._clock.ticks()
        wanted = [r.relist(now) for r in self._reflectors if r.resource.kind in kinds]
        try:
            async with asyncio.timeout(self._pace.relist_within.total_seconds()):
                results = await asyncio.gather(*wanted, return_exceptions=True)
        except TimeoutError:
            raise SourceUnavailable(self._settings.name, "it does not answer in time") from None
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def status(self) -> SourceStatus:
        """How it stands: the worst that any kind has met, except for what is merely denied."""
        troubles = [r.trouble for r in self._reflectors if r.trouble is not None]
        worst = next((t for t in troubles if t[0] is not Trouble.DENIED), None)
        heard = [r.heard_at for r in self._reflectors if r.heard_at is not None]
        denied = sum(t[0] is Trouble.DENIED for t in troubles)
        if worst is not None:
            state, detail = _STATES[worst[0]], worst[1]
        elif heard:
            state = SourceState.CONNECTED
            detail = f"{denied} kinds may not be read" if denied else ""
        else:
            state, detail = SourceState.STARTING, "not heard of yet"
        return SourceStatus(
            self._settings.name,
            "cluster",
            state,
            detail,
            self._version,
            max((r.broken for r in self._reflectors), default=0),
            self._clock.ticks() - max(heard) if heard else None,
        )

    async def _ask_version(self) -> None:
        while True:
            try:
                body = await self._client.get("/version", {})
                self._version = msgspec.json.decode(body, type=_Version).git_version
                pause = _VERSION_EVERY
            except (TruetallyError, msgspec.DecodeError):
                pause = self._pace.last_retry.total_seconds()
            await asyncio.sleep(pause)
