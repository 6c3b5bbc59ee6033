"""One websocket to one TrueNAS: calls, heartbeat, hints. What is spoken on it is the generation's `wire`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import msgspec
import structlog
import tenacity

from truetally.errors import AccessDenied, SourceUnavailable, TruetallyError
from truetally.sources.truenas.calls import CallFailed, Change, Fault, Message, Reply, Unsubscribed
from truetally.sources.truenas.generations import Generation

log = structlog.get_logger(__name__)

# The server runs 10 calls of a connection and queues 10 more; the 21st is refused (middleware 22.12 to 27).
_IN_FLIGHT = 8
_PING_EVERY, _PING_WITHIN = 20.0, 15.0
_FIRST_LOOK, _LAST_LOOK = 0.1, 5.0

# The server refuses a call while twenty of this connection are under way.
_while_busy = tenacity.AsyncRetrying(
    retry=tenacity.retry_if_exception(lambda e: isinstance(e, CallFailed) and e.fault is Fault.BUSY),
    wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=10),
    stop=tenacity.stop_after_attempt(4),
    reraise=True,
)


class Traffic:
    """What was asked and what came, since the daemon began; the bytes are those of the messages, unpacked."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.received_bytes = 0


class _Job(msgspec.Struct):
    state: str = ""
    result: Any = None
    error: str | None = None


class Session:
    """An open connection.

    Args:
        name: of the NAS, for messages.
        call_timeout: seconds that a call may take.
        log_in_again: what to do when the server has forgotten who we are.
        hint: takes every event.

    Attributes:
        generation: what this server can do.
        denied: methods that our user may not call, as far as one was refused on this connection.
    """

    def __init__(
        self,
        name: str,
        generation: Generation,
        socket: aiohttp.ClientWebSocketResponse,
        *,
        call_timeout: float,
        log_in_again: Callable[[Session], Awaitable[None]],
        hint: Callable[[Change], None],
        traffic: Traffic | None = None,
    ) -> None:
        self.generation = generation
        self._name = name
        self._timeout = call_timeout
        self._socket = socket
        self._login = log_in_again
        self._hint = hint
        self._traffic = traffic or Traffic()
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._relogin = asyncio.Lock()
        self._logins = 0
        self._number = 0
        self._broken = False
        self._why: TruetallyError | None = None
        self.denied: set[str] = set()

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, so that a call that failed has failed alone."""
        return not self._broken and not self._socket.closed

    async def run(self) -> None:
        """Reads and keeps the connection alive until it breaks; always raises why it did."""
        heart = asyncio.create_task(self._beat(), name=f"{self._name} heartbeat")
        try:
            await self._read()
        finally:
            heart.cancel()
            self._give_up()
        if heart.done() and not heart.cancelled() and (bug := heart.exception()) is not None:
            raise bug
        raise self._why or SourceUnavailable(self._name, "the connection was closed by the NAS")

    async def call(self, method: str, *params: Any, type_: Any = Any, timeout: float | None = None) -> Any:
        """The result of a call, decoded as `type_`.

        Raises:
            CallFailed: the NAS answered with an error that the caller may know what to do about.
            SourceUnavailable: no answer in time, or the connection broke; the connection itself stays open
                after a time-out, and a late answer is dropped.
        """
        logins = self._logins
        try:
            return await _while_busy(self._call, method, params, type_, timeout)
        except CallFailed as error:
            if error.fault is not Fault.NOT_AUTHENTICATED:
                raise
        await self._log_in_again(logins)
        return await _while_busy(self._call, method, params, type_, timeout)

    async def job(self, method: str, *params: Any, within: float = 3600.0) -> Any:
        """Runs a method that is a job, and gives its result: the call itself only answers with the job's id.

        Raises:
            CallFailed: the job failed or was aborted.
            SourceUnavailable: it did not end within so many seconds, or the connection broke; it goes on.
        """
        number = await self.call(method, *params, type_=int)
        pause = _FIRST_LOOK
        try:
            async with asyncio.timeout(within):
                while True:
                    found = await self.call("core.get_jobs", [["id", "=", number]], {}, type_=list[_Job])
                    if not found:
                        raise CallFailed(Fault.NOT_FOUND, f"the job of {method} is not known any more")
                    if found[0].state == "SUCCESS":
                        return found[0].result
                    if found[0].state in ("FAILED", "ABORTED"):
                        raise CallFailed(Fault.FAILED, found[0].error or f"{method} was aborted")
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LAST_LOOK)
        except TimeoutError as error:
            raise SourceUnavailable(self._name, f"{method} has not ended after {within:.0f} s") from error

    async def raw_call(self, method: str, *params: Any, type_: Any = Any) -> Any:
        """As `call()`, once and without a login: for logging in itself."""
        return await self._call(method, params, type_, None)

    async def subscribe(self, collection: str) -> None:
        """Subscribes to a collection; `reporting.realtime` takes its parameters as JSON after a colon.

        Raises:
            CallFailed: it is refused.
            SourceUnavailable: no answer in time, or the connection broke.
        """
        await self._ask(
            f"subscribe {collection}", lambda n: self.generation.wire.subscription(n, collection), None
        )

    async def permitted(self, role: str, method: str, *params: Any, type_: Any = Any) -> Any:
        """As `call()`, for a read that a role may lack.

        Raises:
            AccessDenied: naming the role to grant.
        """
        try:
            return await self.call(method, *params, type_=type_)
        except CallFailed as error:
            if error.fault is Fault.NOT_PERMITTED:
                self.denied.add(method)
                grant = f"give our user's group a privilege with the role READONLY_ADMIN or {role}"
                raise AccessDenied(self._name, f"call {method}", grant) from error
            if error.fault is Fault.NO_METHOD:
                raise SourceUnavailable(self._name, f"this TrueNAS version has no {method}") from error
            raise SourceUnavailable(self._name, f"{method} failed: {error.reason}") from error

    async def _call(self, method: str, params: Sequence[Any], type_: Any, timeout: float | None) -> Any:
        result = await self._ask(method, self._framed(method, params), timeout)
        try:
            return msgspec.json.decode(result, type=type_)
        except msgspec.DecodeError as error:
            raise SourceUnavailable(self._name, f"the answer to {method} cannot be read: {error}") from error

    def _framed(self, method: str, params: Sequence[Any]) -> Callable[[int], str]:
        return lambda number: self.generation.wire.request(number, method, params)

    async def _ask(self, what: str, frame: Callable[[int], str], timeout: float | None) -> msgspec.Raw:
        async with self._slots:
            return await self._exchange(what, frame, timeout)

    async def _exchange(self, what: str, frame: Callable[[int], str], timeout: float | None) -> msgspec.Raw:
        self._number += 1
        number = self._number
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._traffic.calls[what] += 1
        try:
            await self._socket.send_str(frame(number))
            async with asyncio.timeout(timeout or self._timeout):
                reply = await answer
        except TimeoutError as error:
            raise SourceUnavailable(self._name, f"{what} was not answered in time") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            self._broken = True
            raise SourceUnavailable(self._name, "the connection broke") from error
        finally:
            self._waiting.pop(number, None)
        if reply.failure is not None:
            raise reply.failure
        result: msgspec.Raw = reply.result
        return result

    async def _log_in_again(self, logins: int) -> None:
        """The NAS may forget a login while the socket lives; one login serves all calls that noticed."""
        async with self._relogin:
            if self._logins == logins:
                log.info("logging in again", source=self._name)
                try:
                    await self._login(self)
                except TruetallyError as error:
                    # Its socket would live on, and every call would try a login of its own.
                    self._broken, self._why = True, error
                    await self._socket.close()
                    raise
                self._logins += 1

    async def _read(self) -> None:
        read = self.generation.wire.read
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            self._traffic.received_bytes += len(message.data)
            try:
                told = read(message.data)
            except msgspec.DecodeError as error:
                raise SourceUnavailable(self._name, "a message of the NAS cannot be read") from error
            self._take(told)

    def _take(self, told: Message | None) -> None:
        match told:
            case Change():
                self._hint(told)
            case Reply() if (waiting := self._waiting.get(told.number)) and not waiting.done():
                waiting.set_result(told)
            case Unsubscribed():
                # Whatever it was, the periodic reading finds it, too.
                log.warning(
                    "subscription ended", source=self._name, collection=told.collection, reason=told.reason
                )

    def _give_up(self) -> None:
        self._broken = True
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(SourceUnavailable(self._name, "the connection broke"))

    async def _beat(self) -> None:
        """nginx closes a socket that is silent for 60 s (up to 25.10), and a dead peer says nothing."""
        while True:
            await asyncio.sleep(_PING_EVERY)
            try:
                # Beside the calls: behind eight of them that hang it would be late.
                await self._exchange("core.ping", self._framed("core.ping", ()), _PING_WITHIN)
            except CallFailed:
                continue  # an error is an answer, too
            except TruetallyError:
                log.warning("heartbeat unanswered", source=self._name)
                await self._socket.close()
                return
