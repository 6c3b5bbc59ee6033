"""Does a client that was written for real clusters find nothing odd in the lab's?"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from kubernetes_asyncio import client, config, watch

from truetally.lab.cluster import objects
from truetally.model.refs import Kind

AT = datetime(2026, 11, 24, 6, 27, 52, tzinfo=UTC)


@pytest.fixture
async def real_client(cluster, tmp_path):
    path = tmp_path / "kubeconfig"
    cluster.write_kubeconfig(path)
    configuration = client.Configuration()
    await config.load_kube_config(str(path), client_configuration=configuration)
    async with client.ApiClient(configuration) as api:
        yield api


@pytest.fixture
def populated(cluster):
    cluster.apply(objects.namespace("default"))
    cluster.apply(objects.node("worker-1"))
    cluster.apply(objects.csi_node("worker-1", [objects.DRIVER_NFS]))
    cluster.apply(objects.csi_driver(objects.DRIVER_NFS))
    cluster.apply(objects.storage_class("nfs", objects.DRIVER_NFS, default=True))
    claim = cluster.apply(objects.claim("default", "data", "nfs"))
    volume = cluster.apply(objects.volume(claim, objects.nfs_attributes("10.0.0.10", "/mnt/tank/a")))
    cluster.apply(objects.bound(claim, volume))
    cluster.apply(objects.attachment(volume, "worker-1"))
    cluster.apply(objects.pod("default", "app", ["data"], node="worker-1"))
    cluster.apply(objects.event(volume, "VolumeFailedDelete", "dataset is busy", AT, warning=True))
    return cluster


async def test_its_models_find_every_field_that_kubernetes_requires(populated, real_client):
    core, storage = client.CoreV1Api(real_client), client.StorageV1Api(real_client)
    for listing in (
        core.list_namespace,
        core.list_node,
        core.list_persistent_volume,
        core.list_persistent_volume_claim_for_all_namespaces,
        core.list_pod_for_all_namespaces,
        core.list_event_for_all_namespaces,
        storage.list_storage_class,
        storage.list_csi_driver,
        storage.list_csi_node,
        storage.list_volume_attachment,
    ):
        # The models raise ValueError where a required field is missing.
        found = await listing(limit=500)
        assert len(found.items) == 1, listing.__name__
        assert found.items[0].metadata.creation_timestamp is not None


async def test_its_watch_hears_a_change(populated, real_client):
    core = client.CoreV1Api(real_client)
    since = (await core.list_persistent_volume()).metadata.resource_version
    async with (
        asyncio.timeout(5),
        watch.Watch().stream(core.list_persistent_volume, resource_version=since) as events,
    ):
        populated.patch(Kind.PERSISTENT_VOLUME, _only_volume(populated), {"status": {"phase": "Released"}})
        event = await anext(events)
    assert (event["type"], event["object"].status.phase) == ("MODIFIED", "Released")


async def test_its_errors_carry_the_status(populated, real_client):
    populated.deny(Kind.NODE)
    with pytest.raises(client.ApiException) as refused:
        await client.CoreV1Api(real_client).list_node()
    assert (refused.value.status, "forbidden" in refused.value.body) == (403, True)


def _only_volume(cluster):
    claim = cluster.get(Kind.PERSISTENT_VOLUME_CLAIM, "data", "default")
    return claim["spec"]["volumeName"]
