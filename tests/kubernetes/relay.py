from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Self

from controlplane.harness import ControlPlane


class Relay:
    """A way to the apiserver that can be cut, or go silent without being cut."""

    def __init__(self, cluster: ControlPlane) -> None:
        self._cluster = cluster
        self._passes = asyncio.Event()
        self._passes.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def cut(self) -> None:
        """Breaks all connections, and refuses new ones."""
        assert self._server is not None
        self._server.close()
        self._passes.set()
        for writer in tuple(self._open):
            writer.transport.abort()

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def fall_silent(self) -> None:
        """Nothing passes any more, and nobody is told."""
        self._passes.clear()

    def speak(self) -> None:
        self._passes.set()

    def write_kubeconfig(self, path: Path) -> Path:
        """The cluster's own kubeconfig, but this way."""
        config = json.loads(self._cluster.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self._port}"
        path.write_text(json.dumps(config))
        return path

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self._cluster.port)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, to_there}
        await asyncio.gather(self._pass(reader, to_there), self._pass(there, writer))
        self._open -= {writer, to_there}

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                await self._passes.wait()
                writer.write(chunk)
                await writer.drain()
        writer.close()
