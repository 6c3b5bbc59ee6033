"""The NAS on a socket: JSON-RPC as 25.04 and newer speak it, and the older protocol of `/websocket`.

Every call is a task of its own, so replies come in the order in which calls end, and
the event of a change comes before the reply to the call that made it.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import structlog
from aiohttp import WSCloseCode, web

from truetally.clock import Clock
from truetally.lab.nas import control, pools, rest
from truetally.lab.nas.connection import Connection
from truetally.lab.nas.ddp import Ddp
from truetally.lab.nas.envelope import JsonRpc
from truetally.lab.nas.faults import Faults, Kind
from truetally.lab.nas.limits import SESSION_AGE, RateLimit, idle_close
from truetally.lab.nas.machine import ApiKey, Event, Machine, User, Version
from truetally.lab.nas.methods import Caller, call
from truetally.lab.nas.ssh import Ssh
from truetally.lab.nas.wire import Wire
from truetally.lab.nas.zfs import Zfs

log = structlog.get_logger(__name__)

ENDPOINTS = (
    *(f"v25.04.{patch}" for patch in range(3)),
    *(f"v25.10.{patch}" for patch in range(6)),
    "v26.0.0",
)
JSON_RPC_SINCE: Version = (25, 4)
_STOP_WITHIN = 2.0
_BACK_WITHIN, _AGAIN_AFTER = 10.0, 0.02
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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
        idle_close: seconds without a word from the NAS after which the front proxy closes a connection.
        login_penalty: seconds that a login takes if it fails.
        session_age: how old a session can get.

    Args:
        login_penalty: how long a login that fails takes; the real NAS needs one or two seconds.
        session_age: after this, by the clock of the machine, a session must log in again (25.04+).
        control: whether `/lab/` answers, see control.py.
        scans_told_every: how often subscribers are told how far a scrub or resilver is.
    """

    def __init__(
        self,
        version: str = "25.10",
        *,
        now: Clock | Callable[[], datetime] | None = None,
        tls: ssl.SSLContext | None = None,
        hostname: str = "lab-nas",
        idle_close_after: timedelta | None = None,
        control: bool = False,
        scans_told_every: timedelta = pools.TOLD_EVERY,
        login_penalty: timedelta = timedelta(0),
        session_age: timedelta = SESSION_AGE,
    ) -> None:
        self.machine = Machine(version, hostname=hostname, now=now)
        self.ssh = Ssh(self.machine)
        self.faults = Faults()
        self.remote_address: str | None = None
        self.connections: set[Connection] = set()
        self.rate_limit = RateLimit()
        self.awake = asyncio.Event()
        self.awake.set()
        self.idle_close = (idle_close_after or idle_close(self.machine.number)).total_seconds()
        self._restarting: asyncio.Task[None] | None = None
        self._tls = tls
        self.login_penalty = login_penalty.total_seconds()
        self.session_age = session_age
        self._allowed: list[_Network] = []
        self._controlled = control
        self._scans_told_every = scans_told_every
        self._watching_scans: asyncio.Task[None] | None = None
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

    @property
    def listens(self) -> bool:
        """Whether it is started; not so while a restart lasts."""
        return self._runner is not None

    def add_key(
        self,
        username: str = "truetally",
        roles: Collection[str] = ("READONLY_ADMIN",),
        *,
        expires_at: datetime | None = None,
        allowlist: Collection[tuple[str, str]] | None = None,
    ) -> str:
        """A new API key; its text. An allowlist is for 22.12 to 24.10, where it counts and roles do not."""
        return self.machine.add_key(username, roles, expires_at=expires_at, allowlist=allowlist).text

    def add_user(
        self, name: str, password: str, roles: Collection[str] = ("FULL_ADMIN",), *, otp: str | None = None
    ) -> User:
        """A user who logs in with a password, and then with a one-time password if there is one."""
        return self.machine.add_user(name, password, roles, otp=otp)

    @property
    def standby_of(self) -> list[str]:
        """Where the active controller is; while there is any, a login here is redirected (25.04+)."""
        return self.machine.standby_of

    @standby_of.setter
    def standby_of(self, urls: Iterable[str]) -> None:
        self.machine.standby_of = list(urls)

    def stand_by(self, urls: Collection[str]) -> None:
        """Be the standby of a controller that answers at these URLs; of none, where there are none."""
        self.standby_of = urls

    def revoke_key(self, text: str) -> None:
        """Take a key away; sessions that are logged in stay so, see `lose_logins`."""
        self.machine.revoke(self._key(text))

    def expire_key(self, text: str) -> None:
        """Let a key's time be over, as if its owner had set an end; no alert tells of it."""
        self._key(text).expires_at = self.machine.now()

    def set_roles(self, text: str, roles: Collection[str]) -> None:
        """Change what the owner of a key may do; a session that is logged in feels it at its next call."""
        self._key(text).roles = frozenset(roles)

    def _key(self, text: str) -> ApiKey:
        number = text.partition("-")[0]
        found = self.machine.keys.get(int(number)) if number.isdecimal() else None
        if found is None:
            raise ValueError(f"there is no API key with the number {number}")
        return found

    def call(self, method: str, *params: Any) -> Any:
        """Call a method as root, as the web UI would: subscribers are told of what it changes."""
        return call(self._administrator, method, params)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; the URL."""
        app = web.Application()
        app.router.add_get("/websocket", self._websocket)
        app.router.add_get("/api/versions", self._versions)
        if self.machine.number >= JSON_RPC_SINCE:
            app.router.add_get("/api/boot_id", self._boot_id)
            app.router.add_get("/api/{endpoint}", self._endpoint)
        app.router.add_routes(rest.routes(self))
        if self._controlled:
            app.router.add_routes(control.routes(self))
        self.machine.boot_id = str(uuid4())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_STOP_WITHIN)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=self._tls, reuse_address=True).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self._address = runner, (host, runner.addresses[0][1])
        self.machine.listeners.append(self._tell)
        watching = pools.watch_scans(self.machine, self._scans_told_every)
        self._watching_scans = asyncio.create_task(watching, name="lab NAS scans")
        log.info("lab NAS started", url=self.url, version=self.machine.version)
        return self.url

    async def stop(self) -> None:
        """Close every connection, and listen no more."""
        restarting, self._restarting = self._restarting, None
        if restarting is not None and restarting is not asyncio.current_task():
            await asyncio.wait({restarting})
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        if self._watching_scans is not None:
            self._watching_scans.cancel()
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
        async with asyncio.timeout(_BACK_WITHIN):
            while not self.listens:
                try:
                    await self.start(host, port)
                except OSError as error:
                    # While nobody listens, any connection of the machine may get this port as its own.
                    if error.errno != errno.EADDRINUSE:
                        raise
                    await asyncio.sleep(_AGAIN_AFTER)

    def restart_soon(self) -> None:
        """Restart, without waiting for it: for who answers calls."""
        if self._restarting is None or self._restarting.done():
            self._restarting = asyncio.create_task(self.restart(), name="lab NAS restart")

    def lose_logins(self) -> None:
        """Let every session be logged out while its socket stays, as after a session's end."""
        for connection in self.connections:
            connection.caller.log_out()
            connection.attend()

    def allow_only(self, networks: Collection[str]) -> None:
        """Let new WebSockets come from these networks alone, as the UI's allow-list does; none means all.

        What the list does to REST is not known, so it does nothing there.
        """
        self._allowed = [ipaddress.ip_network(each) for each in networks]

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
        if self.faults.loses(event.collection):
            return
        payloads: dict[type[Wire], bytes] = {}
        for connection in self.connections:
            if connection.hears(event):
                kind = type(connection.wire)
                if kind not in payloads:
                    payloads[kind] = msgspec.json.encode(connection.wire.event(event.params()))
                connection.send(payloads[kind])

    def _endpoints(self) -> list[str]:
        return [each for each in ENDPOINTS if _number(each) <= self.machine.number]

    async def _versions(self, request: web.Request) -> web.Response:
        await self._front(request)
        if self.machine.number < JSON_RPC_SINCE:
            raise web.HTTPNotFound
        return web.json_response(self._endpoints())

    async def _boot_id(self, request: web.Request) -> web.Response:
        await self._front(request)
        return web.json_response(self.machine.boot_id)

    async def _endpoint(self, request: web.Request) -> web.StreamResponse:
        endpoint = request.match_info["endpoint"]
        if endpoint != "current" and endpoint not in self._endpoints():
            raise web.HTTPNotFound
        pinned = None if endpoint == "current" else _number(endpoint)
        return await self._converse(request, JsonRpc(), pinned)

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        return await self._converse(request, Ddp(), None)

    async def _front(self, request: web.Request) -> None:
        """What happens to any request before it is answered; the faults of a path are met here."""
        fault = self.faults.meet(request.path)
        kind = fault.kind if fault is not None else None
        await asyncio.sleep(self.faults.seconds(request.path))
        if kind is Kind.STALL:
            self.stall()
        await self.awake.wait()
        if kind in (None, Kind.STALL):
            return
        if kind is Kind.RESTART:
            self.restart_soon()
        elif kind is not Kind.ERROR and request.transport is not None:
            request.transport.abort()
        raise web.HTTPBadGateway

    async def _converse(
        self, request: web.Request, wire: Wire, pinned: Version | None
    ) -> web.WebSocketResponse:
        await self._front(request)
        # Frames are compressed for whoever offers it, as aiohttp does unless told otherwise (inferred of
        # the real one: its front proxy could drop the extension).
        socket = web.WebSocketResponse(max_msg_size=0, autoping=False)
        await socket.prepare(request)
        remote = self.remote_address or request.remote or "127.0.0.1"
        address = ipaddress.ip_address(remote)
        if self._allowed and not any(address in each for each in self._allowed):
            reason = b"You are not allowed to access this resource"
            await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason)
            return socket
        secure = request.secure or address.is_loopback
        caller = Caller(self.machine, secure=secure, pinned=pinned)
        await Connection(self, request, socket, wire, caller, remote).run()
        return socket


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
