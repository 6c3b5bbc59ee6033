"""A daemon in the place of truetally: meets what the unit closes, and speaks to systemd as truetally does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiosqlite
import apprise
import kubernetes_asyncio  # noqa: F401 - it has to load under MemoryDenyWriteExecute
from aiohttp import web

from truetally.clock import SystemClock
from truetally.service import Notifier


async def main(key: str) -> None:
    notifier = Notifier.from_environment(os.environ)
    assert notifier.watchdog_every is not None
    apprise.Apprise("json://127.0.0.1")
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    await asyncio.to_thread(sum, range(10))
    async with aiosqlite.connect(Path(os.environ["STATE_DIRECTORY"], "history.sqlite3")) as database:
        await database.execute("PRAGMA journal_mode=WAL")
        await database.execute("CREATE TABLE IF NOT EXISTS starts (key TEXT)")
        await database.execute("INSERT INTO starts VALUES (?)", (key,))
        await database.commit()
        runner = web.AppRunner(web.Application())
        await runner.setup()
        await web.UnixSite(runner, str(Path(os.environ["RUNTIME_DIRECTORY"], "truetally.sock"))).start()
        notifier.ready("watching")
        while not stop.is_set():
            notifier.watchdog()
            if reload.is_set():
                reload.clear()
                notifier.reloading(SystemClock().ticks())
                notifier.ready("watching again")
            await asyncio.wait(
                [asyncio.create_task(stop.wait()), asyncio.create_task(reload.wait())],
                timeout=notifier.watchdog_every.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
        notifier.stopping("draining")
        await runner.cleanup()


if __name__ == "__main__":
    if "mistake" in Path(sys.argv[1]).read_text():
        sys.exit(2)
    asyncio.run(main(Path(os.environ["CREDENTIALS_DIRECTORY"], "nas1-api-key").read_text()))
