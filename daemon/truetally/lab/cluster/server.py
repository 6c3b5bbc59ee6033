"""A Kubernetes API over HTTP, for trying truetally where there is no cluster.

It serves what a reflector needs, as the apiserver serves it: discovery, get, list in
pages, watch with bookmarks, 401, 403, 404 and both forms of 410. It only reads: the
scenario changes the cluster from Python.

Why not kmock, which emulates a Kubernetes API too (looked at in 0.8, MIT, alive)? Its
lists carry the constant resourceVersion "...", come in one piece whatever `limit`
says, and its watches replay all objects each time, without bookmarks, timeouts or
410; exactly these are what a reflector must get right.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import yaml
from aiohttp import web

from truetally.errors import NotFound
from truetally.lab.cluster.resources import RESOURCES, Resource, Target, discovery, target
from truetally.lab.cluster.store import Change, Manifest, Page, Store, TooOld, timestamp, whole
from truetally.model.refs import Kind

_USER = "system:serviceaccount:truetally:truetally"
# A watcher that lets so many events pile up is cut off, as the apiserver does with slow ones.
_PENDING = 100_000
_WRITE_AT_ONCE = 500


class _Refused(Exception):
    """An answer that is a `Status` instead of what was asked for."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


@dataclass(eq=False, slots=True)
class _Watch:
    """One open watch: what it is about, and what it has yet to send."""

    resource: Resource
    namespace: str | None
    pending: deque[Change] = field(default_factory=deque)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    def tell(self, resource: Resource, change: Change) -> None:
        if resource is not self.resource or self.namespace not in (None, change.namespace):
            return
        self.pending.append(change)
        self.ended = self.ended or len(self.pending) > _PENDING
        self.news.set()

    def end(self) -> None:
        self.ended = True
        self.news.set()


class LabCluster:
    """A cluster to try truetally on.

    Attributes:
        store: its objects.
        served: how often each verb was asked of each kind, such as `("list", Kind.POD)`; a page counts.
    """

    def __init__(
        self,
        now: Callable[[], datetime],
        *,
        token: str = "lab-token",  # noqa: S107 - it opens nothing but this lab
        snapshot_crds: bool = False,
        bookmark_every: timedelta = timedelta(seconds=10),
        watch_lasts: timedelta = timedelta(minutes=30),
    ) -> None:
        self.store = Store(now)
        self.served: Counter[tuple[str, Kind]] = Counter()
        self._now = now
        self._token = token
        self._denied: set[Kind] = set()
        self._bookmark_every = bookmark_every.total_seconds()
        self._watch_lasts = watch_lasts.total_seconds()
        self._watches: set[_Watch] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0
        for resource in RESOURCES.values():
            if snapshot_crds or not resource.custom:
                self.store.install(resource)

    async def start(self, port: int = 0) -> None:
        """Begin to answer on 127.0.0.1; after `stop()` the objects are still there."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        # Without cancellation the watch of a client that has gone stays open until it next writes.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """End all watches and stop to answer."""
        self.end_watches()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @property
    def url(self) -> str:
        """Where it answers; the port of the last start."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """The port of the last start, to start again on the same."""
        return self._port

    @property
    def watching(self) -> Counter[Kind]:
        """How many watches are open on each kind."""
        return Counter(watch.resource.kind for watch in self._watches)

    def write_kubeconfig(self, path: Path) -> None:
        """Write a kubeconfig with the present address and token, readable by its owner only."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": self.url}}],
            "users": [{"name": "lab", "user": {"token": self._token}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        }
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            yaml.safe_dump(config, file)

    def apply(self, manifest: Mapping[str, Any]) -> Manifest:
        """Create or replace an object; answers it as stored (uid, resourceVersion...)."""
        return self.store.apply(manifest)

    def get(self, kind: Kind, name: str, namespace: str = "") -> Manifest | None:
        """The object as it is now."""
        body = self.store.get(kind, (namespace, name))
        return None if body is None else msgspec.json.decode(body)

    def patch(self, kind: Kind, name: str, change: Mapping[str, Any], namespace: str = "") -> Manifest:
        """Change some fields of an object by a JSON merge patch (RFC 7396: null removes)."""
        return self.apply(_merged(self._existing(kind, name, namespace), change))

    def delete(self, kind: Kind, name: str, namespace: str = "") -> Manifest:
        """Remove an object at once, as if all its finalizers had been met."""
        return self.store.delete(kind, (namespace, name))

    def mark_deleted(self, kind: Kind, name: str, namespace: str = "") -> Manifest:
        """Ask for deletion: with finalizers the object stays and gets a deletionTimestamp."""
        mark = {"deletionTimestamp": timestamp(self._now()), "deletionGracePeriodSeconds": 0}
        return self.patch(kind, name, {"metadata": mark}, namespace)

    def forget_history(self) -> None:
        """Compact, so that all known resourceVersions and continue tokens are answered with 410."""
        self.store.forget_history()

    def end_watches(self) -> None:
        """End every open watch, as an apiserver does that restarts."""
        for watch in self._watches:
            watch.end()

    def deny(self, kind: Kind) -> None:
        """Answer 403 for a kind from now on; watches that are open live on."""
        self._denied.add(kind)

    def allow(self, kind: Kind) -> None:
        """Take `deny` back."""
        self._denied.discard(kind)

    def change_token(self, token: str) -> None:
        """Accept only this token from now on (a kubeconfig has to be written again)."""
        self._token = token

    def install_snapshot_crds(self) -> None:
        """Begin to serve VolumeSnapshots, their contents and classes."""
        for resource in RESOURCES.values():
            self.store.install(resource)

    def remove_snapshot_crds(self) -> None:
        """Stop to serve them; their objects are lost."""
        gone = [resource for resource in self.store.served if resource.custom]
        for resource in gone:
            self.store.uninstall(resource.kind)
        for watch in self._watches:
            if watch.resource in gone:
                watch.end()

    def _existing(self, kind: Kind, name: str, namespace: str) -> Manifest:
        found = self.get(kind, name, namespace)
        if found is None:
            raise NotFound(f"the lab cluster has no {kind.value} {'/'.join(filter(None, (namespace, name)))}")
        return found

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._dispatch(request)
        except _Refused as refusal:
            return web.json_response(refusal.status, status=refusal.code)

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        if request.path in ("/healthz", "/livez", "/readyz"):
            return web.Response(text="ok")
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            raise _Refused(401, "Unauthorized", "Unauthorized")
        if request.method != "GET":
            raise _Refused(405, "MethodNotAllowed", "the lab cluster is read-only over HTTP")
        served = self.store.served
        if (document := discovery(request.path, served)) is not None:
            return web.json_response(document)
        wanted = target(request.path, served)
        if wanted is None:
            # The apiserver answers an unknown resource so: in plain text, not with a Status.
            return web.Response(status=404, text="404 page not found\n")
        return await self._serve(request, wanted)

    async def _serve(self, request: web.Request, wanted: Target) -> web.StreamResponse:
        watching = _flag(request.query, "watch")
        verb = "get" if wanted.name else "watch" if watching else "list"
        resource = wanted.resource
        self.served[verb, resource.kind] += 1
        if resource.kind in self._denied:
            raise _forbidden(verb, wanted)
        if verb == "get":
            return self._get(wanted)
        for selector in ("fieldSelector", "labelSelector"):
            if request.query.get(selector):
                raise _Refused(400, "BadRequest", f"the lab cluster knows no {selector}")
        if verb == "list":
            return self._list(request.query, wanted)
        return await self._watch(request, wanted)

    def _get(self, wanted: Target) -> web.Response:
        resource, name = wanted.resource, wanted.name or ""
        body = self.store.get(resource.kind, (wanted.namespace or "", name))
        if body is None:
            raise _Refused(404, "NotFound", f'{_qualified(resource)} "{name}" not found')
        return web.Response(body=body, content_type="application/json")

    def _list(self, query: Mapping[str, str], wanted: Target) -> web.Response:
        limit = _number(query, "limit")
        kind, namespace = wanted.resource.kind, wanted.namespace
        if token := query.get("continue"):
            version, offset = _continued(token)
            try:
                page = self.store.next_page(kind, namespace, version, offset, limit)
            except TooOld:
                message = "the continue token is too old; list again from the start"
                raise _Refused(410, "Expired", message) from None
        else:
            page = self.store.page(kind, namespace, limit)
        return web.Response(body=_list_body(wanted.resource, page), content_type="application/json")

    async def _watch(self, request: web.Request, wanted: Target) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:
            # Clusters before 1.32 refuse it so; truetally must work with them.
            raise _Refused(422, "Invalid", "sendInitialEvents is not served by the lab cluster")
        since = _number(request.query, "resourceVersion")
        lasts = _number(request.query, "timeoutSeconds") or self._watch_lasts
        bookmarks = _flag(request.query, "allowWatchBookmarks")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        watch = _Watch(wanted.resource, wanted.namespace)
        try:
            past = self._past(wanted.resource.kind, since)
        except TooOld:
            await response.prepare(request)
            await response.write(_too_old(since, self.store.version))
            return response
        for change in past:
            watch.tell(wanted.resource, change)
        # No await since the past was read: nothing can fall between it and the subscription.
        self._watches.add(watch)
        self.store.subscribers.append(watch.tell)
        try:
            await response.prepare(request)
            await self._stream(response, watch, lasts, bookmarks)
        finally:
            self.store.subscribers.remove(watch.tell)
            self._watches.discard(watch)
        return response

    def _past(self, kind: Kind, since: int) -> list[Change]:
        return self.store.changes_since(kind, since) if since else self.store.current(kind)

    async def _stream(
        self, response: web.StreamResponse, watch: _Watch, lasts: float, bookmarks: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + lasts
        bookmark_at = min(end, loop.time() + self._bookmark_every)
        while not watch.ended:
            watch.news.clear()
            if watch.pending:
                await response.write(_lines(watch))
                continue
            try:
                async with asyncio.timeout_at(bookmark_at if bookmarks else end):
                    await watch.news.wait()
            except TimeoutError:
                if bookmarks and not watch.pending:
                    await response.write(_bookmark(watch.resource, self.store.version))
                if loop.time() >= end:
                    return
                bookmark_at = min(end, loop.time() + self._bookmark_every)


def _lines(watch: _Watch) -> bytes:
    lines = []
    for _ in range(min(len(watch.pending), _WRITE_AT_ONCE)):
        change = watch.pending.popleft()
        body = whole(watch.resource, change.body)
        lines.append(b'{"type":"%b","object":%b}\n' % (change.type.value.encode(), body))
    return b"".join(lines)


def _bookmark(resource: Resource, version: int) -> bytes:
    # The apiserver too gives a bookmark the null of an object that was never created.
    metadata = {"resourceVersion": str(version), "creationTimestamp": None}
    body = whole(resource, msgspec.json.encode({"metadata": metadata}))
    return b'{"type":"BOOKMARK","object":%b}\n' % body


def _too_old(since: int, version: int) -> bytes:
    status = _Refused(410, "Expired", f"too old resource version: {since} ({version})").status
    return msgspec.json.encode({"type": "ERROR", "object": status}) + b"\n"


def _list_body(resource: Resource, page: Page) -> bytes:
    metadata: Manifest = {"resourceVersion": str(page.version)}
    if page.rest:
        token = f"{page.version}:{page.offset + len(page.items)}"
        metadata["continue"] = base64.urlsafe_b64encode(token.encode()).decode()
        metadata["remainingItemCount"] = page.rest
    head = {
        "kind": f"{resource.kind.value}List",
        "apiVersion": resource.api_version,
        "metadata": metadata,
    }
    return msgspec.json.encode(head)[:-1] + b',"items":[' + b",".join(page.items) + b"]}"


def _continued(token: str) -> tuple[int, int]:
    try:
        version, offset = base64.urlsafe_b64decode(token).decode().split(":")
        return int(version), int(offset)
    except ValueError:
        raise _Refused(400, "BadRequest", "the continue token is not valid") from None


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name) or "0"
    if not text.isdecimal():
        raise _Refused(400, "BadRequest", f"{name} is not a number: {text}")
    return int(text)


def _flag(query: Mapping[str, str], name: str) -> bool:
    # As Go's strconv.ParseBool: kubernetes_asyncio writes `True`.
    return query.get(name, "") in ("1", "t", "T", "true", "True", "TRUE")


def _forbidden(verb: str, wanted: Target) -> _Refused:
    resource = wanted.resource
    scope = f'in the namespace "{wanted.namespace}"' if wanted.namespace else "at the cluster scope"
    name = f' "{wanted.name}"' if wanted.name else ""
    message = (
        f'{_qualified(resource)}{name} is forbidden: User "{_USER}" cannot {verb} resource '
        f'"{resource.plural}" in API group "{resource.group}" {scope}'
    )
    return _Refused(403, "Forbidden", message)


def _qualified(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def _merged(stored: Any, change: Mapping[str, Any]) -> Manifest:
    merged = dict(stored) if isinstance(stored, Mapping) else {}
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            merged[name] = _merged(merged.get(name), value)
        else:
            merged[name] = value
    return merged
