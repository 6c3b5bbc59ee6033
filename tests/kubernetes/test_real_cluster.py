"""Does the source tell what is, against a real kube-apiserver?"""

from __future__ import annotations

import asyncio

import pytest

from kubernetes.api import CLASSES, VOLUMES, a_class, a_volume, talking_to
from kubernetes.heard import watching
from truetally.model.observations import SourceState
from truetally.model.refs import Kind

pytestmark = pytest.mark.controlplane


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


async def test_a_watch_that_etcd_has_forgotten_is_answered_by_a_new_list(uncached_cluster):
    async with talking_to(uncached_cluster) as api:
        await api.post(CLASSES, a_class("old"))
        async with watching(uncached_cluster.kubeconfig) as (_, heard):
            await heard.complete()
            uncached_cluster.kill_apiserver()  # the watch breaks where it stands
            await heard.until(lambda: heard.lost(Kind.STORAGE_CLASS))
            await asyncio.to_thread(uncached_cluster.start_apiserver)
            await api.delete(f"{CLASSES}/old")
            latest = (await api.post(CLASSES, a_class("fresh")))["metadata"]["resourceVersion"]
            uncached_cluster.compact_etcd(int(latest))
            await heard.until(lambda: heard.tally(Kind.STORAGE_CLASS) == {"fresh"})
