"""Deleting and its hazards, and who is told of a change."""

import errno

import pytest

from lab_nas.nas_client import logged_in
from truetally.lab.nas import LabNas
from truetally.lab.nas.driver import Driver
from truetally.lab.nas.failures import Invalid
from truetally.lab.nas.machine import VERSIONS


async def _heard(client, *collections):
    for each in collections:
        await client.call("core.subscribe", each)


async def _told(client):
    await client.call("core.ping")
    events, client.events = client.events, []
    return [(event["msg"], event["collection"], event.get("id")) for event in events]


async def test_a_refused_delete_has_already_cut_the_share_off(nas):
    nas.ssh.create_dataset("tank/k8s/v")
    nas.ssh.snapshot("tank/k8s/v@s")
    nas.call("sharing.nfs.create", {"path": "/mnt/tank/k8s/v"})
    async with logged_in(nas) as client:
        error = await client.error("pool.dataset.delete", "tank/k8s/v", {})
        assert error["data"]["error"] == errno.EBUSY
        assert await client.call("sharing.nfs.query") == []
        assert await client.call("pool.dataset.get_instance", "tank/k8s/v")


def test_what_a_share_was_before_an_update_is_free_again():
    lab = LabNas("25.10")
    lab.zfs.create_pool("tank")
    for name in ("a", "b"):
        lab.ssh.create_dataset(f"tank/{name}")
    lab.call("sharing.nfs.create", {"path": "/mnt/tank/a"})
    lab.call("sharing.smb.create", {"name": "One", "path": "/mnt/tank/a"})
    lab.call("sharing.nfs.update", 1, {"path": "/mnt/tank/b"})
    lab.call("sharing.smb.update", 1, {"name": "Two"})
    lab.call("sharing.nfs.create", {"path": "/mnt/tank/a"})
    lab.call("sharing.smb.create", {"name": "ONE", "path": "/mnt/tank/a"})
    with pytest.raises(Invalid, match="already exports"):
        lab.call("sharing.nfs.create", {"path": "/mnt/tank/b"})
    with pytest.raises(Invalid, match="already exists"):
        lab.call("sharing.smb.create", {"name": "tWO", "path": "/mnt/tank/a"})


async def test_children_refuse_a_delete_before_anything_is_cut(nas):
    nas.ssh.create_dataset("tank/k8s/v/child")
    nas.call("sharing.nfs.create", {"path": "/mnt/tank/k8s/v"})
    async with logged_in(nas) as client:
        error = await client.error("pool.dataset.delete", "tank/k8s/v")
        assert error["data"]["errname"] == "ENOTEMPTY"
        assert len(await client.call("sharing.nfs.query")) == 1


async def test_a_delete_takes_extents_links_and_lonely_targets(nas):
    driver = Driver(nas, protocol="iscsi")
    driver.create_volume("pvc-1")
    async with logged_in(nas) as client:
        path = driver.dataset_of("pvc-1")
        assert (await client.call("pool.dataset.attachments", path))[0]["attachments"] == ["pvc-1"]
        await client.call("pool.dataset.delete", path)
        for kind in ("target", "extent", "targetextent"):
            assert await client.call(f"iscsi.{kind}.query") == []


async def test_a_recursive_delete_of_26_goes_through_holds_and_clones(any_nas):
    lab, survives = any_nas, any_nas.machine.version != "26.0"
    lab.ssh.create_dataset("tank/k8s/v")
    lab.ssh.snapshot("tank/k8s/v@s")
    lab.zfs.hold("tank/k8s/v@s", "velero")
    lab.ssh.clone("tank/k8s/v@s", "tank/k8s/clone")
    async with logged_in(lab) as client:
        reply = await client.reply("pool.dataset.delete", "tank/k8s/v", {"recursive": True})
    assert ("error" in reply) is survives
    assert (lab.zfs.find("tank/k8s/v") is not None) is survives
    assert (lab.zfs.find("tank/k8s/clone") is not None) is survives


async def test_a_snapshot_with_clones_goes_with_the_last_clone(nas):
    nas.ssh.create_dataset("tank/k8s/v")
    nas.ssh.snapshot("tank/k8s/v@s")
    async with logged_in(nas) as client:
        await client.call("pool.snapshot.clone", {"snapshot": "tank/k8s/v@s", "dataset_dst": "tank/k8s/c"})
        assert (await client.error("pool.snapshot.delete", "tank/k8s/v@s"))["data"]["error"] == errno.EBUSY
        await client.call("pool.snapshot.delete", "tank/k8s/v@s", {"defer": True})
        row = await client.call("pool.snapshot.get_instance", "tank/k8s/v@s")
        assert row["properties"]["defer_destroy"]["rawvalue"] == "on"
        await client.call("pool.dataset.delete", "tank/k8s/c")
        assert await client.call("pool.snapshot.query") == []


async def test_release_takes_every_tag(nas):
    nas.ssh.snapshot("tank/k8s@s")
    nas.zfs.hold("tank/k8s@s", "velero")
    async with logged_in(nas) as client:
        await client.call("pool.snapshot.hold", "tank/k8s@s")
        await client.call("pool.snapshot.release", "tank/k8s@s")
    assert nas.zfs.snapshot("tank/k8s@s").holds == {}


async def test_a_target_in_use_is_not_deleted_unless_forced(nas):
    nas.call("iscsi.target.create", {"name": "v"})
    nas.machine.connect_initiator("v", "iqn.1993-08.org.debian:01:a")
    async with logged_in(nas) as client:
        assert (await client.error("iscsi.target.delete", 1))["data"]["error"] == errno.EFAULT
        assert (await client.call("iscsi.global.sessions"))[0]["target"].endswith(":v")
        assert await client.call("iscsi.target.delete", 1, True) is True


async def test_an_event_comes_before_the_reply_to_the_call_that_made_it(nas):
    async with logged_in(nas) as client:
        await _heard(client, "iscsi.initiator.query")
        made = await client.call("iscsi.initiator.create", {"comment": "c"})
        assert client.events == [
            {"msg": "added", "collection": "iscsi.initiator.query", "id": made["id"], "fields": made}
        ]


async def test_generic_events_of_25_04_carry_the_id_alone(nas25_04):
    async with logged_in(nas25_04) as client:
        await _heard(client, "iscsi.initiator.query")
        made = await client.call("iscsi.initiator.create", {"comment": "c"})
    assert client.events == [{"msg": "added", "collection": "iscsi.initiator.query", "id": made["id"]}]


async def test_over_ssh_only_destroying_is_heard_of(nas):
    async with logged_in(nas) as client:
        await _heard(client, "pool.dataset.query", "pool.snapshot.query")
        nas.ssh.create_dataset("tank/k8s/v")
        nas.ssh.snapshot("tank/k8s/v@s")
        nas.ssh.set("tank/k8s/v", {"x:y": "1"})
        nas.ssh.clone("tank/k8s/v@s", "tank/k8s/c")
        assert await _told(client) == []
        nas.ssh.destroy("tank/k8s/c")
        nas.ssh.destroy("tank/k8s/v", recursive=True)
        assert await _told(client) == [
            ("removed", "pool.dataset.query", path) for path in ("tank/k8s/c", "tank/k8s/v@s", "tank/k8s/v")
        ]


async def test_a_clone_through_the_api_is_told_to_nobody(nas):
    nas.ssh.snapshot("tank/k8s@s")
    async with logged_in(nas) as client:
        await _heard(client, "*")
        await client.call("pool.snapshot.clone", {"snapshot": "tank/k8s@s", "dataset_dst": "tank/c"})
        assert await _told(client) == []


async def test_a_deleted_snapshot_is_told_twice(nas):
    nas.ssh.snapshot("tank/k8s@s")
    async with logged_in(nas) as client:
        await _heard(client, "*")
        await client.call("pool.snapshot.delete", "tank/k8s@s")
        assert client.events[-1]["extra"] == {"recursive": False}
        assert await _told(client) == [
            ("removed", "pool.dataset.query", "tank/k8s@s"),
            ("removed", "pool.snapshot.query", "tank/k8s@s"),
        ]


async def test_after_unsubscribe_there_is_silence(nas):
    async with logged_in(nas) as client:
        ident = await client.call("core.subscribe", "iscsi.initiator.query")
        await client.call("core.unsubscribe", ident)
        await client.call("iscsi.initiator.create", {"comment": "c"})
        assert await _told(client) == []


async def test_a_service_event_has_no_id(nas):
    async with logged_in(nas) as client:
        await _heard(client, "service.query")
        nas.machine.set_service("nfs", running=False)
        assert await _told(client) == [("changed", "service.query", None)]


async def test_only_ones_own_jobs_are_seen(nas):
    job = nas.machine.start_job("replication.run_onetime", [{"target": "tank/k8s/v"}])
    async with logged_in(nas, ["READONLY_ADMIN"]) as client:
        assert await client.call("core.get_jobs") == []
    async with logged_in(nas) as client:
        await _heard(client, "core.get_jobs")
        assert (await client.call("core.get_jobs", [["state", "=", "RUNNING"]], {"get": True}))["id"] == 1
        nas.machine.finish_job(job)
        assert await _told(client) == [("changed", "core.get_jobs", 1)]


def _told_by(lab):
    events = []
    lab.machine.listeners.append(lambda event: events.append((event.msg, event.collection, event.id)))
    return events


def test_22_12_alone_hears_of_what_ssh_creates_and_sets():
    told = {}
    for version in VERSIONS:
        lab = LabNas(version)
        lab.zfs.create_pool("tank")
        events = _told_by(lab)
        lab.ssh.create_dataset("tank/v")
        lab.ssh.set("tank/v", {"x:y": "1"})
        lab.ssh.set("tank/v", {"compression": "zstd"})
        told[version] = [(msg, name) for msg, _, name in events]
    assert told.pop("22.12") == [("added", "tank/v"), ("changed", "tank/v"), ("changed", "tank/v")]
    assert set(map(tuple, told.values())) == {()}


def test_what_ssh_destroys_by_the_way_is_heard_of_too():
    lab = LabNas("25.10")
    lab.zfs.create_pool("tank")
    lab.ssh.create_dataset("tank/a")
    lab.ssh.snapshot("tank/a@s")
    lab.ssh.clone("tank/a@s", "tank/c")
    lab.ssh.hold("tank/a@s", "x")
    lab.ssh.destroy("tank/a@s", defer=True)
    events = _told_by(lab)
    lab.ssh.release("tank/a@s", "x")
    assert events == []
    lab.ssh.destroy("tank/c")
    lab.ssh.snapshot("tank/a@t")
    lab.ssh.snapshot("tank/a@u")
    lab.ssh.rollback("tank/a@t", recursive=True)
    assert [name for _, _, name in events] == ["tank/c", "tank/a@s", "tank/a@u"]


def test_a_rename_over_ssh_is_silent_and_leaves_the_share_at_the_old_path():
    lab = LabNas("25.10")
    lab.zfs.create_pool("tank")
    lab.ssh.create_dataset("tank/a")
    lab.call("sharing.nfs.create", {"path": "/mnt/tank/a"})
    events = _told_by(lab)
    lab.ssh.rename("tank/a", "tank/b")
    lab.ssh.snapshot("tank/b@s")
    lab.ssh.rename("tank/b@s", "tank/b@t")
    assert events == []
    assert lab.call("sharing.nfs.query")[0]["path"] == "/mnt/tank/a"
    assert lab.zfs.find_snapshot("tank/b@t") is not None


def test_a_replica_over_ssh_appears_in_silence_and_follows_its_source():
    lab = LabNas("25.04")
    lab.zfs.create_pool("tank")
    lab.ssh.create_dataset("tank/a", user={"democratic-csi:managed_resource": "true"})
    lab.ssh.snapshot("tank/a@s")
    events = _told_by(lab)
    lab.ssh.receive("tank/a@s", "tank/r", readonly=True)
    lab.ssh.write("tank/a", 1 << 20)
    lab.ssh.snapshot("tank/a@t")
    lab.ssh.receive("tank/a@t", "tank/r")
    assert events == []
    row = lab.call("pool.dataset.get_instance", "tank/r")
    assert row["user_properties"]["democratic-csi:managed_resource"]["source"] == "RECEIVED"
    assert (row["readonly"]["rawvalue"], row["referenced"]["parsed"]) == ("on", 1 << 20)


def test_a_dataset_created_without_its_parents_key_is_in_the_clear():
    lab = LabNas("25.10")
    lab.zfs.create_pool("tank")
    lab.call("pool.dataset.create", {"name": "tank/s", "encryption": True})
    assert lab.call("pool.dataset.create", {"name": "tank/s/in"})["encryption_root"] == "tank/s"
    plain = lab.call("pool.dataset.create", {"name": "tank/s/out", "inherit_encryption": False})
    assert (plain["encrypted"], plain["key_loaded"]) == (False, None)
