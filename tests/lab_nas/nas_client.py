"""A bare client for the lab NAS: it sends what a test says and hands back what comes."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp

WITHIN = 10.0


class NasClient:
    def __init__(self, socket):
        self.socket = socket
        self.events = []
        self._last = 0

    async def receive(self):
        message = await asyncio.wait_for(self.socket.receive(), WITHIN)
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise ConnectionError(message)
        return json.loads(message.data)

    async def raw(self, text):
        await self.socket.send_str(text)
        return await self.receive()

    async def reply(self, method, *params):
        self._last += 1
        ident = self._last
        await self.send(method, *params, ident=ident)
        while True:
            message = await self.receive()
            if message.get("method") == "collection_update":
                self.events.append(message["params"])
            elif message.get("id") == ident:
                return message

    async def send(self, method, *params, ident):
        message = {"jsonrpc": "2.0", "id": ident, "method": method, "params": list(params)}
        await self.socket.send_str(json.dumps(message))

    async def call(self, method, *params):
        reply = await self.reply(method, *params)
        assert "result" in reply, reply
        return reply["result"]

    async def error(self, method, *params):
        reply = await self.reply(method, *params)
        assert "error" in reply, reply
        return reply["error"]

    async def login(self, key, username="truetally", **options):
        data = {"mechanism": "API_KEY_PLAIN", "username": username, "api_key": key}
        return await self.call("auth.login_ex", data | {"login_options": {"user_info": False, **options}})


@asynccontextmanager
async def connected(nas, endpoint="current"):
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{nas.url}/api/{endpoint}", max_msg_size=0) as socket,
    ):
        yield NasClient(socket)


@asynccontextmanager
async def logged_in(nas, roles=("FULL_ADMIN",), endpoint="current"):
    key = nas.add_key("truetally", roles)
    async with connected(nas, endpoint) as client:
        assert (await client.login(key))["response_type"] == "SUCCESS"
        yield client
