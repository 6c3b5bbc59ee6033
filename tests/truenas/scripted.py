"""A websocket that answers as it is told: for what a well-behaved NAS would never do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import WSMsgType, web

from truetally.model.observations import Gone, Listed, Lost, Observation, Seen, Trouble
from truetally.settings import NasSettings, SecretReference


class Refusal(Exception):
    def __init__(self, code: int = -32001, error: int = 5, reason: str = "no", extra: Any = None) -> None:
        super().__init__(reason)
        self.body = {"code": code, "message": "Method call error"}
        self.body["data"] = {
            "error": error,
            "reason": reason,
            "extra": extra,
            "trace": {"formatted": "SECRET TRACE"},
        }


DENIED = Refusal(error=13, reason="[EACCES] Not authorized")
UNAUTHENTICATED = Refusal(error=207, reason="[ENOTAUTHENTICATED] Not authenticated")


class Never:
    """Not answered at all."""


class Cut:
    """The connection breaks instead of an answer."""


class ScriptedNas:
    """Answers an empty, permitted NAS unless a method is scripted."""

    def __init__(self) -> None:
        self.script: dict[str, Any] = {}
        self.versions: Any = ["v25.04.2", "v25.10.5"]
        self.login: Any = {"response_type": "SUCCESS"}
        self.calls: Counter[str] = Counter()
        self.asked: list[tuple[str, Any]] = []
        self.redirect: str | None = None
        self.sockets: set[web.WebSocketResponse] = set()
        self.port = 0

    async def start(self, port: int = 0) -> None:
        app = web.Application()
        app.router.add_get("/api/versions", self._versions)
        app.router.add_get("/api/current", self._websocket)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        for socket in list(self.sockets):
            await socket.close()
        await self._runner.cleanup()

    async def drop(self) -> None:
        for socket in list(self.sockets):
            await socket.close()

    async def announce(self, collection: str, id_: Any, msg: str = "changed") -> None:
        body = {"msg": msg, "collection": collection, "id": id_}
        for socket in self.sockets:
            await socket.send_json({"jsonrpc": "2.0", "method": "collection_update", "params": body})

    async def _versions(self, _request: web.Request) -> web.Response:
        if self.redirect:
            raise web.HTTPFound(self.redirect)
        if isinstance(self.versions, str):
            return web.Response(text=self.versions, content_type="text/html")
        return web.json_response(self.versions)

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.sockets.add(socket)
        async with asyncio.TaskGroup() as tasks:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    call = json.loads(message.data)
                    self.calls[call["method"]] += 1
                    self.asked.append((call["method"], call["params"]))
                    tasks.create_task(self._answer(socket, call))
        self.sockets.discard(socket)
        return socket

    async def _answer(self, socket: web.WebSocketResponse, call: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": call["id"]}
        result = self._result(call["method"], call["params"])
        if asyncio.iscoroutine(result):
            result = await result
        if result is Never or socket.closed:
            return
        if result is Cut:
            await socket.close()
            return
        if isinstance(result, Refusal):
            reply["error"] = result.body
        else:
            reply["result"] = result
        await socket.send_json(reply)

    def _result(self, method: str, params: list[Any]) -> Any:
        if method == "auth.login_ex":
            return self.login(params[0]) if callable(self.login) else self.login
        scripted = self.script.get(method)
        if callable(scripted) and not isinstance(scripted, type):
            return scripted(*params)
        if scripted is not None:
            return scripted
        return {"core.ping": "pong", "system.version": "TrueNAS-25.10.0", "core.subscribe": "id"}.get(
            method, []
        )


class Heard:
    """What a source has emitted, and a way to wait for something of it."""

    def __init__(self) -> None:
        self.all: list[Observation] = []
        self._more = asyncio.Event()

    async def emit(self, observations: Any) -> None:
        self.all += observations
        self._more.set()

    async def until(self, condition: Callable[[list[Observation]], Any], within: float = 10.0) -> Any:
        async with asyncio.timeout(within):
            while not (found := condition(self.all)):
                self._more.clear()
                await self._more.wait()
        return found

    def of(self, type_: type, kind: Any = None) -> list[Any]:
        return [o for o in self.all if isinstance(o, type_) and kind in (None, _kind(o))]


def _kind(observation: Observation) -> Any:
    return observation.ref.kind if isinstance(observation, Seen | Gone) else observation.kind


def are_complete(seen: list[Observation], kinds: frozenset[Any]) -> bool:
    """Whether each kind has been listed, or the version was found not to tell it."""
    done = {o.kind for o in seen if isinstance(o, Listed)}
    done |= {o.kind for o in seen if isinstance(o, Lost) and o.trouble is Trouble.UNTOLD}
    return done == kinds


def listed(kind: Any, after: int = 0) -> Callable[[list[Observation]], Any]:
    return lambda seen: [o for o in seen[after:] if isinstance(o, Listed) and o.kind is kind]


def lost(seen: list[Observation]) -> Any:
    """What was lost; that a version does not tell something is no loss."""
    return [o for o in seen if isinstance(o, Lost) and o.trouble is not Trouble.UNTOLD]


def nas_settings(port: int, **changes: Any) -> NasSettings:
    base = {
        "name": "nas1",
        "url": f"ws://127.0.0.1:{port}",
        "username": "truetally",
        "api_key": SecretReference(env="KEY"),
        "call_timeout": "2s",
    }
    return NasSettings.model_validate(base | changes)


@asynccontextmanager
async def scripted_nas() -> AsyncIterator[ScriptedNas]:
    nas = ScriptedNas()
    await nas.start()
    try:
        yield nas
    finally:
        await nas.stop()
