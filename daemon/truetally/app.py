"""The daemon: builds the parts, starts them in order, watches over them, and stops them in order.

Start: history, reconciler, notifications, status socket, sources; then READY. Stop: the
sources first, so that nothing new comes; then what is known is recorded, what is due is
told, and the history is closed last. An exception that nobody expected ends the process:
the service manager starts it again, and nothing that was acknowledged is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import structlog

from truetally import logs
from truetally.api.server import StatusServer
from truetally.clock import Clock, SystemClock
from truetally.configuration.loading import check
from truetally.configuration.secrets import resolve
from truetally.errors import ConfigurationInvalid, HistoryUnavailable, TruetallyError
from truetally.findings import catalogue
from truetally.history.history import History
from truetally.history.recorder import Recorder
from truetally.history.retention import keep_purging
from truetally.model.answers import ReceiverAnswer
from truetally.model.findings import Transition
from truetally.model.observations import SourceStatus
from truetally.notify import receivers
from truetally.notify.dispatcher import Dispatcher
from truetally.notify.routing import Router
from truetally.pace import LoopLag
from truetally.reconciler import Reconciler
from truetally.service import Notifier
from truetally.settings import ClusterSettings, NasSettings, Settings
from truetally.sources.kubernetes.source import ClusterSource
from truetally.sources.truenas.logins import observer
from truetally.sources.truenas.source import NasSource
from truetally.tally import Tally

log = structlog.get_logger(__name__)

EXIT_OK, EXIT_FAILURE, EXIT_CONFIG = 0, 1, 2

_RECORD_WITHIN = timedelta(seconds=5)
_FLUSH_WITHIN = timedelta(seconds=10)
_DRAIN_WITHIN = timedelta(seconds=10)
_STATUS_EVERY = 5.0
# From malloc.h.
_M_MMAP_THRESHOLD = -3
_LARGE_BLOCK = 256 * 1024


class Sources:
    """The clusters and NAS that are watched, each in a task of its own."""

    def __init__(
        self, reconciler: Reconciler, clock: Clock, tasks: asyncio.TaskGroup, environ: Mapping[str, str]
    ) -> None:
        self._environ = environ
        self._reconciler = reconciler
        self._clock = clock
        self._tasks = tasks
        self._running: dict[str, tuple[object, asyncio.Task[None]]] = {}
        self.clusters: dict[str, ClusterSource] = {}
        self.nas: dict[str, NasSource] = {}

    async def take(self, settings: Settings) -> list[str]:
        """Starts what is new, restarts what has changed, leaves the rest alone.

        What is known of a source that is gone or has become another is forgotten before anything new is
        emitted. Returns the names of those.
        """
        wanted: dict[str, ClusterSettings | NasSettings] = {s.name: s for s in settings.clusters}
        wanted |= {s.name: s for s in settings.nas}
        dropped = [name for name, (config, _) in self._running.items() if wanted.get(name) != config]
        await self._stop(dropped)
        await self._reconciler.reload(settings, dropped)
        for name, each in wanted.items():
            if name not in self._running:
                self._start(each)
        self._reconciler.watch(dict(self.clusters), dict(self.nas))
        return dropped

    def _start(self, config: ClusterSettings | NasSettings) -> None:
        source: ClusterSource | NasSource
        if isinstance(config, ClusterSettings):
            source = self.clusters[config.name] = ClusterSource(config, self._reconciler.emit, self._clock)
        else:
            source = self.nas[config.name] = NasSource(
                config, lambda: observer(config, self._environ), self._reconciler.emit, self._clock
            )
        task = self._tasks.create_task(source.run(), name=f"source {config.name}")
        self._running[config.name] = (config, task)
        log.info("source started", source=config.name)

    async def _stop(self, names: Sequence[str]) -> None:
        """Stops these sources and waits until they have ended, so that none of them emits any more."""
        tasks = [self._running.pop(name)[1] for name in names]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for name in names:
            self.clusters.pop(name, None)
            self.nas.pop(name, None)
            log.info("source stopped", source=name)

    async def stop(self) -> None:
        """Stops all sources."""
        await self._stop(list(self._running))

    def statuses(self) -> list[SourceStatus]:
        """How each source is, in the order of the configuration."""
        clusters = [cluster.status() for cluster in self.clusters.values()]
        return clusters + [nas.status() for nas in self.nas.values()]


class Daemon:
    """One truetally, from its configuration file to its last breath."""

    def __init__(self, config_file: Path, environ: Mapping[str, str], clock: Clock | None = None) -> None:
        self._config_file = config_file
        self._environ = environ
        self._clock = clock or SystemClock()
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Event()
        self._warnings: tuple[str, ...] = ()
        self._notifier = Notifier.from_environment(environ)
        self._lag = LoopLag()

    def stop(self) -> None:
        """Asks the daemon to stop in good order."""
        self._stopping.set()

    def reload(self) -> None:
        """Asks the daemon to read its configuration again."""
        self._reloading.set()

    async def run(self) -> None:
        """Runs until `stop()`.

        Raises:
            ConfigurationInvalid: the configuration has mistakes.
            HistoryUnavailable: the history cannot be opened.
        """
        settings = self._read_settings()
        logs.configure(settings.log.format, settings.log.level)
        told = await self._receivers(settings)
        history = await History.open(settings.history.path, self._clock)
        try:
            await self._work(settings, history, told)
        finally:
            await history.close()
        log.info("truetally stopped")

    def _read_settings(self) -> Settings:
        checked = check(self._config_file, self._environ, self._clock.now().date(), catalogue.BY_ID)
        if checked.settings is None:
            raise ConfigurationInvalid("\n".join(map(str, checked.mistakes)), checked.mistakes)
        self._warnings = tuple(map(str, checked.warnings))
        for warning in self._warnings:
            log.warning("configuration doubtful", warning=warning)
        return checked.settings

    async def _receivers(self, settings: Settings) -> Mapping[str, receivers.Receiver]:
        urls = {r.name: resolve(r.url, self._environ) for r in settings.notify.receivers}
        return await receivers.load(settings.notify, urls)

    async def _work(
        self, settings: Settings, history: History, told: Mapping[str, receivers.Receiver]
    ) -> None:
        router = Router(settings.notify, await history.told())
        dispatcher = Dispatcher(history, told, self._clock)
        recorder = Recorder(history, lambda _: dispatcher.wake())

        async def record(transitions: Sequence[Transition]) -> None:
            await recorder.put(transitions, router.route(transitions))

        reconciler = Reconciler(settings, self._clock, record, await history.open_findings())
        reconciler.graph.recall(await history.memories())
        async with asyncio.TaskGroup() as tasks:
            sources = Sources(reconciler, self._clock, tasks, self._environ)
            tally = Tally(
                reconciler,
                history,
                self._clock,
                config_file=self._config_file,
                sources=sources.statuses,
                receivers=lambda: _receiver_answers(dispatcher),
                history_trouble=lambda: recorder.trouble or dispatcher.trouble or "ok",
                warnings=lambda: self._warnings,
                recorded=lambda: recorder.flush(_RECORD_WITHIN),
                loop_lag=lambda: self._lag.worst_seconds,
            )
            server = StatusServer(tally, settings.api)
            await server.start()
            background = [
                tasks.create_task(reconciler.run(), name="reconciler"),
                tasks.create_task(recorder.run(), name="recorder"),
                tasks.create_task(self._lag.run(), name="loop lag"),
                tasks.create_task(self._tell_service_manager(tally), name="service manager"),
                tasks.create_task(keep_purging(history, self._clock), name="retention"),
                tasks.create_task(_record_states(history, sources, reconciler), name="source states"),
            ]
            telling = tasks.create_task(dispatcher.run(), name="dispatcher")
            await sources.take(settings)
            self._notifier.ready(f"watching {len(settings.clusters)} clusters and {len(settings.nas)} NAS")
            log.info("truetally started", clusters=len(settings.clusters), nas=len(settings.nas))
            await self._until_stopped(settings, sources, reconciler, router, dispatcher)
            self._notifier.stopping("stopping")
            log.info("truetally stopping")
            await sources.stop()
            await _remember(history, reconciler)
            await recorder.flush(_FLUSH_WITHIN)
            await dispatcher.drain(_DRAIN_WITHIN)
            await server.stop()
            for task in (*background, telling):
                task.cancel()

    async def _until_stopped(
        self,
        settings: Settings,
        sources: Sources,
        reconciler: Reconciler,
        router: Router,
        dispatcher: Dispatcher,
    ) -> None:
        while not self._stopping.is_set():
            await _first(self._stopping, self._reloading)
            if self._reloading.is_set() and not self._stopping.is_set():
                self._reloading.clear()
                self._notifier.reloading(self._clock.ticks())
                settings = await self._reload(settings, sources, reconciler, router, dispatcher)
                self._notifier.ready("configuration reloaded")

    async def _reload(
        self,
        before: Settings,
        sources: Sources,
        reconciler: Reconciler,
        router: Router,
        dispatcher: Dispatcher,
    ) -> Settings:
        """Takes the configuration again; one with mistakes changes nothing."""
        try:
            settings = self._read_settings()
            told = await self._receivers(settings)
        except TruetallyError as error:
            log.error("configuration not reloaded", error=str(error))  # noqa: TRY400 - the operator's mistake, no bug
            self._warnings = (f"the configuration on disk has mistakes and is not in use: {error}",)
            return before
        if (settings.history, settings.api) != (before.history, before.api):
            self._warnings += ("changes of `history` and `api` take effect at the next start",)
        logs.configure(settings.log.format, settings.log.level)
        router.settings, dispatcher.receivers = settings.notify, told
        dropped = await sources.take(settings)
        log.info("configuration reloaded", dropped=dropped)
        return settings

    async def _tell_service_manager(self, tally: Tally) -> None:
        """The watchdog is fed from the loop itself: a loop that hangs starves it."""
        every = self._notifier.watchdog_every
        settled = False
        pause = min(_STATUS_EVERY, every.total_seconds() / 2) if every is not None else _STATUS_EVERY
        while True:
            self._notifier.watchdog()
            ready, detail = tally.ready()
            if ready and not settled:
                settled = True
                _settle_memory()
                await asyncio.sleep(0.1)  # the start has stalled the loop; what counts is what comes after it
                self._lag.forget()
            status = tally.status()
            self._notifier.status(
                f"{status.volumes} volumes, {status.findings.get('open', 0)} open findings"
                + ("" if ready else f"; {detail}")
            )
            await asyncio.sleep(pause)


def _settle_memory() -> None:
    """Takes what the first lists have brought out of the garbage collector's sight, and gives the rest back.

    A full collection over a million objects would stop the loop for a fifth of a second, again and again.
    What decoding has used is free, but glibc keeps it: at ten thousand volumes that is fifty MiB.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)
    _glibc("malloc_trim", 0)


def _return_large_blocks() -> None:
    """Lets glibc map what is large by itself, and give it back when it is freed.

    By default it learns from the first freed list of a NAS to keep such blocks: at ten thousand volumes and a
    hundred thousand snapshots that is forty MiB of holes.
    """
    _glibc("mallopt", _M_MMAP_THRESHOLD, _LARGE_BLOCK)


def _glibc(function: str, *arguments: int) -> None:
    """Calls glibc, where there is one."""
    with contextlib.suppress(OSError, AttributeError, MemoryError, ImportError):
        getattr(importlib.import_module("ctypes").CDLL("libc.so.6"), function)(*arguments)


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


async def _record_states(history: History, sources: Sources, reconciler: Reconciler) -> None:
    """Keeps in the history when which source was away, and what was once seen; only what has changed."""
    while True:
        with contextlib.suppress(HistoryUnavailable):
            await history.record_source_states(sources.statuses())
        await _remember(history, reconciler)
        await asyncio.sleep(_STATUS_EVERY)


async def _remember(history: History, reconciler: Reconciler) -> None:
    """Writes down what is to outlive its object; what cannot be written now comes again."""
    if fresh := reconciler.graph.fresh_memories():
        try:
            await history.remember(fresh)
        except HistoryUnavailable:
            reconciler.graph.keep_fresh(fresh)


def _receiver_answers(dispatcher: Dispatcher) -> list[ReceiverAnswer]:
    return [
        ReceiverAnswer(
            status.name,
            status.state.value,
            status.last_error,
            delivered=status.accepted,
            waiting=status.waiting,
        )
        for status in dispatcher.status()
    ]


async def run(config_file: Path) -> None:
    """Runs a daemon with the process's signals: SIGTERM and SIGINT stop it, SIGHUP reloads."""
    daemon = Daemon(config_file, os.environ)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stop)
    loop.add_signal_handler(signal.SIGHUP, daemon.reload)
    await daemon.run()


def main(config_file: Path) -> int:
    """Runs the daemon in the foreground; returns the exit code."""
    _return_large_blocks()
    try:
        asyncio.run(run(Path(config_file)))
    except ConfigurationInvalid as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    except TruetallyError as error:
        print(f"truetally: {error}", file=sys.stderr)
        return EXIT_FAILURE
    return EXIT_OK
