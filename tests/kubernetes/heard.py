from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

from truetally.clock import Clock, SystemClock
from truetally.model.observations import Gone, Listed, Lost, Observation, Seen, Trouble
from truetally.model.refs import KUBERNETES_KINDS, Kind, Ref
from truetally.settings import ClusterSettings
from truetally.sources.kubernetes.reflector import Pace
from truetally.sources.kubernetes.source import ClusterSource

BRISK = Pace(
    first_retry=timedelta(milliseconds=50),
    last_retry=timedelta(milliseconds=400),
    lost_after=timedelta(milliseconds=300),
    ask_again=timedelta(milliseconds=200),
)


class Heard:
    """What a source has emitted, and how to wait for what it will emit."""

    def __init__(self) -> None:
        self.all: list[Observation] = []
        self._more = asyncio.Event()

    async def emit(self, batch: Sequence[Observation]) -> None:
        self.all.extend(batch)
        self._more.set()

    async def until(self, holds: Callable[[], object], within: float = 30) -> None:
        """Ask again after every observation, and in a while: a status changes without one."""
        async with asyncio.timeout(within):
            while not holds():
                self._more.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._more.wait()

    async def complete(self, kinds: frozenset[Kind] = KUBERNETES_KINDS) -> None:
        await self.until(lambda: {one.kind for one in self.all if isinstance(one, Listed)} >= kinds)

    def lists(self, kind: Kind) -> list[Listed]:
        return [one for one in self.all if isinstance(one, Listed) and one.kind is kind]

    def lost(self, kind: Kind, trouble: Trouble | None = None) -> list[Lost]:
        return [
            one
            for one in self.all
            if isinstance(one, Lost) and one.kind is kind and trouble in (None, one.trouble)
        ]

    def seen(self, kind: Kind, name: str) -> list[Seen]:
        ref = Ref("here", kind, name)
        return [one for one in self.all if isinstance(one, Seen) and one.ref == ref]

    def gone(self, kind: Kind, name: str) -> list[Gone]:
        ref = Ref("here", kind, name)
        return [one for one in self.all if isinstance(one, Gone) and one.ref == ref]

    def tally(self, kind: Kind) -> set[str]:
        """The names that exist by what was heard, as a reconciler would have them."""
        names: set[str] = set()
        for one in self.all:
            match one:
                case Seen(ref=ref) if ref.kind is kind:
                    names.add(ref.name)
                case Gone(ref=ref) if ref.kind is kind:
                    names.discard(ref.name)
                case Listed(kind=listed, names=found) if listed is kind:
                    names = set(found)
        return names


@asynccontextmanager
async def watching(
    kubeconfig: Path, pace: Pace = BRISK, clock: Clock | None = None
) -> AsyncIterator[tuple[ClusterSource, Heard]]:
    """A source that runs for as long as the block; a bug in it ends the test."""
    heard = Heard()
    settings = ClusterSettings(name="here", kubeconfig=kubeconfig)
    source = ClusterSource(settings, heard.emit, clock or SystemClock(), pace)
    task = asyncio.create_task(source.run())
    try:
        yield source, heard
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
