"""The NAS on a socket: JSON-RPC as 25.04 and newer speak it, and the older protocol of `/websocket`.

Every call is a task of its own, so replies come in the order in which calls end, and
the event of a change comes before the reply to the call that made it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec
import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from truetally.clock import Clock
from truetally.lab.nas import rest
from truetally.lab.nas.core import may_see_job, subscribe
from truetally.lab.nas.ddp import Ddp
from truetally.lab.nas.envelope import JsonRpc
from truetally.lab.nas.failures import CallError, NasRefusal, TooManyCalls
from truetally.lab.nas.faults import Faults, Kind
from truetally.lab.nas.limits import (
    ANONYMOUS_BYTES,
    CALLS_IN_FLIGHT,
    MESSAGE_BYTES,
    MESSAGE_LIMIT_SINCE,
    RATE_LIMIT_SINCE,
    RUNNING_CALLS,
    RateLimit,
)
from truetally.lab.nas.machine import ApiKey, Event, Machine, Row, Ssh, Version
from truetally.lab.nas.methods import Caller, call, find
from truetally.lab.nas.wire import Act, Hangup, Request, Wire
from truetally.lab.nas.zfs import Zfs

log = structlog.get_logger(__name__)

ENDPOINTS = (
    *(f"v25.04.{patch}" for patch in range(3)),
    *(f"v25.10.{patch}" for patch in range(6)),
    "v26.0.0",
)
JSON_RPC_SINCE: Version = (25, 4)
_STOP_WITHIN = 2.0


def _number(endpoint: str) -> Version:
    major, minor, *_ = endpoint.removeprefix("v").split(".")
    return int(major), int(minor)


class LabNas:
    """A NAS to try truetally on.

    Attributes:
        machine: its state; change it here and subscribers are told.
        ssh: changes underneath the middleware, of which nobody is told.
        faults: what shall go wrong.
        remote_address: pretend that new connections come from here (a test of key revocation).
    """

    def __init__(
        self,
        version: str = "25.10",
        *,
        now: Clock | Callable[[], datetime] | None = None,
        tls: ssl.SSLContext | None = None,
        hostname: str = "lab-nas",
    ) -> None:
        self.machine = Machine(version, hostname=hostname, now=now)
        self.ssh = Ssh(self.machine)
        self.faults = Faults()
        self.remote_address: str | None = None
        self.connections: set[_Connection] = set()
        self.rate_limit = RateLimit()
        self.awake = asyncio.Event()
        self.awake.set()
        self._tls = tls
        self._runner: web.AppRunner | None = None
        self._address = ("127.0.0.1", 0)
        self._administrator = Caller(
            self.machine, key=ApiKey(0, "root", "", frozenset(("FULL_ADMIN",)), self.machine.now())
        )

    @property
    def zfs(self) -> Zfs:
        """The pools and datasets, to look at or to change without telling."""
        return self.machine.zfs

    @property
    def url(self) -> str:
        """Where it answers, as a configuration names it."""
        host, port = self._address
        return f"{'wss' if self._tls else 'ws'}://{host}:{port}"

    @property
    def port(self) -> int:
        """Where it listens; `start(port=…)` with it comes back at the same address."""
        return self._address[1]

    def add_key(
        self,
        username: str = "truetally",
        roles: Iterable[str] = ("READONLY_ADMIN",),
        *,
        expires_at: datetime | None = None,
        allowlist: Iterable[tuple[str, str]] | None = None,
    ) -> str:
        """A new API key; its text. An allowlist is for 22.12 to 24.10, where it counts and roles do not."""
        return self.machine.add_key(username, roles, expires_at=expires_at, allowlist=allowlist).text

    def revoke_key(self, text: str) -> None:
        """Take a key away; sessions that are logged in stay so, see `lose_logins`."""
        self.machine.revoke(self._key(text))

    def expire_key(self, text: str) -> None:
        """Let a key's time be over, as if its owner had set an end; no alert tells of it."""
        self._key(text).expires_at = self.machine.now()

    def set_roles(self, text: str, roles: Iterable[str]) -> None:
        """Change what the owner of a key may do; a session that is logged in feels it at its next call."""
        self._key(text).roles = frozenset(roles)

    def _key(self, text: str) -> ApiKey:
        return self.machine.keys[int(text.partition("-")[0])]

    def call(self, method: str, *params: Any) -> Any:
        """Call a method as root, as the web UI would: subscribers are told of what it changes."""
        return call(self._administrator, method, params)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; the URL."""
        app = web.Application()
        app.router.add_get("/websocket", self._websocket)
        if self.machine.number >= JSON_RPC_SINCE:
            app.router.add_get("/api/versions", self._versions)
            app.router.add_get("/api/{endpoint}", self._endpoint)
        app.router.add_routes(rest.routes(self))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_WITHIN)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, ssl_context=self._tls, reuse_address=True)
        await site.start()
        self._address = (host, self._runner.addresses[0][1])
        self.machine.listeners.append(self._tell)
        log.info("lab NAS started", url=self.url, version=self.machine.version)
        return self.url

    async def stop(self) -> None:
        """Close every connection, and listen no more."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        self.machine.listeners.remove(self._tell)
        self.awake.set()
        self.drop_connections()
        await runner.cleanup()

    async def restart(self, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
        """Stop and start at the same address, as a reboot; `meanwhile` runs while it is down."""
        host, port = self._address
        await self.stop()
        if meanwhile is not None:
            await meanwhile()
        await self.start(host, port)

    def lose_logins(self) -> None:
        """Let every session be logged out while its socket stays, as after a session's end."""
        for connection in self.connections:
            connection.caller.key = None
            connection.caller.subscriptions.clear()

    def drop_connections(self) -> None:
        """Break every connection without a word, and go on listening."""
        for connection in list(self.connections):
            connection.abort()

    def stall(self) -> None:
        """Say nothing more, with all sockets open."""
        self.awake.clear()

    def resume(self) -> None:
        """Say what was held back, and go on."""
        self.awake.set()

    def _tell(self, event: Event) -> None:
        payloads: dict[type[Wire], bytes] = {}
        for connection in self.connections:
            if connection.hears(event):
                kind = type(connection.wire)
                if kind not in payloads:
                    payloads[kind] = msgspec.json.encode(connection.wire.event(event.params()))
                connection.send(payloads[kind])

    def _endpoints(self) -> list[str]:
        return [each for each in ENDPOINTS if _number(each) <= self.machine.number]

    async def _versions(self, _: web.Request) -> web.Response:
        await self.awake.wait()
        return web.json_response(self._endpoints())

    async def _endpoint(self, request: web.Request) -> web.StreamResponse:
        endpoint = request.match_info["endpoint"]
        if endpoint != "current" and endpoint not in self._endpoints():
            raise web.HTTPNotFound
        pinned = None if endpoint == "current" else _number(endpoint)
        return await self._converse(request, JsonRpc(), pinned)

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        return await self._converse(request, Ddp(), None)

    async def _converse(
        self, request: web.Request, wire: Wire, pinned: Version | None
    ) -> web.WebSocketResponse:
        await self.awake.wait()
        # Frames are compressed for whoever offers it, as aiohttp does unless told otherwise (inferred of
        # the real one: its front proxy could drop the extension).
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        remote = self.remote_address or request.remote or "127.0.0.1"
        secure = request.secure or ipaddress.ip_address(remote).is_loopback
        caller = Caller(self.machine, secure=secure, pinned=pinned)
        await _Connection(self, request, socket, wire, caller, remote).run()
        return socket


class _Connection:
    """One WebSocket: its session, its calls in flight and what it has yet to be sent."""

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
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()

    async def run(self) -> None:
        self.nas.connections.add(self)
        writer = asyncio.create_task(self._write(), name="lab NAS writer")
        try:
            await self._read()
        finally:
            self.nas.connections.discard(self)
            self._end_calls()
            writer.cancel()
            await asyncio.gather(writer, *self._calls, return_exceptions=True)

    def abort(self) -> None:
        """Break the connection without a word."""
        for task in self._calls:
            task.cancel()
        if self._request.transport is not None:
            self._request.transport.abort()

    def hears(self, event: Event) -> bool:
        names = {name.partition(":")[0] for name in self.caller.subscriptions.values()}
        if event.collection not in names and "*" not in names:
            return False
        return event.collection != "core.get_jobs" or may_see_job(self.caller, event.fields or {})

    def send(self, payload: bytes) -> None:
        self._outgoing.put_nowait(payload)

    def _end_calls(self) -> None:
        # Up to 25.10 calls go on when their client is gone; 26 cancels them.
        if self.nas.machine.number >= (26, 0):
            for task in self._calls:
                task.cancel()

    async def _write(self) -> None:
        while True:
            payload = await self._outgoing.get()
            await self.nas.awake.wait()
            try:
                await self._socket.send_frame(payload, WSMsgType.TEXT)
            except (ConnectionError, RuntimeError):
                return

    async def _read(self) -> None:
        async for message in self._socket:
            await self.nas.awake.wait()
            if message.type is not WSMsgType.TEXT:
                await self._close(WSCloseCode.UNSUPPORTED_DATA, "Only text messages are supported")
                return
            size = len(message.data.encode())
            if self.caller.key is None and size > ANONYMOUS_BYTES:
                await self._close(WSCloseCode.INVALID_TEXT, "Anonymous connection max message length is 8 kB")
                return
            if size > MESSAGE_BYTES and self.nas.machine.number >= MESSAGE_LIMIT_SINCE:
                await self._close(WSCloseCode.MESSAGE_TOO_BIG, "Max message length is 64 kB")
                return
            try:
                self._receive(message.data)
            except Hangup as hangup:
                await self._close(hangup.code, str(hangup))
                return

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
            await asyncio.sleep(self.nas.faults.seconds(request.method))
            try:
                if fault is not None and fault.kind is Kind.ERROR:
                    raise CallError(fault.reason, fault.number)
                value = self._perform(request)
            except NasRefusal as refused:
                self._answer(request, self.wire.refusal(request, refused))
                return
        kind = fault.kind if fault is not None else None
        if kind is Kind.DROP:
            return
        if kind is Kind.TRUNCATE and isinstance(value, list):
            value = value[: len(value) // 2]
        reply = self.wire.result(request, value)
        if kind is Kind.CUT:
            self._cut(msgspec.json.encode(reply))
            return
        self._answer(request, reply)

    def _perform(self, request: Request) -> Any:
        match request.act:
            case Act.SUBSCRIBE:
                return subscribe(self.caller, request.id, request.params[0])
            case Act.UNSUBSCRIBE:
                return self.caller.subscriptions.pop(request.id, None)
        self._check_rate(request)
        return call(self.caller, request.method, request.params)

    def _check_rate(self, request: Request) -> None:
        if self.nas.machine.number < RATE_LIMIT_SINCE or self.caller.key is not None:
            return
        if not find(self.caller, request.method).public:
            return
        if self.nas.rate_limit.exceeded(request.method, self._remote, self.nas.machine.now()):
            raise CallError("Rate Limit Exceeded", errno.EBUSY)

    def _answer(self, request: Request, reply: Row) -> None:
        if not request.silent:
            self.send(msgspec.json.encode(reply))

    def _cut(self, payload: bytes) -> None:
        """Send the header of a text frame and half of what it promises, and hang up."""
        transport = self._request.transport
        if transport is not None:
            header = bytes((0x81, 127)) + len(payload).to_bytes(8, "big")
            transport.write(header + payload[: len(payload) // 2])
            transport.close()


async def serve(version: str = "25.10", *, host: str = "127.0.0.1", port: int = 0) -> None:
    """Run a lab NAS with one pool and a full-admin key until cancelled, as a process of its own."""
    nas = LabNas(version)
    nas.zfs.create_pool("tank")
    key = nas.add_key("root", ("FULL_ADMIN",))
    url = await nas.start(host, port)
    print(msgspec.json.encode({"url": url, "username": "root", "api_key": key}).decode(), flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await nas.stop()
