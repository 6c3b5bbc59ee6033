from __future__ import annotations

import asyncio
from typing import Any, Self

import aiohttp
import msgspec


class Watch:
    """A watch that a test reads event by event."""

    def __init__(self, api: aiohttp.ClientSession, path: str, **query: Any) -> None:
        self._get = api.get(path, params={"watch": "1", **{k: str(v) for k, v in query.items()}})

    async def __aenter__(self) -> Self:
        self._response = await self._get
        assert self._response.status == 200, await self._response.text()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._response.close()

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            return msgspec.json.decode(await self._response.content.readline())

    async def rest(self) -> list[dict[str, Any]]:
        async with asyncio.timeout(5):
            return [msgspec.json.decode(line) async for line in self._response.content]
