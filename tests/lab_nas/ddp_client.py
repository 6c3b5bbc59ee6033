"""A bare client for `/websocket`: it sends what a test says and hands back what comes."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp

WITHIN = 10.0
CONNECT = {"msg": "connect", "version": "1", "support": ["1"], "features": []}


class DdpClient:
    def __init__(self, socket):
        self.socket = socket
        self.events = []
        self._last = 0

    async def say(self, message):
        await self.socket.send_str(message if isinstance(message, str) else json.dumps(message))

    async def receive(self):
        message = await asyncio.wait_for(self.socket.receive(), WITHIN)
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionError(message)
        return json.loads(message.data)

    async def ask(self, message):
        await self.say(message)
        return await self.receive()

    async def connect(self):
        return await self.ask(CONNECT)

    async def reply(self, method, *params):
        self._last += 1
        ident = f"m{self._last}"
        await self.say({"id": ident, "msg": "method", "method": method, "params": list(params)})
        while True:
            message = await self.receive()
            if message["msg"] in ("added", "changed", "removed"):
                self.events.append(message)
            elif message.get("id") == ident:
                return message

    async def call(self, method, *params):
        reply = await self.reply(method, *params)
        assert "result" in reply, reply
        return reply["result"]

    async def error(self, method, *params):
        reply = await self.reply(method, *params)
        assert "error" in reply, reply
        return reply["error"]

    async def subscribe(self, name):
        assert await self.ask({"id": f"s-{name}", "msg": "sub", "name": name}) == {
            "msg": "ready",
            "subs": [f"s-{name}"],
        }


@asynccontextmanager
async def dialled(nas):
    """A socket on which nothing was said yet."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{nas.url}/websocket", max_msg_size=0) as socket,
    ):
        yield DdpClient(socket)


@asynccontextmanager
async def met(nas):
    """A client that has been told "connected"."""
    async with dialled(nas) as client:
        assert (await client.connect())["msg"] == "connected"
        yield client


@asynccontextmanager
async def at_home(nas, roles=("FULL_ADMIN",), **key):
    """A client that is logged in with a key."""
    text = nas.add_key("truetally", roles, **key)
    async with met(nas) as client:
        assert await client.call("auth.login_with_api_key", text) is True
        yield client
