"""Does the source tell what is, against a real kube-apiserver?"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import yaml

from kubernetes.api import CLASSES, VOLUMES, a_class, a_volume, talking_to
from kubernetes.heard import BRISK, watching
from kubernetes.relay import Relay
from truetally.clock import SystemClock
from truetally.errors import SourceUnavailable
from truetally.model.observations import SourceState, Trouble
from truetally.model.refs import Kind

pytestmark = pytest.mark.controlplane

SNAPSHOT_KINDS = {Kind.VOLUME_SNAPSHOT, Kind.VOLUME_SNAPSHOT_CONTENT, Kind.VOLUME_SNAPSHOT_CLASS}
SNAPSHOT_CRDS = sorted((Path(__file__).parent / "snapshot_crds").glob("*.yaml"))
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SNAPSHOTS = "/apis/snapshot.storage.k8s.io/v1"
DAILY = {
    "apiVersion": "snapshot.storage.k8s.io/v1",
    "kind": "VolumeSnapshotClass",
    "metadata": {"name": "daily"},
    "driver": "org.democratic-csi.nfs",
    "deletionPolicy": "Delete",
}


async def test_every_kind_is_listed_and_the_cluster_tells_its_version(cluster):
    async with watching(cluster.kubeconfig) as (source, heard):
        await heard.complete()
        await heard.until(lambda: source.status().version)
    status = source.status()
    assert status.version.startswith("v1.")
    assert status.state is SourceState.CONNECTED


async def test_a_created_a_changed_and_a_deleted_object_are_each_told(cluster):
    async with talking_to(cluster) as api, watching(cluster.kubeconfig) as (_, heard):
        await heard.complete()
        await api.post(CLASSES, a_class("told"))
        await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, "told"))
        await api.patch(f"{CLASSES}/told", {"allowVolumeExpansion": True})
        await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, "told")[-1].value.allow_expansion)
        await api.delete(f"{CLASSES}/told")
        await heard.until(lambda: heard.gone(Kind.STORAGE_CLASS, "told"))


async def test_a_bound_claim_is_told_with_its_volume_and_its_pod(cluster):
    async with talking_to(cluster) as api, watching(cluster.kubeconfig) as (_, heard):
        await heard.complete()
        await api.post(VOLUMES, a_volume("bound-pv", storageClassName=""))
        claims = "/api/v1/namespaces/default/persistentvolumeclaims"
        await api.post(
            claims,
            {
                "metadata": {"name": "bound"},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": "",
                    "volumeName": "bound-pv",
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            },
        )
        volume = {"name": "data", "persistentVolumeClaim": {"claimName": "bound"}}
        await api.post(
            "/api/v1/namespaces/default/pods",
            {
                "metadata": {"name": "user"},
                "spec": {"containers": [{"name": "c", "image": "i"}], "volumes": [volume]},
            },
        )
        claim, pod = Kind.PERSISTENT_VOLUME_CLAIM, Kind.POD
        await heard.until(lambda: heard.seen(pod, "default/user"))
        await heard.until(
            lambda: any(one.value.phase == "Bound" for one in heard.seen(claim, "default/bound"))
        )
        await heard.until(lambda: heard.seen(Kind.PERSISTENT_VOLUME, "bound-pv")[-1].value.phase == "Bound")
    volume = heard.seen(Kind.PERSISTENT_VOLUME, "bound-pv")[-1].value
    assert volume.claim.name == "bound"
    assert volume.capacity_bytes == 2**30
    assert volume.csi.volume_handle == "bound-pv"
    assert heard.seen(pod, "default/user")[-1].value.claims == ("bound",)
    assert heard.seen(claim, "default/bound")[-1].value.volume_name == "bound-pv"


async def test_a_kind_of_many_pages_is_listed_in_full(own_cluster):
    names = {f"page-{number:04}" for number in range(1101)}
    async with talking_to(own_cluster) as api:
        await asyncio.gather(*(api.post(CLASSES, a_class(name)) for name in names))
    async with watching(own_cluster.kubeconfig) as (_, heard):
        await heard.complete()
    (listed,) = heard.lists(Kind.STORAGE_CLASS)
    assert listed.names == names
    assert all(len(heard.seen(Kind.STORAGE_CLASS, name)) == 1 for name in names)


async def test_a_volume_deleted_while_the_apiserver_was_away_is_not_missed(own_cluster):
    async with talking_to(own_cluster) as api:
        for name in ("kept", "deleted"):
            await api.post(CLASSES, a_class(name))
    async with watching(own_cluster.kubeconfig) as (source, heard):
        await heard.complete()
        own_cluster.kill_apiserver()
        await heard.until(lambda: heard.lost(Kind.STORAGE_CLASS))
        assert source.status().state is SourceState.UNREACHABLE
        lists = len(heard.lists(Kind.STORAGE_CLASS))
        await asyncio.to_thread(own_cluster.start_apiserver)
        async with talking_to(own_cluster) as api:
            await api.delete(f"{CLASSES}/deleted")
            await api.post(CLASSES, a_class("new"))
        await heard.until(lambda: heard.tally(Kind.STORAGE_CLASS) == {"kept", "new"})
        await heard.until(lambda: len(heard.lists(Kind.STORAGE_CLASS)) > lists)
        await heard.until(lambda: source.status().state is SourceState.CONNECTED)


async def test_a_watch_that_etcd_has_forgotten_is_answered_by_a_new_list(uncached_cluster, tmp_path):
    async with talking_to(uncached_cluster) as api, Relay(uncached_cluster) as relay:
        await api.post(CLASSES, a_class("old"))
        patient = msgspec.structs.replace(BRISK, lost_after=timedelta(minutes=1))
        async with watching(relay.write_kubeconfig(tmp_path / "kubeconfig"), patient) as (_, heard):
            await heard.complete()
            await api.post(CLASSES, a_class("watched"))
            await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, "watched"))
            lists = len(heard.lists(Kind.STORAGE_CLASS))
            await relay.cut()
            await api.delete(f"{CLASSES}/watched")
            await api.delete(f"{CLASSES}/old")
            latest = (await api.post(CLASSES, a_class("fresh")))["metadata"]["resourceVersion"]
            uncached_cluster.compact_etcd(int(latest))
            await relay.mend()
            await heard.until(lambda: heard.tally(Kind.STORAGE_CLASS) == {"fresh"})
    assert not heard.lost(Kind.STORAGE_CLASS)
    assert len(heard.lists(Kind.STORAGE_CLASS)) == lists + 1


async def test_a_short_break_is_bridged_without_a_list_and_without_a_loss(own_cluster, tmp_path):
    async with talking_to(own_cluster) as api, Relay(own_cluster) as relay:
        await api.post(CLASSES, a_class("old"))
        patient = msgspec.structs.replace(BRISK, lost_after=timedelta(minutes=1))
        async with watching(relay.write_kubeconfig(tmp_path / "kubeconfig"), patient) as (source, heard):
            await heard.complete()
            await api.post(CLASSES, a_class("watched"))
            await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, "watched"))
            await relay.cut()
            await api.delete(f"{CLASSES}/old")
            await relay.mend()
            await heard.until(lambda: heard.gone(Kind.STORAGE_CLASS, "old"))
        assert source.status().reconnects >= 1
    assert not heard.lost(Kind.STORAGE_CLASS)
    assert len(heard.lists(Kind.STORAGE_CLASS)) == 1


async def test_a_connection_that_falls_silent_is_given_up(own_cluster, tmp_path):
    async with talking_to(own_cluster) as api, Relay(own_cluster) as relay:
        hasty = msgspec.structs.replace(BRISK, watch_for=timedelta(seconds=1), grace=timedelta(seconds=1))
        async with watching(relay.write_kubeconfig(tmp_path / "kubeconfig"), hasty) as (_, heard):
            await heard.complete()
            relay.fall_silent()
            await heard.until(lambda: heard.lost(Kind.STORAGE_CLASS, Trouble.UNREACHABLE))
            await api.post(CLASSES, a_class("meanwhile"))
            relay.speak()
            await heard.until(lambda: "meanwhile" in heard.tally(Kind.STORAGE_CLASS))
    assert "does not answer in time" in heard.lost(Kind.STORAGE_CLASS)[0].reason


async def test_snapshot_kinds_are_absent_until_their_crds_are_installed_and_after_they_are_removed(
    own_cluster,
):
    async with talking_to(own_cluster) as api, watching(own_cluster.kubeconfig) as (_, heard):
        await heard.complete()
        assert {kind for kind in SNAPSHOT_KINDS if heard.lists(kind)[-1].absent} == SNAPSHOT_KINDS
        for crd in SNAPSHOT_CRDS:
            await api.post(CRDS, yaml.safe_load(crd.read_text()))
        await heard.until(lambda: not any(heard.lists(kind)[-1].absent for kind in SNAPSHOT_KINDS))
        await api.post(f"{SNAPSHOTS}/volumesnapshotclasses", DAILY)
        await heard.until(lambda: heard.seen(Kind.VOLUME_SNAPSHOT_CLASS, "daily"))
        await api.delete(f"{CRDS}/volumesnapshotclasses.snapshot.storage.k8s.io")
        await heard.until(lambda: heard.lists(Kind.VOLUME_SNAPSHOT_CLASS)[-1].absent)
    assert heard.seen(Kind.VOLUME_SNAPSHOT_CLASS, "daily")[0].value.driver == "org.democratic-csi.nfs"


async def test_a_list_that_was_asked_for_is_told_before_the_call_returns_and_shared(cluster):
    async with watching(cluster.kubeconfig) as (source, heard):
        await heard.complete()
        asked_after = SystemClock().ticks()
        wanted = frozenset({Kind.PERSISTENT_VOLUME, Kind.POD})
        await asyncio.gather(*(source.relist(wanted) for _ in range(8)))
        fresh = [one for one in heard.lists(Kind.POD) if one.asked_at >= asked_after]
    # The first list may have been asked for before the other callers came: then those share a second one.
    assert 1 <= len(fresh) <= 2
    assert heard.lists(Kind.PERSISTENT_VOLUME)[-1].asked_at >= asked_after


async def test_a_list_that_cannot_be_had_is_refused_to_whoever_asked(own_cluster):
    async with watching(own_cluster.kubeconfig) as (source, heard):
        await heard.complete()
        own_cluster.kill_apiserver()
        with pytest.raises(SourceUnavailable, match="cannot connect"):
            await source.relist(frozenset({Kind.PERSISTENT_VOLUME}))
