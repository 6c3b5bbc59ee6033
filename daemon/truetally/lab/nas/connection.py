"""One WebSocket of the NAS: its session, its calls in flight and what it has yet to be sent.

What is spoken on it is the wire's; the limits, the order and the faults are the same for all.
"""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from truetally.lab.nas.core import REALTIME, may_see_job, outcome, sampled_every, subscribe, when_ended
from truetally.lab.nas.failures import CallError, Invalid, NasRefusal, TooManyCalls
from truetally.lab.nas.faults import Fault, Kind
from truetally.lab.nas.limits import (
    ANONYMOUS_BYTES,
    CALLS_IN_FLIGHT,
    MESSAGE_BYTES,
    MESSAGE_LIMIT_SINCE,
    RATE_LIMIT_SINCE,
    RUNNING_CALLS,
    SESSION_AGE_SINCE,
)
from truetally.lab.nas.logins import failed
from truetally.lab.nas.machine import Event, Row
from truetally.lab.nas.methods import METHODS, Caller, call, find
from truetally.lab.nas.reporting import realtime
from truetally.lab.nas.wire import Act, Hangup, Request, Wire

if TYPE_CHECKING:
    from truetally.lab.nas.server import LabNas

_Frame = tuple[WSMsgType, bytes]


class Connection:
    """One WebSocket.

    Args:
        socket: made with `autoping=False`, so that a stalled NAS does not answer pings either.
        remote: the address that the rate limit counts.
    """

    def __init__(
        self,
        nas: LabNas,
        request: web.Request,
        socket: web.WebSocketResponse,
        wire: Wire,
        caller: Caller,
        remote: str,
    ) -> None:
        self.nas = nas
        self.wire = wire
        self.caller = caller
        self._request = request
        self._socket = socket
        self._remote = remote
        self._calls: set[asyncio.Task[None]] = set()
        self._running = asyncio.Semaphore(RUNNING_CALLS)
        # Unbounded on purpose: a real NAS sends results of any size too, and the lab is a test's own.
        self._outgoing: asyncio.Queue[_Frame] = asyncio.Queue()
        self._held: list[bytes] = []
        self._samplers: dict[str, asyncio.Task[None]] = {}
        self._said_at = asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Serve it until it ends."""
        self.nas.connections.add(self)
        helpers = [
            asyncio.create_task(self._write(), name="lab NAS writer"),
            asyncio.create_task(self._close_when_idle(), name="lab NAS front proxy"),
        ]
        try:
            await self._read()
        finally:
            self.nas.connections.discard(self)
            self._end_calls()
            helpers += self._samplers.values()
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, *self._calls, return_exceptions=True)

    def abort(self) -> None:
        """Break the connection without a word."""
        for task in self._calls:
            task.cancel()
        if self._request.transport is not None:
            self._request.transport.abort()

    def hears(self, event: Event) -> bool:
        """Whether it has subscribed to such an event, and may hear of this one."""
        names = {name.partition(":")[0] for name in self.caller.subscriptions.values()}
        if event.collection not in names and "*" not in names:
            return False
        return event.collection != "core.get_jobs" or may_see_job(self.caller, event.fields or {})

    def send(self, payload: bytes) -> None:
        """Send a message in its turn."""
        self._outgoing.put_nowait((WSMsgType.TEXT, payload))

    def end_subscription(self, collection: str, refused: NasRefusal | None = None) -> None:
        """Send no more events of a collection, and say so."""
        gone = [ident for ident, name in self.caller.subscriptions.items() if name == collection]
        for ident in gone:
            del self.caller.subscriptions[ident]
        if gone:
            self.send(msgspec.json.encode(self.wire.unsubscribed(collection, refused)))

    def attend(self) -> None:
        """Begin to sample for whoever has subscribed to samples, and end it for whoever has no more."""
        subscriptions = self.caller.subscriptions
        for ident in self._samplers.keys() - subscriptions.keys():
            self._samplers.pop(ident).cancel()
        for ident, name in subscriptions.items():
            if name.partition(":")[0] == REALTIME and ident not in self._samplers:
                self._samplers[ident] = asyncio.create_task(self._sample(name), name="lab NAS sampler")

    async def _sample(self, collection: str) -> None:
        try:
            seconds = sampled_every(collection)
        except Invalid as refused:
            self.end_subscription(collection, refused)
            return
        while True:
            if not self.nas.faults.loses(REALTIME):
                told = Event("added", collection, None, realtime(self.nas.machine))
                self.send(msgspec.json.encode(self.wire.event(told.params())))
            await asyncio.sleep(seconds)

    def _end_calls(self) -> None:
        # Up to 25.10 calls go on when their client is gone; 26 cancels them.
        if self.nas.machine.number >= (26, 0):
            for task in self._calls:
                task.cancel()

    async def _write(self) -> None:
        while True:
            kind, payload = await self._outgoing.get()
            await self.nas.awake.wait()
            try:
                await self._socket.send_frame(payload, kind)
            except (ConnectionError, RuntimeError):
                return
            self._said_at = asyncio.get_running_loop().time()

    async def _close_when_idle(self) -> None:
        loop = asyncio.get_running_loop()
        while (left := self._said_at + self.nas.idle_close - loop.time()) > 0:
            await asyncio.sleep(left)
        if self._request.transport is not None:
            self._request.transport.close()

    async def _read(self) -> None:
        async for message in self._socket:
            await self.nas.awake.wait()
            if message.type is WSMsgType.PING:
                self._outgoing.put_nowait((WSMsgType.PONG, message.data))
                continue
            if message.type is WSMsgType.PONG:
                continue
            refused = self._refused(message.type, message.data)
            if refused is not None:
                await self._close(*refused)
                return
            try:
                self._receive(message.data)
            except Hangup as hangup:
                await self._close(hangup.code, str(hangup))
                return

    def _refused(self, kind: WSMsgType, data: Any) -> tuple[int, str] | None:
        if kind is not WSMsgType.TEXT:
            return WSCloseCode.UNSUPPORTED_DATA, "Only text messages are supported"
        size = len(data.encode())
        if self.caller.key is None and size > ANONYMOUS_BYTES:
            return WSCloseCode.INVALID_TEXT, "Anonymous connection max message length is 8 kB"
        if size > MESSAGE_BYTES and self.nas.machine.number >= MESSAGE_LIMIT_SINCE:
            return WSCloseCode.MESSAGE_TOO_BIG, "Max message length is 64 kB"
        return None

    async def _close(self, code: int, reason: str) -> None:
        await self._socket.close(code=code, message=reason.encode())

    def _receive(self, text: str) -> None:
        request = self.wire.read(text)
        if not isinstance(request, Request):
            if request:
                self.send(msgspec.json.encode(request))
            return
        if len(self._calls) >= CALLS_IN_FLIGHT:
            self._answer(request, self.wire.refusal(request, TooManyCalls()))
            return
        task = asyncio.create_task(self._call(request), name=f"lab NAS {request.method}")
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call(self, request: Request) -> None:
        async with self._running:
            fault = self.nas.faults.meet(request.method)
            kind = fault.kind if fault is not None else None
            await asyncio.sleep(self.nas.faults.seconds(request.method))
            if kind is Kind.STALL:
                self.nas.stall()
            if kind is Kind.RESTART:
                self.nas.restart_soon()
                return
            try:
                value = await self._perform(request, fault)
                self.attend()
            except NasRefusal as refused:
                self._answer(request, self.wire.refusal(request, refused))
                return
        if kind is Kind.DROP:
            return
        if kind is Kind.TRUNCATE and isinstance(value, list):
            value = value[: len(value) // 2]
        reply = self.wire.result(request, value)
        if kind is Kind.CUT:
            self._cut(msgspec.json.encode(reply))
        elif kind is Kind.HOLD:
            self._held.append(msgspec.json.encode(reply))
        else:
            self._answer(request, reply)

    async def _perform(self, request: Request, fault: Fault | None) -> Any:
        if fault is not None and fault.kind is Kind.ERROR:
            raise CallError(fault.reason, fault.number)
        self._end_session()
        match request.act:
            case Act.CONNECT:
                return None
            case Act.SUBSCRIBE:
                return subscribe(self.caller, request.id, request.params[0])
            case Act.UNSUBSCRIBE:
                return self.caller.subscriptions.pop(request.id, None)
        self._check_rate(request)
        value = call(self.caller, request.method, request.params)
        if failed(request.method, value):
            await asyncio.sleep(self.nas.login_penalty)
        return await self._job(request, value) if METHODS[request.method].job else value

    def _end_session(self) -> None:
        """Refuse the call, and log out, if the session has become too old."""
        machine, since = self.nas.machine, self.caller.logged_in_at
        if (
            since is None
            or machine.number < SESSION_AGE_SINCE
            or machine.now() - since < self.nas.session_age
        ):
            return
        self.caller.log_out()
        self.attend()
        raise CallError("Session is expired", errno.EACCES)

    async def _job(self, request: Request, number: int) -> Any:
        row = self.nas.machine.jobs[number - 1]
        row["message_ids"].append(request.id)
        if not self.wire.awaits_jobs or self.caller.options["legacy_jobs"]:
            return number
        ended: asyncio.Future[Row] = asyncio.get_running_loop().create_future()
        when_ended(self.nas.machine, number, lambda row: None if ended.done() else ended.set_result(row))
        return outcome(await ended)

    def _check_rate(self, request: Request) -> None:
        if self.nas.machine.number < RATE_LIMIT_SINCE or self.caller.key is not None:
            return
        if not find(self.caller, request.method).is_public(self.caller):
            return
        if self.nas.rate_limit.exceeded(request.method, self._remote, self.nas.machine.now()):
            raise CallError("Rate Limit Exceeded", errno.EBUSY)

    def _answer(self, request: Request, reply: Row) -> None:
        if request.silent:
            return
        self.send(msgspec.json.encode(reply))
        while self._held:
            self.send(self._held.pop(0))

    def _cut(self, payload: bytes) -> None:
        """Send the header of a text frame and half of what it promises, and hang up."""
        transport = self._request.transport
        if transport is not None:
            header = bytes((0x81, 127)) + len(payload).to_bytes(8, "big")
            transport.write(header + payload[: len(payload) // 2])
            transport.close()
