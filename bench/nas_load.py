"""What watching a NAS costs: the first inventory, and then what is asked and sent while nothing changes.

The lab's cluster and NAS run in this process, the daemon in its own. The daemon reaches the NAS through a
relay that counts every byte, so compression and protocol are included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import yaml

from truetally import logs
from truetally.lab.stage import Stage
from truetally.lab.world import LabWorld


class Relay:
    """Carries the connections to a port, and counts what comes back.

    Args:
        plain: hide that the daemon offers to take compressed messages.
    """

    def __init__(self, port: int, *, plain: bool) -> None:
        self._port = port
        self._plain = plain
        self.received_bytes = 0
        self.sent_bytes = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(self._copy(reader, forth, up=True), self._copy(back, writer, up=False))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 18):
                if up:
                    self.sent_bytes += len(data)
                    if self._plain:
                        data = data.replace(b"Sec-WebSocket-Extensions:", b"X-Hidden-From-The-Server:")
                else:
                    self.received_bytes += len(data)
                writer.write(data)
                await writer.drain()
        writer.close()


async def measure(
    version: str, volumes: int, snapshots: int, minutes: float, *, plain: bool
) -> dict[str, Any]:
    age = timedelta(days=30)
    world = LabWorld(lambda: datetime.now(UTC) - age, version)
    world.furnish()
    world.populate(volumes, snapshots)
    age = timedelta(0)
    with tempfile.TemporaryDirectory(prefix="truetally-bench-") as directory:
        stage = Stage(Path(directory), world, timedelta(hours=1), timedelta(seconds=60))
        await world.nas.start()
        await world.cluster.start()
        await stage.receiver.start()
        stage.write_files()
        relay = Relay(world.nas.port, plain=plain)
        _lead_through(stage, await relay.start())
        try:
            return await _on(stage, relay, volumes, minutes)
        finally:
            relay.stop()
            await stage.stop()


def _lead_through(stage: Stage, port: int) -> None:
    config = yaml.safe_load(stage.config.read_text())
    config["nas"][0]["url"] = f"ws://127.0.0.1:{port}"
    # As by default, and not as the lab has them.
    del config["nas"][0]["reconcile_every"], config["nas"][0]["snapshots_every"]
    stage.config.write_text(yaml.safe_dump(config))


async def _on(stage: Stage, relay: Relay, volumes: int, minutes: float) -> dict[str, Any]:
    began = time.perf_counter()
    await stage.start_daemon()

    async def complete() -> bool:
        status = await stage.ask("status")
        return bool(status["ready"]) and status["volumes"] >= volumes

    await stage.until("all kinds are complete", complete, 180.0)
    ready = time.perf_counter() - began
    daemon = psutil.Process(stage.pid)
    at_ready, first_bytes = daemon.memory_info().rss, relay.received_bytes
    await asyncio.sleep(20)  # what is judged and told after the start
    cpu, received, sent = sum(daemon.cpu_times()[:2]), relay.received_bytes, relay.sent_bytes
    calls, nas_cpu = Counter(stage.world.nas.faults.calls), time.process_time()
    await asyncio.sleep(60 * minutes)
    asked = stage.world.nas.faults.calls - calls
    return {
        "first_inventory_seconds": ready,
        "first_inventory_mb": first_bytes / 1e6,
        "rss_at_ready_mib": at_ready / 2**20,
        "rss_steady_mib": daemon.memory_info().rss / 2**20,
        "steady_cpu_share": (sum(daemon.cpu_times()[:2]) - cpu) / (60 * minutes),
        "steady_lab_cpu_share": (time.process_time() - nas_cpu) / (60 * minutes),
        "steady_mb_per_minute_from_nas": (relay.received_bytes - received) / 1e6 / minutes,
        "steady_mb_per_minute_to_nas": (relay.sent_bytes - sent) / 1e6 / minutes,
        "calls_per_hour": {name: round(n * 60 / minutes) for name, n in sorted(asked.items())},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", default="25.10")
    parser.add_argument("--volumes", type=int, default=10_000)
    parser.add_argument("--snapshots-per-volume", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--plain", action="store_true", help="as with a NAS that does not compress")
    args = parser.parse_args()
    logs.configure("console", "warning")
    found = asyncio.run(
        measure(args.version, args.volumes, args.snapshots_per_volume, args.minutes, plain=args.plain)
    )
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}, indent=2))


if __name__ == "__main__":
    main()
