"""What a driver over SSH leaves of a volume whose dataset is destroyed, read through the real protocols."""

from __future__ import annotations

import pytest
from test_driver_watched import LATER, Called, Kubernetes, Watcher, watched

from truetally.clock import SystemClock
from truetally.findings import catalogue
from truetally.findings.rule import Evidence
from truetally.graph.world import World
from truetally.lab.nas import Driver, LabNas
from truetally.model.refs import KUBERNETES_KINDS, TRUENAS_KINDS, Kind, Ref

LEFT = [
    ("nfs", "25.04", "nfs-share-orphaned"),
    ("smb", "24.10", "smb-share-orphaned"),
    ("iscsi", "24.10", "extent-orphaned"),
    ("iscsi", "25.10", "extent-orphaned"),
    ("nvmeof", "25.10", "namespace-orphaned"),
    ("nvmeof", "26.0", "namespace-orphaned"),
]
UIDS = [f"1b4f5f0e-8f1a-4c8a-9d0e-{number:012}" for number in (1, 2)]


def world_of(watcher: Watcher) -> World:
    clock = SystemClock()
    return World(watcher.graph, watcher.settings, clock.now() + LATER, clock.ticks())


def found(rule: str, in_world: World) -> list[Ref]:
    declared = catalogue.BY_ID[rule]
    subjects = in_world.graph.refs(declared.subject)
    return [ref for ref in subjects if isinstance(declared.judge(ref, in_world), Evidence)]


@pytest.mark.parametrize(("protocol", "version", "rule"), LEFT)
async def test_what_exports_a_dataset_that_was_destroyed_is_found_and_confirmed(
    protocol, version, rule, tmp_path
):
    nas, kubernetes = LabNas(version), Kubernetes(protocol)
    nas.zfs.create_pool("tank")
    parent = f"tank/k8s/{protocol}/vols"
    driver = Driver(
        nas,
        parent,
        f"tank/k8s/{protocol}/snaps",
        protocol,
        kubernetes.driver,
        "cluster-a",
        server="10.0.0.10",
    )
    async with watched(nas, kubernetes, protocol, tmp_path) as watcher:
        for uid in UIDS:
            asked = {"name": f"pvc-{uid}"}
            kubernetes.before("CreateVolume", asked)
            kubernetes.after(Called("CreateVolume", asked, driver.create_volume(asked["name"])))
        await watcher.look("two volumes")
        nas.zfs.destroy(f"{parent}/pvc-{UIDS[0]}")
        await watcher.nas.relist(TRUENAS_KINDS)
        assert found(rule, world_of(watcher)) == []
        kubernetes.cluster.delete(Kind.PERSISTENT_VOLUME, f"pvc-{UIDS[0]}")
        kubernetes.cluster.delete(Kind.PERSISTENT_VOLUME_CLAIM, UIDS[0], "default")
        await watcher.cluster.relist(KUBERNETES_KINDS)
        (left,) = found(rule, world_of(watcher))

        declared, begun_at = catalogue.BY_ID[rule], SystemClock().ticks()
        asked_again = declared.reread(left, world_of(watcher))
        await watcher.nas.relist(asked_again.nas_kinds)
        await watcher.nas.reread(asked_again.objects)
        await watcher.cluster.relist(asked_again.cluster_kinds)
        assert declared.confirmed(left, world_of(watcher), begun_at) == ""
        assert found(rule, world_of(watcher)) == [left]
