"""truetally watches while the real democratic-csi works: its recorded calls are replayed against the lab NAS.

After every single HTTP request of the driver both sides are read through the real protocols, and every rule
that could accuse is asked about every object as it would be hours later. It must have no suspicion at all:
what looks strange in the middle of a CSI call belongs to something that Kubernetes still has.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import product

import pytest

from lab_nas.trace import Replay, load
from truenas.scripted import nas_settings
from truetally.clock import SystemClock
from truetally.findings.catalogue import RULES
from truetally.findings.rule import Evidence, gaps
from truetally.graph.graph import Changes, Graph
from truetally.graph.world import World
from truetally.lab.cluster import LabCluster, objects
from truetally.lab.nas import Driver, LabNas
from truetally.lab.nas.driver import Step
from truetally.model.observations import SourceState
from truetally.model.refs import KUBERNETES_KINDS, TRUENAS_KINDS, Kind, Ref
from truetally.settings import ClusterSettings, Settings
from truetally.sources.kubernetes.source import ClusterSource
from truetally.sources.truenas.logins import Credential
from truetally.sources.truenas.source import NasSource

ACCUSING = [rule for rule in RULES if rule.reread is not None]
LATER = timedelta(hours=3)
# 26 has no REST; on 25.10 the requests of 1.9.4 are put into the words of the branch that works there.
WITH_REST = ("22.12", "23.10", "24.04", "24.10", "25.04", "25.10")
PLAYED = [(p, v) for p in ("nfs", "smb", "iscsi") for v in WITH_REST] + [("nvmeof", "25.10")]
OVER_SSH = [(p, v) for p in ("nfs", "smb", "iscsi") for v in ("24.10", "25.10", "26.0")]
OVER_SSH += [("nvmeof", "25.10"), ("nvmeof", "26.0")]


class Kubernetes:
    """What the sidecars would have in the cluster before and after each CSI call."""

    def __init__(self, protocol: str) -> None:
        self.driver = f"org.democratic-csi.{protocol}"
        self.cluster = LabCluster(SystemClock().now, snapshot_crds=True)
        self.cluster.apply(objects.csi_driver(self.driver))
        self.cluster.apply(objects.storage_class("csi", self.driver, default=True))
        self.cluster.apply(objects.snapshot_class("csi", self.driver))
        self.cluster.apply(objects.namespace("default"))

    def before(self, rpc: str, asked: dict) -> None:
        if rpc == "CreateVolume":
            uid = asked["name"].removeprefix("pvc-")
            if self.cluster.get(Kind.PERSISTENT_VOLUME, asked["name"]) is None:
                self.cluster.apply(objects.claim("default", uid, "csi", uid=uid, driver=self.driver))
        elif rpc == "CreateSnapshot":
            self.cluster.apply(self._snapshot(asked))
        elif rpc == "DeleteVolume":
            volume = self.cluster.get(Kind.PERSISTENT_VOLUME, asked["volume_id"])
            if volume is not None and volume["status"]["phase"] == "Bound":
                claim = volume["spec"]["claimRef"]["name"]
                self.cluster.delete(Kind.PERSISTENT_VOLUME_CLAIM, claim, "default")
                self.cluster.apply(volume | {"status": {"phase": "Released"}})

    def after(self, call) -> None:
        if call.error is not None:
            return
        if call.rpc == "CreateVolume":
            uid = call.request["name"].removeprefix("pvc-")
            claim = self.cluster.get(Kind.PERSISTENT_VOLUME_CLAIM, uid, "default")
            volume = objects.volume(
                claim,
                call.volume["volume_context"],
                driver=self.driver,
                handle=call.volume["volume_id"],
                fs_type="",
            )
            self.cluster.apply(objects.bound(claim, self.cluster.apply(volume)))
        elif call.rpc == "CreateSnapshot":
            snapshot = self._snapshot(call.request)
            volume = self.cluster.get(Kind.PERSISTENT_VOLUME, call.request["source_volume_id"])
            self.cluster.apply(
                objects.snapshot_content(snapshot, volume, handle=call.snapshot["snapshot_id"])
            )
        elif call.rpc == "DeleteVolume":
            if self.cluster.get(Kind.PERSISTENT_VOLUME, call.request["volume_id"]) is not None:
                self.cluster.delete(Kind.PERSISTENT_VOLUME, call.request["volume_id"])
        elif call.rpc == "DeleteSnapshot":
            uid = call.request["snapshot_id"].rpartition("snapshot-")[2]
            self.cluster.delete(Kind.VOLUME_SNAPSHOT_CONTENT, f"snapcontent-{uid}")
            self.cluster.delete(Kind.VOLUME_SNAPSHOT, uid, "default")

    def _snapshot(self, asked: dict):
        uid = asked["name"].removeprefix("snapshot-")
        claim = asked["source_volume_id"].removeprefix("pvc-")
        return objects.snapshot("default", uid, claim, "csi", uid=uid)


class Watcher:
    """Both sources, the graph they fill, and what the rules think of it."""

    def __init__(self, nas: NasSource, cluster: ClusterSource, settings: Settings) -> None:
        self.nas, self.cluster, self.settings = nas, cluster, settings
        self.graph = Graph(settings.rules.grace.total_seconds())
        self.looks = 0

    async def emit(self, batch) -> None:
        for observation in batch:
            self.graph.apply(observation, Changes())

    async def look(self, when: str) -> None:
        """Reads both sides; a suspicion of anything fails the test."""
        await self.nas.relist(TRUENAS_KINDS)
        await self.cluster.relist(KUBERNETES_KINDS)
        self.looks += 1
        clock = SystemClock()
        world = World(self.graph, self.settings, clock.now() + LATER, clock.ticks() + LATER.total_seconds())
        assert self._suspicions(world) == {}, when

    def _suspicions(self, world: World) -> dict[tuple[str, Ref], str]:
        found = {}
        for rule in ACCUSING:
            for subject in self.graph.refs(rule.subject):
                assert gaps(rule, subject, world) == ()
                judged = rule.judge(subject, world)
                if isinstance(judged, Evidence):
                    found[rule.id, subject] = judged.summary
        return found


@asynccontextmanager
async def watched(nas: LabNas, kubernetes: Kubernetes, protocol: str, directory):
    await nas.start()
    await kubernetes.cluster.start()
    kubeconfig = directory / "kubeconfig"
    kubernetes.cluster.write_kubeconfig(kubeconfig)
    here = ClusterSettings(name="prod", kubeconfig=kubeconfig)
    there = nas_settings(nas.port, addresses=("10.0.0.10",), call_timeout="10s")
    driver = {
        "driver": kubernetes.driver,
        "cluster": "prod",
        "nas": "nas1",
        "parent": f"tank/k8s/{protocol}/vols",
        "snapshots_parent": f"tank/k8s/{protocol}/snaps",
        "instance_id": "cluster-a",
    }
    settings = Settings.model_validate({"clusters": [here], "nas": [there], "drivers": [driver]})
    watcher = Watcher(None, None, settings)
    key = nas.add_key("truetally", ("READONLY_ADMIN", "SHARING_SMB_WRITE"))
    watcher.nas = NasSource(there, lambda: Credential("truetally", key), watcher.emit, SystemClock())
    watcher.cluster = ClusterSource(here, watcher.emit, SystemClock())
    tasks = [asyncio.create_task(each.run()) for each in (watcher.nas, watcher.cluster)]
    try:
        async with asyncio.timeout(30):
            while (
                watcher.nas.status().state is not SourceState.CONNECTED
                or not watcher.cluster.status().version
            ):
                assert not any(task.done() for task in tasks)
                await asyncio.sleep(0.02)
            while watcher.nas.status().state is not SourceState.CONNECTED:
                await asyncio.sleep(0.02)
        yield watcher
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await kubernetes.cluster.stop()
        await nas.stop()


@pytest.mark.parametrize(("protocol", "version"), PLAYED)
async def test_nothing_that_the_driver_does_is_suspected_at_any_step(protocol, version, tmp_path):
    nas, kubernetes = LabNas(version), Kubernetes(protocol)
    nas.zfs.create_pool("tank")
    async with watched(nas, kubernetes, protocol, tmp_path) as watcher:
        replay = Replay(nas, load(protocol, version)).prepare()
        replay.before = kubernetes.before

        async def look(exchange) -> None:
            await watcher.look(exchange.told)

        replay.after_exchange = look
        async for call in replay:
            kubernetes.after(call)
            await watcher.look(f"after {call.rpc} {call.label}")
        assert watcher.looks > 150
        assert watcher.graph.count(Kind.DATASET) > 3


class Called:
    """A CSI call that the lab's own driver made, as `Kubernetes.after` takes it."""

    def __init__(self, rpc: str, request: dict, volume: tuple | None = None, snapshot: str = "") -> None:
        self.rpc, self.request, self.error = rpc, request, None
        self.volume = volume and {"volume_id": volume[0], "volume_context": volume[1]}
        self.snapshot = {"snapshot_id": snapshot}


@pytest.mark.parametrize(("protocol", "version"), OVER_SSH)
async def test_nothing_that_a_driver_leaves_half_done_over_ssh_is_suspected(protocol, version, tmp_path):
    nas, kubernetes = LabNas(version), Kubernetes(protocol)
    nas.zfs.create_pool("tank")
    driver = Driver(
        nas,
        f"tank/k8s/{protocol}/vols",
        f"tank/k8s/{protocol}/snaps",
        protocol,
        kubernetes.driver,
        "cluster-a",
        server="10.0.0.10",
    )
    async with watched(nas, kubernetes, protocol, tmp_path) as watcher:
        first = {"name": f"pvc-{_uid(1)}"}
        kubernetes.before("CreateVolume", first)
        kubernetes.after(Called("CreateVolume", first, driver.create_volume(first["name"])))
        await watcher.look("a volume")
        for detached in (False, True):
            taken = {"name": f"snapshot-{_uid(2 + detached)}", "source_volume_id": first["name"]}
            kubernetes.before("CreateSnapshot", taken)
            handle = driver.create_snapshot(first["name"], taken["name"], detached=detached)
            await watcher.look("a snapshot without its content")
            kubernetes.after(Called("CreateSnapshot", taken, snapshot=handle))
            await watcher.look("a snapshot")
        sources = [None, first["name"], handle]
        made = []
        for number, (source, step) in enumerate(product(sources, Step), start=10):
            asked = {"name": f"pvc-{_uid(number)}"}
            kubernetes.before("CreateVolume", asked)
            volume = driver.create_volume(asked["name"], source=source, stop_after=step)
            await watcher.look(f"a volume from {source} after {step}")
            if step is Step.COMPLETE:
                kubernetes.after(Called("CreateVolume", asked, volume))
                made.append(volume[0])
                await watcher.look(f"a volume from {source}")
        for handle, step in zip(made, (Step.SHARE_DELETED, Step.ORIGIN_DELETED, Step.COMPLETE), strict=True):
            kubernetes.before("DeleteVolume", {"volume_id": handle})
            driver.delete_volume(handle, stop_after=step)
            await watcher.look(f"a deletion after {step}")
        assert watcher.looks > 30


def _uid(number: int) -> str:
    return f"1b4f5f0e-8f1a-4c8a-9d0e-{number:012}"


async def test_what_the_driver_left_after_its_volume_is_gone_is_suspected(tmp_path):
    """So that the silence above means something."""
    nas, kubernetes = LabNas("25.04"), Kubernetes("nfs")
    nas.zfs.create_pool("tank")
    async with watched(nas, kubernetes, "nfs", tmp_path) as watcher:
        replay = Replay(nas, load("nfs")).prepare()
        replay.before = kubernetes.before
        async for call in replay:
            kubernetes.after(call)
            if call.rpc == "CreateVolume":
                break
        kubernetes.cluster.delete(Kind.PERSISTENT_VOLUME, call.volume["volume_id"])
        uid = call.request["name"].removeprefix("pvc-")
        kubernetes.cluster.delete(Kind.PERSISTENT_VOLUME_CLAIM, uid, "default")
        with pytest.raises(AssertionError, match="dataset-without-volume"):
            await watcher.look("after its volume was lost")
