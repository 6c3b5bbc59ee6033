"""How a NAS is reached: URLs, TLS, and what a failed connection means."""

from __future__ import annotations

import ipaddress
import os
import ssl
from urllib.parse import urlsplit

import aiohttp
import msgspec

from truetally.errors import SourceUnavailable
from truetally.settings import NasSettings
from truetally.sources.truenas.calls import Greeting
from truetally.sources.truenas.generations import LEGACY, Generation, generation

# One list of everything may be tens of megabytes.
_LARGEST = 512 * 1024 * 1024
_CONNECT_WITHIN = 15.0
# zlib's largest window: a list of ten thousand datasets shrinks to a thirtieth, if the NAS agrees.
_WINDOW = 15


def is_safe_for_secrets(url: str) -> bool:
    """Whether a key or password may be sent there: TLS, or this machine itself."""
    parts = urlsplit(url if "://" in url else f"wss://{url}")
    if parts.scheme in ("wss", "https"):
        return True
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(url: str) -> str:
    """The host that a URL names, without port and brackets; lower case."""
    return (urlsplit(url if "://" in url else f"wss://{url}").hostname or "").lower()


def _base(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"wss://{url}")
    scheme = "wss" if parts.scheme in ("wss", "https") else "ws"
    return f"{scheme}://{parts.netloc}"


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
    """The HTTP client of one connection; a redirect ends it, so that nobody can lead us astray."""

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


async def find_generation(name: str, url: str, http: aiohttp.ClientSession) -> Generation:
    """Asks a NAS which API versions it speaks; needs no login.

    Raises:
        SourceUnavailable: it cannot be reached, or says something that no TrueNAS says.
    """
    where = _base(url).replace("ws", "http", 1) + "/api/versions"
    versions: list[str] | None = None
    try:
        async with http.get(where) as response:
            if response.status not in (200, 404):
                # A web server whose middleware is away; it must not be taken for an old one.
                raise SourceUnavailable(name, f"{where} answered {response.status}; is the NAS starting?")
            if response.status == 200:
                versions = msgspec.json.decode(await response.read(), type=list[str])
    except msgspec.DecodeError:
        pass  # TrueNAS 24.10 and older answer with the page of its web interface
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise SourceUnavailable(name, reason(error, where)) from error
    if versions is None:
        return LEGACY
    found = generation(versions)
    if found is None:
        raise SourceUnavailable(name, f"it speaks none of the API versions we know: {versions[:5]}")
    return found


async def connect(
    name: str, url: str, spoken: Generation, http: aiohttp.ClientSession
) -> aiohttp.ClientWebSocketResponse:
    """Opens the websocket, and says what has to be said first.

    Raises:
        SourceUnavailable: it cannot be opened.
    """
    wire = spoken.wire
    where = _base(url) + wire.path
    try:
        socket = await http.ws_connect(where, max_msg_size=_LARGEST, autoping=True, compress=_WINDOW)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise SourceUnavailable(name, reason(error, where)) from error
    if not wire.opening:
        return socket
    try:
        await socket.send_str(wire.opening)
        answer = wire.read(await socket.receive_str(timeout=_CONNECT_WITHIN))
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        await socket.close()
        raise SourceUnavailable(name, reason(error, where)) from error
    except (TypeError, msgspec.DecodeError) as error:
        await socket.close()
        raise SourceUnavailable(name, f"what answers at {where} is no TrueNAS") from error
    if not (isinstance(answer, Greeting) and answer.accepted):
        await socket.close()
        raise SourceUnavailable(name, f"{where} does not speak version 1 of its protocol")
    return socket


def reason(error: BaseException, url: str) -> str:
    """Why a connection failed, in one sentence."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"the certificate of {url} is not trusted: {error.certificate_error}; is ca_file right?"
        case aiohttp.ClientConnectorError():
            number = error.os_error.errno
            # asyncio's own text repeats the address and says nothing else.
            why = os.strerror(number) if number and number > 0 else error.os_error.strerror
            return f"cannot connect to {url}: {why or type(error.os_error).__name__}"
        case aiohttp.WSServerHandshakeError() if error.status == 404 and url.endswith(LEGACY.wire.path):
            return f"{url} does not exist; is this a TrueNAS?"
        case aiohttp.WSServerHandshakeError():
            return f"{url} answered {error.status} to the websocket handshake"
        case TimeoutError():
            return f"{url} does not answer in time"
        case ValueError():
            return f"{url} is no address: {error}"
        case _:
            return f"the connection to {url} broke: {type(error).__name__}"
