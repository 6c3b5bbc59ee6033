"""Does the lab cluster answer as an apiserver answers a reflector?"""

from __future__ import annotations

import stat
import time

import aiohttp
import pytest
import yaml

from lab_cluster.watches import Watch
from truetally.lab.cluster import objects
from truetally.lab.cluster.resources import RESOURCES
from truetally.model.refs import KUBERNETES_KINDS, Kind

VOLUMES = "/api/v1/persistentvolumes"
NAMESPACES = "/api/v1/namespaces"
CONTENTS = "/apis/snapshot.storage.k8s.io/v1/volumesnapshotcontents"


async def _json(api, path, status=200, **query):
    async with api.get(path, params={k: str(v) for k, v in query.items()}) as response:
        assert response.status == status, await response.text()
        return await response.json()


def _names(listing):
    return [item["metadata"]["name"] for item in listing["items"]]


def _fill(cluster, *names):
    return [cluster.apply(objects.namespace(name)) for name in names]


# Lists


async def test_a_list_has_the_objects_in_order_and_the_version_to_watch_from(cluster, api):
    last = _fill(cluster, "b", "a")[-1]
    listing = await _json(api, NAMESPACES)
    assert (listing["kind"], listing["apiVersion"], _names(listing)) == ("NamespaceList", "v1", ["a", "b"])
    assert listing["metadata"] == {"resourceVersion": last["metadata"]["resourceVersion"]}


async def test_items_of_a_built_in_kind_come_without_their_kind_and_custom_ones_with_it(cluster, api):
    cluster.install_snapshot_crds()
    _fill(cluster, "a")
    cluster.apply(objects.snapshot_class("fast", objects.DRIVER_NFS))
    classes = await _json(api, "/apis/snapshot.storage.k8s.io/v1/volumesnapshotclasses")
    assert "kind" not in (await _json(api, NAMESPACES))["items"][0]
    assert classes["items"][0]["kind"] == "VolumeSnapshotClass"


async def test_pages_show_one_moment_throughout(cluster, api):
    _fill(cluster, *"abcde")
    first = await _json(api, NAMESPACES, limit=2)
    cluster.delete(Kind.NAMESPACE, "d")
    _fill(cluster, "cc")
    second = await _json(api, NAMESPACES, limit=2, **{"continue": first["metadata"]["continue"]})
    third = await _json(api, NAMESPACES, limit=2, **{"continue": second["metadata"]["continue"]})
    assert [_names(page) for page in (first, second, third)] == [["a", "b"], ["c", "d"], ["e"]]
    assert first["metadata"]["remainingItemCount"] == 3
    assert "continue" not in third["metadata"]
    assert len({page["metadata"]["resourceVersion"] for page in (first, second, third)}) == 1


async def test_a_list_of_one_namespace_has_only_its_objects(cluster, api):
    for namespace in ("here", "there"):
        cluster.apply(objects.claim(namespace, f"data-{namespace}", "nfs"))
    assert _names(await _json(api, f"{NAMESPACES}/here/persistentvolumeclaims")) == ["data-here"]
    assert len(_names(await _json(api, "/api/v1/persistentvolumeclaims"))) == 2


async def test_a_continue_token_from_before_a_compaction_is_gone(cluster, api):
    _fill(cluster, *"abc")
    page = await _json(api, NAMESPACES, limit=2)
    cluster.forget_history()
    token = page["metadata"]["continue"]
    status = await _json(api, NAMESPACES, 410, limit=2, **{"continue": token})
    assert (status["kind"], status["reason"], status["code"]) == ("Status", "Expired", 410)


@pytest.mark.parametrize(
    "query",
    [
        {"continue": "nonsense"},
        {"limit": "many"},
        {"fieldSelector": "spec.nodeName=a"},
        {"labelSelector": "a"},
    ],
)
async def test_what_it_does_not_understand_is_refused_not_ignored(api, query):
    assert (await _json(api, NAMESPACES, 400, **query))["reason"] == "BadRequest"


# Single objects


async def test_one_object_is_got_with_its_kind(cluster, api):
    cluster.apply(objects.claim("default", "data", "nfs"))
    claim = await _json(api, f"{NAMESPACES}/default/persistentvolumeclaims/data")
    assert (claim["kind"], claim["apiVersion"]) == ("PersistentVolumeClaim", "v1")
    assert claim["metadata"]["creationTimestamp"] == "2026-11-24T06:25:30Z"


async def test_an_object_that_is_not_there_is_not_found(api):
    status = await _json(api, f"{VOLUMES}/pvc-1", 404)
    assert (status["reason"], status["message"]) == ("NotFound", 'persistentvolumes "pvc-1" not found')


async def test_every_kind_truetally_knows_can_be_listed(cluster, api):
    cluster.install_snapshot_crds()
    assert set(RESOURCES) == KUBERNETES_KINDS
    for kind, resource in RESOURCES.items():
        root = f"/apis/{resource.api_version}" if resource.group else "/api/v1"
        assert (await _json(api, f"{root}/{resource.plural}"))["kind"] == f"{kind.value}List"


# Watches


async def test_a_watch_tells_what_happened_since_the_list_and_then_what_happens(cluster, api):
    _fill(cluster, "old")
    since = (await _json(api, NAMESPACES))["metadata"]["resourceVersion"]
    _fill(cluster, "missed")
    async with Watch(api, NAMESPACES, resourceVersion=since) as watch:
        cluster.patch(Kind.NAMESPACE, "old", {"metadata": {"labels": {"team": "a"}}})
        deleted = cluster.delete(Kind.NAMESPACE, "old")
        events = [await watch.next() for _ in range(3)]
    told = [(event["type"], event["object"]["metadata"]["name"]) for event in events]
    assert told == [("ADDED", "missed"), ("MODIFIED", "old"), ("DELETED", "old")]
    assert events[-1]["object"] == deleted
    assert events[-1]["object"]["kind"] == "Namespace"
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions))


async def test_a_watch_without_a_version_begins_with_what_is_there(cluster, api):
    _fill(cluster, "a", "b")
    async with Watch(api, NAMESPACES) as watch:
        events = [await watch.next() for _ in range(2)]
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in events] == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_watch_of_one_namespace_hears_nothing_of_another(cluster, api):
    async with Watch(api, f"{NAMESPACES}/here/pods") as watch:
        cluster.apply(objects.pod("there", "other", []))
        cluster.apply(objects.pod("here", "mine", []))
        assert (await watch.next())["object"]["metadata"]["name"] == "mine"


async def test_bookmarks_carry_a_quiet_watch_past_changes_of_other_kinds(cluster, api):
    since = (await _json(api, VOLUMES))["metadata"]["resourceVersion"]
    latest = _fill(cluster, "a")[0]["metadata"]["resourceVersion"]
    async with Watch(api, VOLUMES, resourceVersion=since, allowWatchBookmarks="true") as watch:
        event = await watch.next()
    metadata = event["object"]["metadata"]
    assert (event["type"], event["object"]["kind"]) == ("BOOKMARK", "PersistentVolume")
    assert metadata == {"resourceVersion": latest, "creationTimestamp": None}


async def test_a_watch_ends_when_its_time_is_up_with_a_last_bookmark(cluster, api):
    async with Watch(api, VOLUMES, timeoutSeconds=1, allowWatchBookmarks="true") as watch:
        assert [event["type"] for event in await watch.rest()][-1] == "BOOKMARK"
    assert cluster.watching[Kind.PERSISTENT_VOLUME] == 0


async def test_a_watch_that_did_not_ask_for_bookmarks_gets_none(api):
    async with Watch(api, VOLUMES, timeoutSeconds=1) as watch:
        assert await watch.rest() == []


async def test_a_watch_from_a_forgotten_version_is_told_so_and_ended(cluster, api):
    _fill(cluster, "a")
    since = (await _json(api, NAMESPACES))["metadata"]["resourceVersion"]
    cluster.forget_history()
    async with Watch(api, NAMESPACES, resourceVersion=since) as watch:
        (event,) = await watch.rest()
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


async def test_a_list_after_a_compaction_gives_a_version_that_can_be_watched(cluster, api):
    cluster.forget_history()
    since = (await _json(api, NAMESPACES))["metadata"]["resourceVersion"]
    async with Watch(api, NAMESPACES, resourceVersion=since) as watch:
        _fill(cluster, "a")
        assert (await watch.next())["type"] == "ADDED"


async def test_a_watch_that_is_open_survives_a_compaction(cluster, api):
    async with Watch(api, NAMESPACES) as watch:
        cluster.forget_history()
        _fill(cluster, "a")
        assert (await watch.next())["type"] == "ADDED"


async def test_ended_watches_close_and_nothing_that_happens_meanwhile_is_lost(cluster, api):
    since = (await _json(api, NAMESPACES))["metadata"]["resourceVersion"]
    async with Watch(api, NAMESPACES, resourceVersion=since) as watch:
        cluster.end_watches()
        assert await watch.rest() == []
    _fill(cluster, "a")
    async with Watch(api, NAMESPACES, resourceVersion=since) as watch:
        assert (await watch.next())["object"]["metadata"]["name"] == "a"


async def test_a_restart_on_the_same_port_keeps_objects_and_versions(cluster, api):
    _fill(cluster, "a")
    before = await _json(api, NAMESPACES)
    port = cluster.port
    await cluster.stop()
    with pytest.raises(aiohttp.ClientError):
        await _json(api, NAMESPACES)
    await cluster.start(port)
    assert await _json(api, NAMESPACES) == before


# Refusals


async def test_a_wrong_or_absent_token_is_unauthorized_but_health_is_open(cluster):
    async with aiohttp.ClientSession(cluster.url) as stranger:
        assert (await _json(stranger, VOLUMES, 401))["reason"] == "Unauthorized"
        async with stranger.get("/readyz") as response:
            assert response.status == 200


async def test_a_changed_token_shuts_out_the_old_one(cluster, api):
    cluster.change_token("new")
    assert (await _json(api, VOLUMES, 401))["code"] == 401


async def test_a_denied_kind_is_forbidden_and_only_that_kind(cluster, api):
    cluster.deny(Kind.VOLUME_ATTACHMENT)
    path = "/apis/storage.k8s.io/v1/volumeattachments"
    status = await _json(api, path, 403)
    assert status["reason"] == "Forbidden"
    assert 'volumeattachments.storage.k8s.io is forbidden: User "' in status["message"]
    assert (await _json(api, path, 403, watch="1"))["reason"] == "Forbidden"
    assert (await _json(api, VOLUMES))["items"] == []
    cluster.allow(Kind.VOLUME_ATTACHMENT)
    assert (await _json(api, path))["items"] == []


async def test_writing_over_http_is_refused(api):
    async with api.delete(f"{VOLUMES}/a") as response:
        assert response.status == 405


# Discovery and CRDs


async def test_snapshot_kinds_are_absent_until_their_crds_come(cluster, api):
    async with api.get(CONTENTS) as response:
        assert (response.status, response.content_type) == (404, "text/plain")
    async with api.get("/apis/snapshot.storage.k8s.io/v1") as response:
        assert response.status == 404
    cluster.install_snapshot_crds()
    assert (await _json(api, CONTENTS))["items"] == []
    found = await _json(api, "/apis/snapshot.storage.k8s.io/v1")
    assert {r["kind"] for r in found["resources"]} == {
        "VolumeSnapshot",
        "VolumeSnapshotContent",
        "VolumeSnapshotClass",
    }


async def test_removed_crds_end_their_watches_and_are_absent_again(cluster, api):
    cluster.install_snapshot_crds()
    async with Watch(api, CONTENTS) as watch:
        cluster.remove_snapshot_crds()
        assert await watch.rest() == []
    async with api.get(CONTENTS) as response:
        assert response.status == 404


async def test_discovery_names_the_groups_and_their_resources(api):
    assert (await _json(api, "/api"))["versions"] == ["v1"]
    assert [g["name"] for g in (await _json(api, "/apis"))["groups"]] == ["storage.k8s.io"]
    core = await _json(api, "/api/v1")
    scopes = {r["name"]: r["namespaced"] for r in core["resources"]}
    assert (scopes["pods"], scopes["nodes"]) == (True, False)
    assert (await _json(api, "/version"))["major"] == "1"


# The scenario's side


async def test_an_object_with_finalizers_stays_until_they_are_gone(cluster, api):
    cluster.apply(objects.claim("default", "data", "nfs"))
    async with Watch(api, "/api/v1/persistentvolumeclaims", resourceVersion=cluster.store.version) as watch:
        marked = cluster.mark_deleted(Kind.PERSISTENT_VOLUME_CLAIM, "data", "default")
        cluster.patch(Kind.PERSISTENT_VOLUME_CLAIM, "data", {"metadata": {"finalizers": None}}, "default")
        events = [await watch.next() for _ in range(2)]
    assert marked["metadata"]["deletionTimestamp"] == "2026-11-24T06:25:30Z"
    assert [event["type"] for event in events] == ["MODIFIED", "DELETED"]
    assert cluster.get(Kind.PERSISTENT_VOLUME_CLAIM, "data", "default") is None


async def test_an_object_made_again_has_another_uid_and_one_applied_again_keeps_it(cluster):
    first = cluster.apply(objects.namespace("a"))
    changed = cluster.apply(objects.namespace("a") | {"status": {"phase": "Terminating"}})
    cluster.delete(Kind.NAMESPACE, "a")
    again = cluster.apply(objects.namespace("a"))
    assert first["metadata"]["uid"] == changed["metadata"]["uid"] != again["metadata"]["uid"]


async def test_applying_an_unchanged_object_is_no_event(cluster):
    _fill(cluster, "a")
    version = cluster.store.version
    _fill(cluster, "a")
    assert cluster.store.version == version


async def test_a_kubeconfig_opens_the_cluster_and_is_private(cluster, tmp_path):
    path = tmp_path / "kubeconfig"
    cluster.write_kubeconfig(path)
    config = yaml.safe_load(path.read_text())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
    async with aiohttp.ClientSession(config["clusters"][0]["cluster"]["server"], headers=headers) as session:
        assert (await _json(session, VOLUMES))["kind"] == "PersistentVolumeList"


async def test_ten_thousand_volumes_are_made_and_listed_in_seconds(cluster, api):
    began = time.perf_counter()
    attributes = objects.nfs_attributes("10.0.0.10", "/mnt/tank/k8s/x")
    for n in range(10_000):
        claim = cluster.apply(objects.claim("default", f"data-{n}", "nfs"))
        volume = cluster.apply(objects.volume(claim, attributes))
        cluster.apply(objects.bound(claim, volume))
        cluster.apply(objects.pod("default", f"app-{n}", [f"data-{n}"], node="worker-1"))
    seen, token = 0, ""
    while page := await _json(api, VOLUMES, limit=500, **({"continue": token} if token else {})):
        seen += len(page["items"])
        if not (token := page["metadata"].get("continue")):
            break
    took = time.perf_counter() - began
    assert (seen, cluster.served["list", Kind.PERSISTENT_VOLUME]) == (10_000, 20)
    # About 2 s on a quiet machine; the bound only catches a change of order.
    assert took < 30, f"took {took:.1f} s"
