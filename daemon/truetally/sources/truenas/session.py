"""One websocket to one TrueNAS: login, calls, heartbeat, hints.

The API key goes out only over TLS or to loopback: TrueNAS 25.04 and newer revoke a key for
good when it is used over plain transport. No redirect is followed, so that nobody can lead
it astray.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
import tenacity

from truetally.errors import AccessDenied, CredentialsRefused, SourceUnavailable, TruetallyError
from truetally.settings import NasSettings
from truetally.sources.truenas import jsonrpc
from truetally.sources.truenas.generations import Generation, generation
from truetally.sources.truenas.jsonrpc import CallFailed, Change, Fault, Frame

log = structlog.get_logger(__name__)

# The server runs 10 calls of a connection and queues 10 more; the 21st is refused (middleware 22.12 to 27).
_IN_FLIGHT = 8
# One list of everything may be tens of megabytes.
_LARGEST = 512 * 1024 * 1024
_LONG_FRAME = 1024 * 1024
_CONNECT_WITHIN = 15.0
_PING_EVERY, _PING_WITHIN = 20.0, 15.0

# The server refuses a call while twenty of this connection are under way.
_while_busy = tenacity.AsyncRetrying(
    retry=tenacity.retry_if_exception(lambda e: isinstance(e, CallFailed) and e.fault is Fault.BUSY),
    wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=10),
    stop=tenacity.stop_after_attempt(4),
    reraise=True,
)


class KeyExpired(CredentialsRefused):
    """The key is expired or revoked: it will never work again."""


class Session:
    """An open, logged-in connection.

    Attributes:
        generation: what this server can do.
    """

    def __init__(
        self,
        settings: NasSettings,
        generation: Generation,
        socket: aiohttp.ClientWebSocketResponse,
        login: Callable[[Session], Any],
        hint: Callable[[Change], None],
    ) -> None:
        self.generation = generation
        self._name = settings.name
        self._timeout = settings.call_timeout.total_seconds()
        self._socket = socket
        self._login = login
        self._hint = hint
        self._waiting: dict[int, asyncio.Future[Frame]] = {}
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self._relogin = asyncio.Lock()
        self._logins = 0
        self._number = 0
        self._broken = False

    @property
    def alive(self) -> bool:
        """Whether the connection still stands, so that a call that failed has failed alone."""
        return not self._broken and not self._socket.closed

    async def run(self) -> None:
        """Reads and keeps the connection alive until it breaks; always raises SourceUnavailable."""
        heart = asyncio.create_task(self._beat())
        try:
            await self._read()
        finally:
            heart.cancel()
            self._give_up()
        raise SourceUnavailable(self._name, "the connection was closed by the NAS")

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

    async def permitted(self, role: str, method: str, *params: Any, type_: Any = Any) -> Any:
        """As `call()`, for a read that a role may lack.

        Raises:
            AccessDenied: naming the role to grant.
        """
        try:
            return await self.call(method, *params, type_=type_)
        except CallFailed as error:
            if error.fault is Fault.NOT_PERMITTED:
                grant = f"give our user's group a privilege with the role READONLY_ADMIN or {role}"
                raise AccessDenied(self._name, f"call {method}", grant) from error
            if error.fault is Fault.NO_METHOD:
                raise SourceUnavailable(self._name, f"this TrueNAS version has no {method}") from error
            raise SourceUnavailable(self._name, f"{method} failed: {error.reason}") from error

    async def _call(self, method: str, params: Sequence[Any], type_: Any, timeout: float | None) -> Any:
        async with self._slots:
            self._number += 1
            number = self._number
            answer = self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                await self._socket.send_str(jsonrpc.request(number, method, params))
                async with asyncio.timeout(timeout or self._timeout):
                    message = await answer
            except TimeoutError as error:
                raise SourceUnavailable(self._name, f"{method} was not answered in time") from error
            except (aiohttp.ClientError, ConnectionError) as error:
                self._broken = True
                raise SourceUnavailable(self._name, "the connection broke") from error
            finally:
                self._waiting.pop(number, None)
        if (failed := jsonrpc.failure(message)) is not None:
            raise failed
        try:
            if len(message.result) > _LONG_FRAME:
                return await asyncio.to_thread(msgspec.json.decode, message.result, type=type_)
            return msgspec.json.decode(message.result, type=type_)
        except msgspec.DecodeError as error:
            raise SourceUnavailable(self._name, f"the answer to {method} cannot be read: {error}") from error

    async def _log_in_again(self, logins: int) -> None:
        """The NAS may forget a login while the socket lives; one login serves all calls that noticed."""
        async with self._relogin:
            if self._logins == logins:
                log.info("logging in again", source=self._name)
                await self._login(self)
                self._logins += 1

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            try:
                if len(message.data) > _LONG_FRAME:
                    frame = await asyncio.to_thread(jsonrpc.frame, message.data)
                else:
                    frame = jsonrpc.frame(message.data)
            except msgspec.DecodeError as error:
                raise SourceUnavailable(self._name, "a message of the NAS cannot be read") from error
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        if (change := jsonrpc.change(frame)) is not None:
            self._hint(change)
        elif isinstance(frame.id, int) and (waiting := self._waiting.get(frame.id)) and not waiting.done():
            waiting.set_result(frame)

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
                await self._call("core.ping", (), Any, _PING_WITHIN)
            except CallFailed:
                continue  # an error is an answer, too
            except TruetallyError:
                log.warning("heartbeat unanswered", source=self._name)
                await self._socket.close()
                return


async def find_generation(settings: NasSettings, http: aiohttp.ClientSession) -> Generation:
    """Asks the NAS which API versions it speaks; needs no login.

    Raises:
        SourceUnavailable: it cannot be reached, or speaks none that we do.
    """
    url = _base(settings).replace("ws", "http", 1) + "/api/versions"
    versions: list[str] = []
    try:
        async with http.get(url, allow_redirects=False) as answer:
            if answer.status == 200:
                versions = msgspec.json.decode(await answer.content.read(65536), type=list[str])
            elif answer.status != 404:
                raise SourceUnavailable(
                    settings.name, f"{url} answered {answer.status}, and redirects are not followed"
                )
    except msgspec.DecodeError:
        pass  # TrueNAS 24.10 and older answer with the page of its web interface
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise SourceUnavailable(settings.name, reason(error, url)) from error
    found = generation(versions)
    if found is None:
        raise SourceUnavailable(
            settings.name,
            "it does not speak JSON-RPC, so it is older than TrueNAS 25.04 and not supported yet",
        )
    return found


async def connect(settings: NasSettings, http: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
    """Opens the websocket.

    Raises:
        SourceUnavailable: it cannot be opened.
    """
    url = _base(settings) + "/api/current"
    try:
        return await http.ws_connect(url, max_msg_size=_LARGEST, autoping=True)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise SourceUnavailable(settings.name, reason(error, url)) from error


async def log_in(session: Session, settings: NasSettings, api_key: str) -> None:
    """Logs in with the API key.

    Raises:
        KeyExpired: the key is expired or revoked.
        CredentialsRefused: the key is wrong, or another user's, or its user may not use the API.
        SourceUnavailable: the NAS wants us elsewhere, or did not answer.
    """
    if not is_safe_for_keys(settings.url):
        raise CredentialsRefused(
            settings.name,
            "the API key is not sent over an unencrypted connection: TrueNAS would revoke it; use wss://",
        )
    login = {
        "mechanism": "API_KEY_PLAIN",
        "username": settings.username,
        "api_key": api_key,
        "login_options": {"user_info": False},
    }
    try:
        answer = await session._call("auth.login_ex", (login,), dict[str, Any], None)  # noqa: SLF001
    except CallFailed as error:
        if error.fault is Fault.BUSY:
            raise SourceUnavailable(
                settings.name, "too many logins; it accepts none for some minutes"
            ) from error
        if error.fault is Fault.FAILED:
            raise SourceUnavailable(settings.name, f"it cannot log us in now: {error.reason}") from error
        raise CredentialsRefused(
            settings.name, f"the NAS does not accept the login: {error.reason}"
        ) from error
    _judge(str(answer.get("response_type")), answer, settings)


def _judge(response: str, answer: dict[str, Any], settings: NasSettings) -> None:
    user = settings.username
    match response:
        case "SUCCESS":
            return
        case "EXPIRED":
            raise KeyExpired(
                settings.name,
                f"the API key of {user} is expired or revoked; make a new one on the NAS (a key that was "
                "ever used over plain HTTP, also by a proxy in between, is revoked)",
            )
        case "AUTH_ERR":
            raise CredentialsRefused(
                settings.name,
                f"the NAS refused the API key: it is wrong, or it does not belong to user {user}",
            )
        case "DENIED":
            raise CredentialsRefused(
                settings.name,
                f"user {user} may not use the API; give its group a privilege with READONLY_ADMIN",
            )
        case "OTP_REQUIRED":
            raise CredentialsRefused(
                settings.name, f"user {user} needs a one-time password; use an API key of a user without 2FA"
            )
        case "REDIRECT":
            urls = ", ".join(map(str, answer.get("urls") or ())) or "another address"
            raise SourceUnavailable(
                settings.name, f"this is the standby controller; the active one is at {urls} (not followed)"
            )
        case other:
            raise CredentialsRefused(settings.name, f"the NAS answered the login with {other}")


def is_safe_for_keys(url: str) -> bool:
    """Whether an API key may be sent there: TLS, or this machine itself."""
    parts = urlsplit(url if "://" in url else f"wss://{url}")
    if parts.scheme in ("wss", "https"):
        return True
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls(settings: NasSettings) -> ssl.SSLContext:
    """TLS as configured: always verified, with a CA and a client certificate of our own if there are any.

    Raises:
        SourceUnavailable: a file cannot be read; it may be mended while we run.
    """
    try:
        context = ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
        if settings.client_certificate is not None:
            key = str(settings.client_key) if settings.client_key is not None else None
            context.load_cert_chain(str(settings.client_certificate), key)
    except (OSError, ssl.SSLError) as error:
        raise SourceUnavailable(settings.name, f"its TLS files cannot be used: {error}") from error
    return context


def http_session(settings: NasSettings) -> aiohttp.ClientSession:
    """The HTTP client of one connection; a redirect ends it."""

    async def refuse(_session: object, _context: object, seen: aiohttp.TraceRequestRedirectParams) -> None:
        raise SourceUnavailable(
            settings.name, f"{seen.url.host} answered {seen.response.status}, and redirects are not followed"
        )

    no_redirects = aiohttp.TraceConfig()
    no_redirects.on_request_redirect.append(refuse)
    return aiohttp.ClientSession(
        trace_configs=[no_redirects],
        connector=aiohttp.TCPConnector(ssl=tls(settings)),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_WITHIN, sock_read=_CONNECT_WITHIN),
    )


def _base(settings: NasSettings) -> str:
    parts = urlsplit(settings.url if "://" in settings.url else f"wss://{settings.url}")
    scheme = "wss" if parts.scheme in ("wss", "https") else "ws"
    return f"{scheme}://{parts.netloc}"


def reason(error: BaseException, url: str) -> str:
    """Why a connection failed, in one sentence."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {url} is not trusted: {error.certificate_error}; is ca_file right?"
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {url}: {error.os_error.strerror or type(error.os_error).__name__}"
        case aiohttp.WSServerHandshakeError():
            return f"{url} answered {error.status} to the websocket handshake"
        case TimeoutError():
            return f"{url} does not answer in time"
        case _:
            return f"the connection to {url} broke: {type(error).__name__}"
