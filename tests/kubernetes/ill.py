"""An apiserver that does what a real one does only when it is ill."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from kubernetes.api import CLASSES
from truetally.clock import SystemClock

EXPIRED = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}


def a_class(name: str, version: int, padding: int = 0) -> dict[str, Any]:
    metadata = {"name": name, "uid": name, "resourceVersion": str(version)}
    if padding:
        metadata["annotations"] = {"padding": "x" * padding}
    return {"metadata": metadata, "provisioner": "p"}


def a_list(*items: dict[str, Any], version: int = 1, more: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": more}, "items": list(items)}


def an_event(what: str, thing: dict[str, Any]) -> bytes:
    return json.dumps({"type": what, "object": thing}).encode() + b"\n"


class Later(SystemClock):
    """A clock that a test can put forward."""

    ahead = 0.0

    def ticks(self) -> float:
        return super().ticks() + self.ahead


async def half_of(request: web.Request, answer: Any) -> web.StreamResponse:
    """Promises all of it, sends a half, and cuts the connection."""
    body = json.dumps(answer).encode()
    response = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    assert request.transport is not None
    request.transport.close()
    return response


class Ill:
    """An apiserver whose storage classes behave as the test scripts them; all other kinds are empty."""

    def __init__(self) -> None:
        self.lists = 0
        self.watches: list[dict[str, str]] = []
        self.asked: Counter[str] = Counter()
        self.changed = asyncio.Condition()

    async def list(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(a_list())

    async def watch(self, request: web.Request, response: web.StreamResponse) -> None:
        await asyncio.Event().wait()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        ours = request.path == CLASSES
        if request.query.get("watch"):
            self.watches.append(dict(request.query)) if ours else None
            response = web.StreamResponse()
            await response.prepare(request)
            await self._note()
            await (self.watch(request, response) if ours else asyncio.Event().wait())
            return response
        if ours:
            self.lists += 1
            await self._note()
            return await self.list(request)
        return web.json_response(a_list())

    async def until(self, holds) -> None:
        async with asyncio.timeout(15), self.changed:
            await self.changed.wait_for(holds)

    async def _note(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@asynccontextmanager
async def serving(ill: Ill, tmp_path) -> AsyncIterator[Any]:
    app = web.Application()
    app.router.add_get("/{path:.*}", ill.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    path = tmp_path / "kubeconfig"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "ill",
        "clusters": [{"name": "ill", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "users": [{"name": "ill", "user": {}}],
        "contexts": [{"name": "ill", "context": {"cluster": "ill", "user": "ill"}}],
    }
    path.write_text(json.dumps(config))
    try:
        yield path
    finally:
        await runner.cleanup()
