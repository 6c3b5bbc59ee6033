"""The connection to one cluster: kubernetes_asyncio for who we are, aiohttp for the bytes.

Tokens, plugins and certificates are read when the connection is made. Tokens are rotated all
the time, so one that was accepted and is refused now is first read anew; only if the fresh one
is refused too, our credentials are.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import structlog

from truetally.errors import AccessDenied, CredentialsRefused, SourceUnavailable, TruetallyError
from truetally.settings import ClusterSettings
from truetally.sources.kubernetes.decode import ApiStatus

log = structlog.get_logger(__name__)

# A list page of 500 pods is a few megabytes; a cluster that needs longer is as good as away.
_PAGE_WITHIN = 60.0
_CONNECT_WITHIN = 10.0
_CONFIGURE_WITHIN = 60.0


class Expired(TruetallyError):
    """The resourceVersion or `continue` token is too old (410 Gone): the kind has to be listed again."""


class Absent(TruetallyError):
    """The cluster does not serve this resource (404)."""


class _Connection:
    """An ApiClient with its credentials, closed when the last request through it has ended.

    Attributes:
        accepted: whether its credentials have been good once.
    """

    def __init__(self, api: Any) -> None:
        self.api = api
        self.accepted = False
        self._requests = 0
        self._retired = False

    @asynccontextmanager
    async def used(self) -> AsyncIterator[Any]:
        self._requests += 1
        try:
            yield self.api
        finally:
            self._requests -= 1
            await self._close_when_unused()

    async def retire(self) -> None:
        """No new request will come; watches that are still permitted go on to their end."""
        self._retired = True
        await self._close_when_unused()

    async def _close_when_unused(self) -> None:
        if self._retired and not self._requests:
            await self.api.close()


class ClusterClient:
    """Requests to one cluster; every method raises the errors of `truetally.errors`."""

    def __init__(self, settings: ClusterSettings) -> None:
        self._settings = settings
        self._connection: _Connection | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Closes the connection as soon as no request uses it; the next request makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.retire()

    async def get(self, path: str, query: Mapping[str, str], grant: str = "") -> bytes:
        """The body of one answer."""
        timeout = aiohttp.ClientTimeout(total=_PAGE_WITHIN, sock_connect=_CONNECT_WITHIN)
        async with self._answer(path, query, timeout, grant) as answer:
            return await answer.read()

    @asynccontextmanager
    async def lines(
        self, path: str, query: Mapping[str, str], silent_for: float, grant: str = ""
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a watch; a connection that is silent for so many seconds is given up."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_WITHIN, sock_read=silent_for)
        async with self._answer(path, query, timeout, grant) as answer:
            yield _lines(answer.content)

    @asynccontextmanager
    async def _answer(
        self, path: str, query: Mapping[str, str], timeout: aiohttp.ClientTimeout, grant: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        connection = await self._open()
        try:
            async with AsyncExitStack() as reading:
                answer = await reading.enter_async_context(self._get(connection, path, query, timeout))
                if answer.status == 401 and connection.accepted:
                    await reading.aclose()
                    await self._drop(connection)
                    connection = await self._open()
                    answer = await reading.enter_async_context(self._get(connection, path, query, timeout))
                if answer.status != 200:
                    await self._refuse(answer, grant, connection)
                connection.accepted = True
                yield answer
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # A reason that names the address helps; the query and the headers stay out of it.
            reason = _reason(error, connection.api.configuration.host)
            raise SourceUnavailable(self._settings.name, reason) from error

    @asynccontextmanager
    async def _get(
        self, connection: _Connection, path: str, query: Mapping[str, str], timeout: aiohttp.ClientTimeout
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with connection.used() as api:
            headers = await self._headers(api)
            async with api.rest_client.pool_manager.get(
                api.configuration.host + path,
                params=query,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                proxy=api.rest_client.proxy,
                server_hostname=api.rest_client.server_hostname,
            ) as answer:
                yield answer

    async def _headers(self, api: Any) -> dict[str, str]:
        headers = {"Accept": "application/json"}
        try:
            async with asyncio.timeout(_CONFIGURE_WITHIN):
                await api.update_params_for_auth(headers, [], ["BearerToken"])
        except Exception as error:  # it runs the kubeconfig's plugins and reads its files
            raise SourceUnavailable(self._settings.name, _no_credentials(self._settings, error)) from None
        return headers

    async def _refuse(self, answer: aiohttp.ClientResponse, grant: str, connection: _Connection) -> None:
        status = _status(await answer.content.read(65536))
        name = self._settings.name
        match answer.status:
            case 401:
                await self._drop(connection)
                raise CredentialsRefused(
                    name, "the API server refused our credentials (401); renew the token of the kubeconfig"
                )
            case 403:
                raise AccessDenied(name, status.message or "read it", grant)
            case 404:
                raise Absent(f"{name}: not served")
            case 410:
                raise Expired(f"{name}: {status.message}")
            case code:
                raise SourceUnavailable(name, f"the API server answered {code} {status.reason}".rstrip())

    async def _drop(self, connection: _Connection) -> None:
        if self._connection is connection:  # one with newer credentials is left alone
            await self.close()

    async def _open(self) -> _Connection:
        async with self._opening:
            if self._connection is None:
                self._connection = _Connection(await self._configured())
            return self._connection

    async def _configured(self) -> Any:
        # Its import takes more than a second, and the loop has better things to do.
        credentials = await asyncio.to_thread(
            importlib.import_module, "truetally.sources.kubernetes.credentials"
        )
        try:
            async with asyncio.timeout(_CONFIGURE_WITHIN):
                configuration = await credentials.configured(self._settings, _kubeconfig(self._settings))
            # A watch of each kind stays open, and lists go beside them.
            configuration.connection_pool_maxsize = 0
            return credentials.client.ApiClient(configuration)
        except TimeoutError as error:
            raise SourceUnavailable(self._settings.name, "the kubeconfig's plugin does not answer") from error
        except Exception as error:  # its loaders raise whatever the file makes them stumble over
            # Not `from error`: its text may hold a whole user of the kubeconfig.
            raise SourceUnavailable(self._settings.name, _no_credentials(self._settings, error)) from None


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines, however long: an object may be larger than any buffer."""
    rest = b""
    async for chunk in content.iter_any():
        if b"\n" not in chunk:
            rest += chunk
            continue
        *whole, last = chunk.split(b"\n")
        whole[0] = rest + whole[0]
        rest = last
        for line in whole:
            if line:
                yield line


def _kubeconfig(settings: ClusterSettings) -> Path:
    return (settings.kubeconfig or Path("~/.kube/config")).expanduser()


def _no_credentials(settings: ClusterSettings, error: Exception) -> str:
    where = "the cluster it runs in" if settings.in_cluster else _kubeconfig(settings)
    # The library names a part of the kubeconfig by all that is in it, secrets too: {'name': …, 'token': …}.
    said = _first_line(error).partition("{")[0].rstrip()
    return f"cannot take credentials from {where}: {type(error).__name__}: {said}"


def _status(body: bytes) -> ApiStatus:
    try:
        return msgspec.json.decode(body, type=ApiStatus)
    except msgspec.DecodeError:
        return ApiStatus()


def _reason(error: Exception, host: str) -> str:
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return f"the certificate of {host} is not trusted: {_first_line(error)}"
        case aiohttp.ServerTimeoutError() | TimeoutError():
            return f"{host} does not answer in time"
        case aiohttp.ClientConnectorError():
            return f"cannot connect to {host}: {error.os_error.strerror or _first_line(error)}"
        case _:
            return f"the connection to {host} broke: {type(error).__name__}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
