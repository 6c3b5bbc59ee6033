"""One TrueNAS as a source: connect, list everything, then follow hints and read again now and then.

Nothing that the NAS announces is believed; it only makes us read. Changes made over SSH are
announced by nobody, and are found by the periodic reading. When the connection breaks, every
kind is lost at once: a NAS that reboots must never read as five hundred orphans.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import timedelta

import msgspec
import structlog

from truetally.clock import Clock
from truetally.errors import (
    AccessDenied,
    ConfigurationInvalid,
    CredentialsRefused,
    SourceUnavailable,
    TruetallyError,
)
from truetally.model.observations import (
    Emit,
    Gone,
    Listed,
    Lost,
    Observation,
    Seen,
    SourceState,
    SourceStatus,
    Trouble,
    Value,
)
from truetally.model.refs import TRUENAS_KINDS, Kind, Ref
from truetally.model.truenas import Performance, Pool, System
from truetally.settings import NasSettings
from truetally.sources.truenas import decode, inventory
from truetally.sources.truenas.addresses import connect, find_generation, host_of, http_session
from truetally.sources.truenas.calls import CallFailed, Change
from truetally.sources.truenas.held import HeldSnapshots, Told
from truetally.sources.truenas.hints import followed, hinted
from truetally.sources.truenas.limiter import LastLogin, LoginPace, next_login_at
from truetally.sources.truenas.logins import Credential, KeyExpired, Mistrusted, Standby, log_in
from truetally.sources.truenas.schedule import Schedule
from truetally.sources.truenas.session import Session, Traffic
from truetally.sources.truenas.use import Lists

log = structlog.get_logger(__name__)

# A pool's state comes before the datasets that a pool which is away would hide.
_FIRST = (Kind.SYSTEM, Kind.POOL, Kind.DATASET)
_LAST = (Kind.SNAPSHOT,)
_ORDER = (*_FIRST, *sorted(TRUENAS_KINDS - {*_FIRST, *_LAST}), *_LAST)
# What is so large that remembering its bytes would cost more than reading it again now and then.
_NOT_KEPT = frozenset({Kind.SNAPSHOT})
_REALTIME = "reporting.realtime"
_READABLE = ("ONLINE", "DEGRADED")
_MANY_HINTS = 200
_RELIST_WITHIN = timedelta(seconds=180)
_CHUNK = 1000
_AT_ONCE = 8


class Pace(msgspec.Struct, frozen=True):
    """How long a NAS source waits for what.

    Attributes:
        debounce: one change is announced several times, so hints are gathered for so long.
        look_at_key: how often the place of an expired key is looked at for another one.
        performance: how often the NAS is asked to tell what it does, and how often that is passed on.
        performance_by_query: the same where it cannot be subscribed to.
        retry_dead_key: how often an expired key is tried all the same: its end may have been put off.
    """

    debounce: timedelta = timedelta(seconds=1)
    look_at_key: timedelta = timedelta(seconds=30)
    performance: timedelta = timedelta(seconds=30)
    performance_by_query: timedelta = timedelta(minutes=5)
    retry_dead_key: timedelta = timedelta(hours=1)
    logins: LoginPace = LoginPace()


class NasSource:
    """Watches one NAS for ever."""

    def __init__(
        self,
        settings: NasSettings,
        credential: Callable[[], Credential],
        emit: Emit,
        clock: Clock,
        pace: Pace | None = None,
    ) -> None:
        self._settings = settings
        self._credential = credential
        self._emit = emit
        self._clock = clock
        self._pace = pace or Pace()
        self._session: Session | None = None
        self._locks = {kind: asyncio.Lock() for kind in TRUENAS_KINDS}
        self._listed_at = dict.fromkeys(TRUENAS_KINDS, float("-inf"))
        self._hints: dict[tuple[Kind, str], None] = {}
        self._hinted = asyncio.Event()
        self._attempts: list[float] = []
        self._failures = 0
        self._last = LastLogin.NONE
        self._dead: Credential | None = None
        self._urls = (settings.url, *settings.failover_urls)
        self._url = settings.url
        self.traffic = Traffic()
        self._known = {kind: inventory.Known() for kind in _ORDER if kind not in _NOT_KEPT}
        self._held = HeldSnapshots()
        self._sample: msgspec.Raw | None = None
        self._datasets: frozenset[str] = frozenset()
        self._unreadable: frozenset[str] = frozenset()
        self._proven = False
        self._identity: tuple[str, frozenset[str]] = ("", frozenset())
        self._lost: tuple[Trouble, str] | None = None
        self._failing: set[Kind] = set()
        self._state, self._detail, self._version = SourceState.STARTING, "", ""
        self._connections = 0
        self._heard_at: float | None = None

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            try:
                await self._connected()
            except KeyExpired as error:
                await self._lose(Trouble.CREDENTIALS, error.reason)
                await self._until_other_key()
            except CredentialsRefused as error:
                await self._lose(Trouble.CREDENTIALS, error.reason)
            except SourceUnavailable as error:
                await self._lose(Trouble.UNREACHABLE, error.reason)
                self._turn_elsewhere(error)

    async def relist(self, kinds: frozenset[Kind]) -> None:
        """Lists the kinds in full; returns when the lists have been emitted, or that they cannot be told.

        Raises:
            SourceUnavailable, AccessDenied: one of them could not be listed.
        """
        session, asked_after = self._connected_session(), self._clock.ticks()
        try:
            async with asyncio.timeout(_RELIST_WITHIN.total_seconds()):
                for kind in _ORDER:
                    if kind in kinds:
                        await self._list_or_tell(kind, session, asked_after)
        except TimeoutError:
            raise SourceUnavailable(self._settings.name, "it does not answer in time") from None

    async def reread(self, refs: frozenset[Ref]) -> None:
        """Reads these objects again; returns when what was found has been emitted.

        Raises:
            SourceUnavailable, AccessDenied: one of them could not be read.
        """
        session = self._connected_session()
        ordered, lists = sorted(refs), Lists(session)
        for at in range(0, len(ordered), _AT_ONCE):
            some = ordered[at : at + _AT_ONCE]
            await self._emit(await asyncio.gather(*(self._read(ref, session, lists) for ref in some)))

    def status(self) -> SourceStatus:
        """How it stands."""
        heard = self._heard_at
        return SourceStatus(
            self._settings.name,
            "nas",
            self._state,
            self._detail,
            self._version,
            max(0, self._connections - 1),
            self._clock.ticks() - heard if heard is not None else None,
        )

    def _connected_session(self) -> Session:
        if self._session is None:
            raise SourceUnavailable(self._settings.name, self._detail or "it is not connected")
        return self._session

    # Connecting

    async def _connected(self) -> None:
        """One connection, from the first byte to its end; always raises."""
        await self._until_login_is_due()
        self._attempts = [*self._attempts[-19:], self._clock.ticks()]
        self._last, self._failures = LastLogin.UNREACHED, self._failures + 1
        name, url = self._settings.name, self._url
        async with http_session(self._settings) as http:
            generation = await find_generation(name, url, http)
            socket = await connect(name, url, generation, http)
            session = Session(
                name,
                generation,
                socket,
                call_timeout=self._settings.call_timeout.total_seconds(),
                log_in_again=self._log_in_limited,
                hint=self._hint,
                traffic=self.traffic,
            )
            reading = asyncio.create_task(session.run(), name=f"{self._settings.name} reading")
            working = asyncio.create_task(self._work(session), name=f"{self._settings.name} inventory")
            try:
                done, _ = await asyncio.wait({reading, working}, return_when=asyncio.FIRST_COMPLETED)
                # The inventory fails with the reading; its own reason says more.
                for task in sorted(done, key=lambda each: each is reading):
                    await task
            finally:
                self._session = None
                for task in (reading, working):
                    task.cancel()
                ended = await asyncio.gather(reading, working, return_exceptions=True)
                await socket.close()
                for bug in ended:
                    if isinstance(bug, Exception) and not isinstance(bug, TruetallyError):
                        raise bug

    async def _until_login_is_due(self) -> None:
        due = next_login_at(self._attempts, self._failures, self._last, random.random(), self._pace.logins)
        await asyncio.sleep(max(0.0, due - self._clock.ticks()))

    def _turn_elsewhere(self, error: SourceUnavailable) -> None:
        """The next address that is configured, or the one of them that the NAS itself has named."""
        if len(self._urls) == 1:
            return
        named = {host_of(url) for url in error.urls} if isinstance(error, Standby) else set()
        others = self._urls[self._urls.index(self._url) + 1 :] + self._urls[: self._urls.index(self._url)]
        self._url = next((url for url in others if host_of(url) in named), others[0])
        log.info("trying another address", source=self._settings.name, url=self._url)

    async def _until_other_key(self) -> None:
        """A revoked key never works again, and trying it only fills the NAS's log; an end may be put off."""
        again = self._clock.ticks() + self._pace.retry_dead_key.total_seconds()
        while self._clock.ticks() < again:
            try:
                if self._credential() != self._dead:
                    return
            except ConfigurationInvalid as error:
                log.warning("API key cannot be read", source=self._settings.name, reason=str(error))
            await asyncio.sleep(self._pace.look_at_key.total_seconds())

    async def _log_in(self, session: Session) -> None:
        name = self._settings.name
        try:
            who = self._credential()
        except ConfigurationInvalid as error:
            raise CredentialsRefused(name, f"its secret cannot be read: {error}") from error
        try:
            self._proven |= await log_in(session, name, self._url, who, prove=self._proven)
        except KeyExpired:
            self._dead = who
            raise
        except CredentialsRefused as error:
            self._proven |= isinstance(error, Mistrusted)
            self._last = LastLogin.REFUSED
            raise
        self._last, self._failures = LastLogin.SUCCEEDED, 0

    async def _log_in_limited(self, session: Session) -> None:
        await self._until_login_is_due()
        self._attempts = [*self._attempts[-19:], self._clock.ticks()]
        await self._log_in(session)

    async def _work(self, session: Session) -> None:
        self._hints, self._sample = {}, None
        await self._log_in(session)
        await self._identify(session)
        # From here on lists may complete, so losing them has to be told again, also for the same reason.
        self._lost = None
        self._session = session
        self._connections += 1
        self._state, self._detail = SourceState.STARTING, "logged in, and listing everything"
        await self._subscribe(session)
        for kind in _ORDER:
            await self._list_or_lose(kind, session)
        self._state, self._detail = SourceState.CONNECTED, ""
        log.info("source listed", source=self._settings.name, version=self._version)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_hints(session))
                tasks.create_task(self._reconcile(session))
                tasks.create_task(self._watch_performance(session))
        except ExceptionGroup as failures:
            raise _expected(failures) from failures

    async def _identify(self, session: Session) -> None:
        """Whether what answers at another address is the same storage: it has to have a pool of it.

        Raises:
            SourceUnavailable: it has none.
        """
        try:
            pools = await session.call("pool.query", [], {}, type_=list[decode.PoolIdentity])
        except CallFailed:
            pools = []
        guids = frozenset(each.guid for each in pools if each.guid)
        url, before = self._identity
        if url not in ("", self._url) and before and guids.isdisjoint(before):
            raise SourceUnavailable(
                self._settings.name,
                f"{self._url} has none of the pools that {url} had; is it another NAS? Correct failover_urls",
            )
        if guids:
            self._identity = (self._url, guids)

    async def _subscribe(self, session: Session) -> None:
        for collection in followed(session.generation.since):
            try:
                await session.subscribe(collection.name)
            except (CallFailed, SourceUnavailable) as error:
                if not session.alive:
                    raise SourceUnavailable(self._settings.name, str(error)) from error
                # Without hints a change is found by the periodic reading.
                log.info(
                    "collection not subscribed",
                    source=self._settings.name,
                    collection=collection.name,
                    reason=error.reason,
                )

    async def _lose(self, trouble: Trouble, reason: str) -> None:
        self._state = SourceState.REFUSED if trouble is Trouble.CREDENTIALS else SourceState.UNREACHABLE
        self._detail = reason
        if self._lost == (trouble, reason):
            return
        self._lost = (trouble, reason)
        log.warning("source lost", source=self._settings.name, reason=reason)
        now = self._clock.ticks()
        await self._emit([Lost(self._settings.name, kind, trouble, reason, now) for kind in _ORDER])

    # Reading

    async def _reconcile(self, session: Session) -> None:
        """Reads kind after kind again, one at a time: the NAS never has more than one list to make."""
        now = self._clock.ticks()
        schedule = Schedule(
            _ORDER,
            self._settings,
            now,
            failing=self._failing,
            blind=self._blind(),
            chance=random.random(),
        )
        while True:
            kind, due = schedule.next()
            await asyncio.sleep(max(0.0, due - self._clock.ticks()))
            began = self._clock.ticks()
            await self._list_or_lose(kind, session)
            if kind is Kind.DATASET:
                await self._follow_snapshots(session)
            schedule.done(
                kind,
                began,
                self._clock.ticks(),
                failed=kind in self._failing,
                blind=kind in self._blind(),
            )

    def _blind(self) -> frozenset[Kind]:
        """What is only known by listing it: snapshots, where no dataset tells that its own have changed."""
        return frozenset({Kind.SNAPSHOT}) if self._held.blind else frozenset()

    async def _list_or_lose(self, kind: Kind, session: Session) -> None:
        """A kind that cannot be listed is lost alone, as long as the connection stands."""
        try:
            await self._list_or_tell(kind, session, self._clock.ticks())
        except (AccessDenied, SourceUnavailable):
            if not session.alive:
                raise

    async def _list_or_tell(self, kind: Kind, session: Session, asked_after: float) -> None:
        """Lists a kind; that it cannot be listed is told at once, and raised."""
        try:
            await self._list(kind, session, asked_after)
        except inventory.NotTold as error:
            await self._lose_one(kind, Trouble.UNTOLD, error.reason)
        except AccessDenied as error:
            await self._lose_one(kind, Trouble.DENIED, f"not permitted to {error.what}; {error.grant}")
            raise
        except SourceUnavailable as error:
            if session.alive:
                self._failing.add(kind)
                await self._lose_one(kind, Trouble.FAILED, error.reason)
            raise
        else:
            self._failing.discard(kind)

    async def _lose_one(self, kind: Kind, trouble: Trouble, reason: str) -> None:
        await self._emit([Lost(self._settings.name, kind, trouble, reason, self._clock.ticks())])

    async def _list(self, kind: Kind, session: Session, asked_after: float) -> None:
        async with self._locks[kind]:
            if self._listed_at[kind] >= asked_after:
                return
            asked_at, told = self._clock.ticks(), self._held.told()
            found: dict[str, Value] = {}
            try:
                async for page in inventory.listing(
                    kind, session, self._settings.name, self._known.get(kind)
                ):
                    found.update(page)
                    await self._emit_page(kind, page, asked_at)
            except CallFailed as error:
                raise SourceUnavailable(self._settings.name, error.reason) from error
            if session is not self._session or not session.alive:
                # What has been told lost meanwhile must not be told complete.
                raise SourceUnavailable(self._settings.name, "the connection broke")
            self._heard_at = self._clock.ticks()
            self._listed_at[kind] = asked_at
            absent = inventory.absent(kind, session.generation)
            names = self._with_unreadable(kind, frozenset(found))
            await self._emit([Listed(self._settings.name, kind, names, asked_at, absent)])
            self._note(kind, found, names, asked_at, told)

    def _with_unreadable(self, kind: Kind, names: frozenset[str]) -> frozenset[str]:
        """Datasets of a pool that is there and cannot be read are not gone; their last state is kept."""
        if kind is not Kind.DATASET or not self._unreadable:
            return names
        return names | {name for name in self._datasets if name.partition("/")[0] in self._unreadable}

    async def _emit_page(self, kind: Kind, page: inventory.Page, asked_at: float) -> None:
        for at in range(0, len(page), _CHUNK):
            chunk = page[at : at + _CHUNK]
            await self._emit([Seen(self._ref(kind, name), value, asked_at) for name, value in chunk])
            await asyncio.sleep(0)

    def _note(
        self,
        kind: Kind,
        found: Mapping[str, Value],
        names: frozenset[str],
        asked_at: float,
        told: tuple[Mapping[str, Told], float],
    ) -> None:
        """Keeps what the next readings of this or another kind go by.

        Args:
            told: what the datasets had said of their snapshots when this list began, and when they did.
        """
        match kind:
            case Kind.POOL:
                pools = [value for value in found.values() if isinstance(value, Pool)]
                self._unreadable = frozenset(p.name for p in pools if p.status not in _READABLE)
            case Kind.SYSTEM:
                for value in found.values():
                    self._version = value.version if isinstance(value, System) else ""
            case Kind.DATASET:
                self._datasets = names
                self._held.datasets(names, found, asked_at)
            case Kind.SNAPSHOT:
                self._held.listed(found, asked_at, told)

    async def _follow_snapshots(self, session: Session) -> None:
        """Reads the snapshots of those datasets that say that theirs have changed."""
        async with self._locks[Kind.SNAPSHOT]:
            if Kind.SNAPSHOT in self._failing or self._listed_at[Kind.SNAPSHOT] == float("-inf"):
                return
            due = self._held.due()
            if not due:
                return
            held, asked_at = self._held.of(due), self._clock.ticks()
            found: dict[str, Value] = {}
            try:
                async for page in inventory.snapshots_of(session, self._held.still_there(due), held):
                    found.update(page)
                    # Of what was known, only the name has been read now.
                    read = [(name, value) for name, value in page if value is not held.get(name)]
                    await self._emit_page(Kind.SNAPSHOT, read, asked_at)
            except (CallFailed, AccessDenied, SourceUnavailable) as error:
                self._held.failed(due)
                if not session.alive:
                    raise SourceUnavailable(self._settings.name, str(error)) from error
                return
            gone = [Gone(self._ref(Kind.SNAPSHOT, name), asked_at) for name in held.keys() - found.keys()]
            await self._emit(gone)
            self._held.read(due, found, asked_at)

    async def _read(self, ref: Ref, session: Session, lists: Lists | None = None) -> Observation:
        asked_at = self._clock.ticks()
        try:
            value = await inventory.read(ref.kind, ref.name, session, self._settings.name, lists)
        except CallFailed as error:
            raise SourceUnavailable(self._settings.name, error.reason) from error
        except inventory.NotTold as error:
            raise SourceUnavailable(self._settings.name, error.reason) from error
        self._heard_at = self._clock.ticks()
        if ref.kind is Kind.SNAPSHOT:
            self._held.single(ref.name, value, asked_at)
        return Gone(ref, asked_at) if value is None else Seen(ref, value, asked_at)

    def _ref(self, kind: Kind, name: str) -> Ref:
        return Ref(self._settings.name, kind, name)

    # What the NAS does

    async def _watch_performance(self, session: Session) -> None:
        """Passes on what the NAS tells of itself; a NAS that tells nothing is asked, if it may be."""
        every = self._pace.performance.total_seconds()
        subscribed = await self._subscribed_to_performance(session, round(every))
        if not subscribed:
            every = self._pace.performance_by_query.total_seconds()
        while True:
            value: Performance | None = None
            if self._sample is not None:
                value, self._sample = decode.performance(msgspec.json.decode(self._sample)), None
            elif not subscribed:
                value = await self._asked_for_performance(session)
            if value is not None:
                ref = self._ref(Kind.PERFORMANCE, self._settings.name)
                await self._emit([Seen(ref, value, self._clock.ticks())])
            await asyncio.sleep(every)

    async def _subscribed_to_performance(self, session: Session, seconds: int) -> bool:
        interval = msgspec.json.encode({"interval": max(2, seconds)}).decode()
        for collection in (f"{_REALTIME}:{interval}", _REALTIME):
            try:
                await session.subscribe(collection)
            except (CallFailed, SourceUnavailable) as error:
                if not session.alive:
                    raise SourceUnavailable(self._settings.name, str(error)) from error
            else:
                return True
        return False

    async def _asked_for_performance(self, session: Session) -> Performance | None:
        try:
            return await inventory.performance(session)
        except (AccessDenied, SourceUnavailable, CallFailed) as error:
            if not session.alive:
                raise SourceUnavailable(self._settings.name, str(error)) from error
            return None

    # Hints

    def _hint(self, change: Change) -> None:
        if change.collection.partition(":")[0] == _REALTIME:
            self._sample = change.fields
            return
        if (what := hinted(change)) is not None:
            self._hints[what] = None
            self._hinted.set()

    async def _follow_hints(self, session: Session) -> None:
        """Waits a little, because one change is announced several times, then reads what was hinted at."""
        while True:
            await self._hinted.wait()
            await asyncio.sleep(self._pace.debounce.total_seconds())
            self._hinted.clear()
            hints, self._hints = self._hints, {}
            for kind, name in _economical(hints, walks=inventory.walks(session)):
                if name:
                    await self._follow_hint(self._ref(kind, name), session)
                else:
                    await self._list_or_lose(kind, session)

    async def _follow_hint(self, ref: Ref, session: Session) -> None:
        """What cannot be read now is found by the periodic reading."""
        try:
            await self._emit([await self._read(ref, session)])
        except (AccessDenied, SourceUnavailable):
            if not session.alive:
                raise
            log.debug("hint not followed", source=self._settings.name, kind=ref.kind.value)


def _expected(failures: ExceptionGroup[Exception]) -> Exception:
    """Why a connection's work ended, refused credentials first; a bug stays the group that it is."""
    expected, bugs = failures.split(TruetallyError)
    if bugs is not None or expected is None:
        return failures
    tells = [each for each in expected.exceptions if isinstance(each, CredentialsRefused | Standby)]
    return (tells or expected.exceptions)[0]


def _economical(hints: Mapping[tuple[Kind, str], None], *, walks: bool) -> list[tuple[Kind, str]]:
    """One object each, or the whole kind where that is cheaper.

    Args:
        walks: a single dataset is only read by a walk over all.
    """
    by_kind: dict[Kind, list[str]] = {}
    for kind, name in hints:
        by_kind.setdefault(kind, []).append(name)
    found: list[tuple[Kind, str]] = []
    for kind, names in by_kind.items():
        most = 1 if walks and kind is Kind.DATASET else _MANY_HINTS
        if "" in names or len(names) > most:
            found.append((kind, ""))
        else:
            found += [(kind, name) for name in names]
    return found
