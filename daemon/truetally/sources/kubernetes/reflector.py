"""A reflector keeps one kind current: list it in full, watch what changes, and list again when that breaks.

The kind is complete from the end of a full list until the watch cannot be taken up again.
A list that is asked for in between (to confirm a suspicion) runs beside the watch; events
that are older than it, by resourceVersion, are passed over.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta

import msgspec
import structlog

from truetally.clock import Clock
from truetally.errors import AccessDenied, CredentialsRefused, SourceUnavailable
from truetally.model.observations import Emit, Gone, Listed, Lost, Observation, Seen, Trouble
from truetally.model.refs import Ref
from truetally.sources.kubernetes.client import Absent, ClusterClient, Expired
from truetally.sources.kubernetes.decode import ApiStatus, Decoder, OnlyMeta, WatchLine, name_of
from truetally.sources.kubernetes.kinds import Resource

log = structlog.get_logger(__name__)

_PAGE = "500"
# A continue token may expire more than once while a cluster is busy; more often is no list at all.
_LIST_AGAIN = 3
# A watch that ends sooner, counted in seconds, is as good as refused.
_WORTH_A_WATCH = 1.0


class Pace(msgspec.Struct, frozen=True):
    """How long a reflector waits for what.

    Attributes:
        first_retry: the longest first pause after a failure; it doubles up to `last_retry`.
        lost_after: how long a broken watch may be away before the kind counts as lost.
        ask_again: how often a denied or absent kind is tried again.
        watch_for: how long a watch lasts before it is taken up anew.
        grace: how much longer than it was to last a silent watch is waited for.
        bookmark_within: a watch that ends after longer than this without even a bookmark is not believed.
        relist_within: how long a list that somebody waits for may take.
    """

    first_retry: timedelta = timedelta(seconds=0.8)
    last_retry: timedelta = timedelta(seconds=30)
    lost_after: timedelta = timedelta(seconds=10)
    ask_again: timedelta = timedelta(seconds=60)
    watch_for: timedelta = timedelta(seconds=270)
    grace: timedelta = timedelta(seconds=30)
    bookmark_within: timedelta = timedelta(seconds=120)
    relist_within: timedelta = timedelta(seconds=90)


def pause_before(attempt: int, pace: Pace, chance: float) -> float:
    """Seconds to wait before an attempt, counted from 1; `chance` is random between 0 and 1."""
    longest = min(pace.first_retry * (1 << min(attempt - 1, 16)), pace.last_retry).total_seconds()
    return longest / 2 + chance * longest / 2


class Reflector:
    """Keeps one kind of one cluster current.

    Attributes:
        trouble: why the kind is not complete, and the reason; None while it is.
        heard_at: the tick at which the cluster last answered.
        broken: how often the watch had to be taken up again after a failure.
    """

    def __init__(
        self, cluster: str, resource: Resource, client: ClusterClient, emit: Emit, clock: Clock, pace: Pace
    ) -> None:
        self.trouble: tuple[Trouble, str] | None = None
        self.heard_at: float | None = None
        self.broken = 0
        self.resource = resource
        self._cluster = cluster
        self._client = client
        self._emit = emit
        self._clock = clock
        self._pace = pace
        self._decoder = Decoder(resource.kind)
        self._listing = asyncio.Lock()
        self._listed_at = float("-inf")
        self._listed_version = 0
        self._version = ""
        self._absent = False
        self._attempt = 0
        self._away_since: float | None = None

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            try:
                if not self._version:
                    await self.relist(self._clock.ticks())
                if self._absent:
                    await asyncio.sleep(self._pace.ask_again.total_seconds())
                    self._version = ""
                    continue
                await self._watch()
            except (Expired, Absent):  # Absent: the CRD was removed under the watch, and the list will say so
                self._version = ""
                await self._pause()
            except AccessDenied as error:
                await self._lose(Trouble.DENIED, error)
                await asyncio.sleep(self._pace.ask_again.total_seconds())
            except (SourceUnavailable, CredentialsRefused) as error:
                self.broken += 1
                await self._fail(error)

    async def _fail(self, error: SourceUnavailable | CredentialsRefused) -> None:
        # Counted from the moment it broke, not from what was heard last: an idle watch is silent for minutes.
        if self._away_since is None:
            self._away_since = self._clock.ticks()
        pause = self._next_pause()
        away = self._clock.ticks() - self._away_since
        if isinstance(error, CredentialsRefused):
            await self._lose(Trouble.CREDENTIALS, error)
        elif not self._version or away + pause > self._pace.lost_after.total_seconds():
            await self._lose(Trouble.UNREACHABLE, error)
        await asyncio.sleep(pause)

    async def _pause(self) -> None:
        await asyncio.sleep(self._next_pause())

    def _next_pause(self) -> float:
        self._attempt += 1
        return pause_before(self._attempt, self._pace, random.random())

    async def _lose(
        self, trouble: Trouble, error: AccessDenied | SourceUnavailable | CredentialsRefused
    ) -> None:
        """The kind proves no absence any more; it has to be listed anew before it does again."""
        reason = (
            f"not permitted to {error.what}; {error.grant}"
            if isinstance(error, AccessDenied)
            else error.reason
        )
        self._version = ""
        if self.trouble == (trouble, reason):
            return
        log.warning("kind lost", source=self._cluster, kind=self.resource.kind.value, reason=reason)
        self.trouble = (trouble, reason)
        lost = Lost(self._cluster, self.resource.kind, trouble, reason, self._clock.ticks())
        await self._emit([lost])

    # Listing

    async def relist(self, asked_after: float) -> None:
        """Lists in full, unless a list has been asked for after that tick already.

        Raises:
            SourceUnavailable, AccessDenied, CredentialsRefused: it could not be listed.
        """
        async with self._listing:
            if self._listed_at < asked_after:
                await self._list()

    async def _list(self) -> None:
        for _ in range(_LIST_AGAIN):
            try:
                return await self._list_once()
            except Expired:
                continue
            except Absent:
                if not self.resource.optional:
                    reason = f"the API server does not serve {self.resource.path}"
                    raise SourceUnavailable(self._cluster, reason) from None
                await self._end_list(self._clock.ticks(), set(), absent=True)
                return None
        raise SourceUnavailable(
            self._cluster, f"{self.resource.plural} change faster than they can be listed"
        )

    async def _list_once(self) -> None:
        asked_at = self._clock.ticks()
        names: set[str] = set()
        query = {"limit": _PAGE}
        while True:
            body = await self._client.get(self.resource.path, query, self.resource.grant("list"))
            self.heard_at = self._clock.ticks()
            try:
                meta, found = self._decoder.page(body)
            except (msgspec.DecodeError, ValueError) as error:
                reason = f"the list of {self.resource.plural} cannot be read: {error}"
                raise SourceUnavailable(self._cluster, reason) from error
            names.update(name for name, _ in found)
            await self._emit([Seen(self._ref(name), value, asked_at) for name, value in found])
            await asyncio.sleep(0)
            if not meta.continue_:
                break
            query = {"limit": _PAGE, "continue": meta.continue_}
        if not self._version:
            self._version = meta.resource_version
        self._listed_version = _number(meta.resource_version)
        await self._end_list(asked_at, names, absent=False)

    async def _end_list(self, asked_at: float, names: set[str], *, absent: bool) -> None:
        self._absent = absent
        self._away_since = None
        self._listed_at = asked_at
        if self.trouble is not None:
            log.info("kind complete again", source=self._cluster, kind=self.resource.kind.value)
        self.trouble = None
        await self._emit([Listed(self._cluster, self.resource.kind, frozenset(names), asked_at, absent)])

    # Watching

    async def _watch(self) -> None:
        """Watches until the stream ends."""
        last = self._pace.watch_for.total_seconds()
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(max(1, int(last * random.uniform(0.9, 1.0)))),
        }
        began, heard = self._clock.ticks(), 0
        silent_for = last + self._pace.grace.total_seconds()
        grant = self.resource.grant("watch")
        async with self._client.lines(self.resource.path, query, silent_for, grant) as stream:
            self._back()
            try:
                async for line in stream:
                    await self._take(line)
                    self._attempt, heard = 0, heard + 1
            finally:
                lasted = self._clock.ticks() - began
                self._attempt = 0 if lasted > _WORTH_A_WATCH else self._attempt
        self._back()
        if not heard and lasted > self._pace.bookmark_within.total_seconds():
            # A cluster restored from a backup knows our version only from the future, and says nothing.
            self._version = ""
        elif lasted <= _WORTH_A_WATCH:
            # An apiserver may end a watch at once and without a word (kubernetes issue 104171): no busy loop,
            # and a new list in the end, because from this version it may never say anything again.
            pause = self._next_pause()
            if pause > self._pace.lost_after.total_seconds():
                self._version = ""
            await asyncio.sleep(pause)

    async def _take(self, line: bytes) -> None:
        self.heard_at = received_at = self._clock.ticks()
        # A list that goes on now may be older or newer than this line; only when it has ended can we tell.
        async with self._listing:
            if (seen := self._observe(line, received_at)) is not None:
                await self._emit([seen])

    def _back(self) -> None:
        self._away_since = None
        self.heard_at = self._clock.ticks()

    def _observe(self, line: bytes, received_at: float) -> Observation | None:
        try:
            event = msgspec.json.decode(line, type=WatchLine)
            match event.type:
                case "BOOKMARK":
                    self._version = msgspec.json.decode(event.object, type=OnlyMeta).metadata.resource_version
                    return None
                case "ERROR":
                    self._stumble(msgspec.json.decode(event.object, type=ApiStatus))
            meta, value = self._decoder.object(event.object)
        except (msgspec.DecodeError, ValueError) as error:
            raise SourceUnavailable(
                self._cluster, f"an event of {self.resource.plural} cannot be read"
            ) from error
        self._version = meta.resource_version
        if value is None or 0 < _number(meta.resource_version) <= self._listed_version:
            return None
        ref = self._ref(name_of(meta))
        return Gone(ref, received_at) if event.type == "DELETED" else Seen(ref, value, received_at)

    def _stumble(self, status: ApiStatus) -> None:
        if status.code == 410 or status.reason in ("Expired", "Gone"):
            raise Expired(f"{self._cluster}: {status.message}")
        raise SourceUnavailable(self._cluster, f"the watch of {self.resource.plural} ended: {status.message}")

    def _ref(self, name: str) -> Ref:
        return Ref(self._cluster, self.resource.kind, name)


def _number(version: str) -> int:
    """Kubernetes' resourceVersions are etcd revisions; one that is no number orders nothing."""
    return int(version) if version.isdecimal() else 0


def reflectors(
    cluster: str, resources: Sequence[Resource], client: ClusterClient, emit: Emit, clock: Clock, pace: Pace
) -> list[Reflector]:
    """One reflector for each kind."""
    return [Reflector(cluster, resource, client, emit, clock, pace) for resource in resources]
