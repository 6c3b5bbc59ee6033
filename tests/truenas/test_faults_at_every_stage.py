"""Every fault, at every stage of a connection, on both protocols and all engines: afterwards truetally knows
exactly what the NAS has, and the fault itself was no finding.

The cases of a stage run side by side, each with a NAS, a cluster, both sources and a reconciler of its own.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from truenas.scripted import nas_settings
from truetally.clock import SystemClock
from truetally.lab.nas.state import inventory
from truetally.lab.world import DRIVER, INSTANCE, PARENT, SNAPSHOTS_PARENT, LabWorld
from truetally.model.findings import State
from truetally.model.observations import SourceState
from truetally.model.refs import Kind
from truetally.reconciler import Reconciler
from truetally.settings import ClusterSettings, Settings
from truetally.sources.kubernetes.source import ClusterSource
from truetally.sources.truenas.limiter import LoginPace
from truetally.sources.truenas.logins import Credential
from truetally.sources.truenas.source import NasSource, Pace

GRACE = timedelta(seconds=0.3)
QUICK = Pace(
    debounce=timedelta(milliseconds=20),
    look_at_key=timedelta(milliseconds=50),
    logins=LoginPace(apart=0.0, first_pause=0.05, last_pause=0.2, refused_pause=0.2, most=1000),
)
VERSIONS = ("24.10", "25.10", "26.0")

# What happens to the n-th call of a method. All of it is over by itself, but for the stall: the test ends it.
FAULTS: dict[str, Callable] = {
    "an error": lambda faults, method, nth: faults.fail(method, nth=nth),
    "not now": lambda faults, method, nth: faults.fail(method, nth=nth, number=errno.EBUSY),
    "no answer": lambda faults, method, nth: faults.drop(method, nth=nth),
    "half an answer": lambda faults, method, nth: faults.truncate(method, nth=nth),
    "cut in the middle": lambda faults, method, nth: faults.cut(method, nth=nth),
    "silence": lambda faults, method, nth: faults.stall(method, nth=nth),
    "a restart": lambda faults, method, nth: faults.restart(method, nth=nth),
    "the wrong order": lambda faults, method, nth: faults.hold(method, nth=nth),
    "slow": lambda faults, method, nth: faults.latency_of.update({method: 0.3}),
}
# Before there is a session only some of it can happen.
OF_HTTP = ("an error", "cut in the middle", "silence", "slow")


@dataclass
class Stage:
    """When a fault strikes: at which call of what, by version, and whether the source is watching by then."""

    method: Callable[[str], str]
    nth: int = 1
    watching: bool = False
    faults: tuple[str, ...] = tuple(FAULTS)


def _login(version: str) -> str:
    return "auth.login_with_api_key" if version < "25" else "auth.login_ex"


def _datasets(version: str) -> str:
    return "pool.dataset.query" if version < "25.10" else "zfs.resource.query"


def _snapshots(version: str) -> str:
    return "zfs.snapshot.query" if version < "25.10" else "pool.snapshot.query"


STAGES = {
    "finding out the version": Stage(lambda _: "/api/versions", faults=OF_HTTP),
    "opening": Stage(lambda v: "/websocket" if v < "25" else "/api/current", faults=OF_HTTP),
    "login": Stage(_login),
    "the first datasets": Stage(_datasets),
    "the first pools": Stage(lambda _: "pool.query"),
    "the first shares": Stage(lambda _: "sharing.nfs.query"),
    "the first snapshots": Stage(_snapshots),
    "subscription": Stage(lambda _: "core.subscribe", nth=3),
    "datasets, later": Stage(_datasets, watching=True),
    "shares, later": Stage(lambda _: "sharing.nfs.query", watching=True),
    "any call, later": Stage(lambda _: "*", nth=5, watching=True),
}


class Case:
    """One fault at one stage."""

    def __init__(self, version: str, stage: Stage, fault: str, directory) -> None:
        self.version, self.stage, self.fault = version, stage, fault
        age = timedelta(days=1)
        self.world = LabWorld(lambda: datetime.now(UTC) - age, version)
        self.world.furnish()
        self.world.populate(6, 1)
        age = timedelta(0)
        self.kubeconfig = directory / f"{fault}.kubeconfig"
        self.opened: list[str] = []

    async def record(self, transitions) -> None:
        self.opened += [
            f"{t.finding.rule}: {t.finding.summary}" for t in transitions if t.finding.state is State.OPEN
        ]

    async def play(self, *, quiet: bool = True) -> None:
        nas, cluster = self.world.nas, self.world.cluster
        await nas.start()
        await cluster.start()
        cluster.write_kubeconfig(self.kubeconfig)
        settings = self._settings(nas.port)
        self.reconciler = Reconciler(settings, SystemClock(), self.record)
        key = nas.add_key("truetally", ("READONLY_ADMIN", "SHARING_SMB_WRITE"))
        emit = self.reconciler.emit
        self.source = NasSource(
            settings.nas[0], lambda: Credential("truetally", key), emit, SystemClock(), QUICK
        )
        here = ClusterSource(settings.clusters[0], emit, SystemClock())
        self.reconciler.watch({"prod": here}, {"nas1": self.source})
        if not self.stage.watching:
            self._strike()
        self.tasks = [asyncio.create_task(each.run()) for each in (self.reconciler, here, self.source)]
        try:
            if self.stage.watching:
                await self._until(self._knows_all)
                self._strike()
            await self._until(lambda: not nas.faults.planned)
            self.world.driver.create_volume("pvc-new")  # a change whose event may be lost
            if self.fault == "silence":
                await asyncio.sleep(0.5)
                nas.resume()
            nas.faults.latency_of.clear()
            self.world.driver.delete_volume("pvc-new")
            await self._until(self._knows_all)
            if not quiet:
                await self._until(lambda: self.opened)
                return
            await asyncio.sleep(3 * GRACE.total_seconds())
            assert self._knows_all()
            assert self.opened == []
        finally:
            nas.resume()
            for task in self.tasks:
                task.cancel()
            ended = await asyncio.gather(*self.tasks, return_exceptions=True)
            await cluster.stop()
            await nas.stop()
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended

    def _strike(self) -> None:
        FAULTS[self.fault](self.world.nas.faults, self.stage.method(self.version), self.stage.nth)

    def _knows_all(self) -> bool:
        graph = self.reconciler.graph
        for kind, names in inventory(self.world.nas.machine).items():
            ours = Kind("".join(word.capitalize() for word in kind.split("_")))
            if not graph.proves_absence("nas1", ours) or sorted(graph.nodes("nas1", ours)) != sorted(names):
                return False
        return self.source.status().state is SourceState.CONNECTED

    async def _until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                assert not any(task.done() for task in self.tasks), "something has ended"
                await asyncio.sleep(0.02)

    def _settings(self, port: int) -> Settings:
        quick = {"call_timeout": "400ms", "reconcile_every": "300ms", "seldom_every": "300ms"}
        driver = {
            "driver": DRIVER,
            "cluster": "prod",
            "nas": "nas1",
            "parent": PARENT,
            "snapshots_parent": SNAPSHOTS_PARENT,
            "instance_id": INSTANCE,
        }
        return Settings.model_validate(
            {
                "clusters": [ClusterSettings(name="prod", kubeconfig=self.kubeconfig)],
                "nas": [nas_settings(port, addresses=("127.0.0.1",), snapshots_every="300ms", **quick)],
                "drivers": [driver],
                "rules": {"grace": f"{GRACE.total_seconds():g}s"},
            }
        )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stage", STAGES)
async def test_after_a_fault_all_is_known_and_nothing_was_a_finding(stage, version, tmp_path):
    cases = [Case(version, STAGES[stage], fault, tmp_path) for fault in STAGES[stage].faults]
    ended = await asyncio.gather(*(case.play() for case in cases), return_exceptions=True)
    failed = {case.fault: repr(error) for case, error in zip(cases, ended, strict=True) if error}
    assert failed == {}


async def test_what_is_really_left_behind_is_found_in_the_same_setting(tmp_path):
    """So that the silence above means something."""
    case = Case("25.10", STAGES["datasets, later"], "an error", tmp_path)
    volume = case.world.provision("default", "lost")
    case.world.lose(volume)
    await case.play(quiet=False)
    assert any(volume.dataset in told for told in case.opened)
