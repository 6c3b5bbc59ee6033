"""REST v2.0: what jobs do, what NVMe-oF asks for, and what becomes of snapshots and names."""

import json

import pytest

from lab_nas.nas_client import logged_in
from lab_nas.rest_client import one_of_everything
from truetally.lab.nas.jobs import FOREVER, jobs_of
from truetally.lab.nas.nvmet import connect_host, disconnect_hosts

_A = "pool/dataset/id/tank%2Fk8s%2Fa"


# --- jobs ---------------------------------------------------------------------------------------------


async def _job(rest, number):
    (job,) = await rest.get("core/get_jobs", id=str(number))
    return job


async def test_permissions_are_set_by_a_job(rest):
    await rest.post("pool/dataset", {"name": "tank/k8s/a"})
    body = {"path": "/mnt/tank/k8s/a", "mode": "0770", "uid": 1000, "gid": 1001}
    number = await rest.post("filesystem/setperm", body)
    assert (await _job(rest, number))["state"] == "SUCCESS"
    held = await rest.post("filesystem/stat", "/mnt/tank/k8s/a")
    assert (oct(held["mode"]), held["uid"], held["gid"]) == ("0o40770", 1000, 1001)
    number = await rest.post("filesystem/chown", {"path": "/mnt/tank/k8s/a", "uid": 0})
    assert (await _job(rest, number))["state"] == "SUCCESS"
    assert (await rest.post("filesystem/stat", "/mnt/tank/k8s/a"))["uid"] == 0


async def test_a_job_that_cannot_do_its_work_fails(rest):
    number = await rest.post("filesystem/setperm", {"path": "/mnt/tank/none", "mode": "777"})
    job = await _job(rest, number)
    assert (job["state"], job["error"]) == ("FAILED", "[ENOENT] Path /mnt/tank/none not found")


def _replication(**changes):
    return {
        "direction": "PUSH",
        "transport": "LOCAL",
        "source_datasets": ["tank/k8s/a"],
        "target_dataset": "tank/k8s/b",
        "name_regex": "^s$",
        "recursive": False,
        "retention_policy": "NONE",
        "readonly": "IGNORE",
        "properties": False,
        "only_from_scratch": True,
        **changes,
    }


async def _source(nas):
    nas.call("pool.dataset.create", {"name": "tank/k8s/a", "user_properties": [{"key": "a:b", "value": "c"}]})
    nas.zfs.write("tank/k8s/a", 1 << 20)
    nas.zfs.take("tank/k8s/a", "s")
    nas.zfs.take("tank/k8s/a", "other")


async def test_a_replication_without_properties_copies_content_and_nothing_else(nas, rest):
    await _source(nas)
    number = await rest.post("replication/run_onetime", _replication())
    assert (await _job(rest, number))["state"] == "SUCCESS"
    made = nas.zfs.dataset("tank/k8s/b")
    assert (made.user, list(made.snapshots), made.referenced_bytes) == ({}, ["s"], 1 << 20)


async def test_a_replication_runs_as_long_as_it_is_told_to(nas, rest):
    await _source(nas)
    jobs_of(nas.machine).seconds_of["replication.run_onetime"] = FOREVER
    number = await rest.post("replication/run_onetime", _replication())
    job = await _job(rest, number)
    assert (job["state"], job["arguments"][0]["target_dataset"]) == ("RUNNING", "tank/k8s/b")
    assert nas.zfs.find("tank/k8s/b") is None
    jobs_of(nas.machine).finish(number)
    assert (await _job(rest, number))["state"] == "SUCCESS"
    assert nas.zfs.find("tank/k8s/b") is not None


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"target_dataset": "tank/k8s"}, "already exists"),
        ({"name_regex": "^none$"}, "does not have any matching snapshots"),
        ({"source_datasets": ["tank/none"]}, "does not exist"),
    ],
)
async def test_a_replication_that_cannot_be_fails_as_a_job(nas, rest, changes, error):
    await _source(nas)
    job = await _job(rest, await rest.post("replication/run_onetime", _replication(**changes)))
    assert job["state"] == "FAILED"
    assert error in job["error"]


async def test_all_snapshots_of_a_dataset_are_destroyed_by_a_job(nas, rest):
    await _source(nas)
    some = {"name": "tank/k8s/a", "snapshots": {"snapshots": ["other"]}}
    job = await _job(rest, await rest.post("pool/dataset/destroy_snapshots", some))
    assert job["result"] == ["other"]
    job = await _job(rest, await rest.post("pool/dataset/destroy_snapshots", {"name": "tank/k8s/a"}))
    assert job["result"] == ["s"]
    assert nas.zfs.dataset("tank/k8s/a").snapshots == {}


async def test_a_task_replicates_again_and_again(nas, rest):
    await _source(nas)
    task = {"name": "r", **_replication(readonly="SET", naming_schema=["auto-%Y"], name_regex=None)}
    del task["only_from_scratch"]
    made = await rest.post("replication", task)
    for name in ("auto-2026", "auto-2027"):
        nas.zfs.take("tank/k8s/a", name)
        await rest.post(f"replication/id/{made['id']}/run")
    assert list(nas.zfs.dataset("tank/k8s/b").snapshots) == ["auto-2026", "auto-2027"]
    assert nas.zfs.dataset("tank/k8s/b").readonly


async def test_a_snapshot_task_runs_as_a_job(nas, rest):
    await _source(nas)
    task = await rest.post("pool/snapshottask", {"dataset": "tank/k8s/a", "naming_schema": "auto-%Y"})
    job = await _job(rest, await rest.post(f"pool/snapshottask/id/{task['id']}/run"))
    assert job["state"] == "SUCCESS"
    assert list(nas.zfs.dataset("tank/k8s/a").snapshots)[-1].startswith("auto-2")


# --- NVMe-oF --------------------------------------------------------------------------------------------


async def test_a_subsystem_in_use_is_only_deleted_by_force(nas, rest):
    await one_of_everything(nas)
    told = await rest.refused("DELETE", "nvmet/subsys/id/1")
    assert [each["message"] for each in told["nvmet_subsys_delete.id"]] == [
        "Subsystem n contains 1 namespace: 1",
        "Subsystem n visible on 1 port",
    ]
    await rest.delete("nvmet/subsys/id/1", {"force": True})
    for kind in ("subsys", "namespace", "port_subsys"):
        assert await rest.get(f"nvmet/{kind}") == []


async def test_sessions_tell_which_host_uses_which_subsystem(nas, rest):
    await one_of_everything(nas)
    connect_host(nas.machine, 1, "nqn.2014-08.org.nvmexpress:uuid:a")
    (session,) = await rest.get("nvmet/global/sessions")
    assert session == {
        "host_traddr": "10.0.0.11",
        "hostnqn": "nqn.2014-08.org.nvmexpress:uuid:a",
        "subsys_id": 1,
        "port_id": 1,
        "ctrl": 1,
    }
    disconnect_hosts(nas.machine, 1)
    assert await rest.get("nvmet/global/sessions") == []


async def test_a_dataset_takes_its_namespace_share_and_tasks_with_it(nas, rest):
    await one_of_everything(nas)
    await _tasks(nas, "tank/k8s/n")
    before = await rest.post("pool/dataset/id/tank%2Fk8s%2Fn/attachments")
    assert [each["type"] for each in before] == ["NVMe-oF Namespace", "Snapshot Task", "Replication"]
    await rest.delete("pool/dataset/id/tank%2Fk8s%2Fn", {"recursive": True})
    assert await rest.get("nvmet/namespace") == []
    assert len(await rest.get("nvmet/subsys")) == 1
    assert await rest.get("pool/snapshottask") == await rest.get("replication") == []


async def _tasks(nas, name):
    nas.call("pool.snapshottask.create", {"dataset": name})
    task = _replication(name="r", source_datasets=[name], target_dataset="tank/copy")
    del task["only_from_scratch"]
    nas.call("replication.create", task)


async def test_a_renamed_target_gives_new_subsystems_its_name(rest):
    before = (await rest.get("nvmet/global"))["basenqn"]
    assert (await rest.post("nvmet/subsys", {"name": "a"}))["subnqn"] == f"{before}:a"
    await rest.put("nvmet/global", {"basenqn": "nqn.x"})
    assert (await rest.post("nvmet/subsys", {"name": "b"}))["subnqn"] == "nqn.x:b"


# --- snapshots ------------------------------------------------------------------------------------------


async def test_marks_of_a_snapshot_are_changed(nas, rest):
    await _source(nas)
    path = "pool/snapshot/id/tank%2Fk8s%2Fa%40s"
    await rest.put(path, {"user_properties_update": [{"key": "a:x", "value": 1}]})
    shown = (await rest.get(path))["properties"]
    assert (shown["a:x"]["rawvalue"], shown["a:b"]["rawvalue"]) == ("1", "c")
    await rest.put(path, {"user_properties_remove": ["a:x"]})
    assert "a:x" not in (await rest.get(path))["properties"]


async def test_in_26_changing_the_marks_of_a_snapshot_does_nothing(nas26):
    await _source(nas26)
    changes = {"user_properties_update": [{"key": "a:x", "value": "1"}]}
    async with logged_in(nas26) as client:
        await client.call("pool.snapshot.update", "tank/k8s/a@s", changes)
    assert nas26.zfs.snapshot("tank/k8s/a@s").user == {}


async def test_a_renamed_dataset_leaves_its_share_at_the_old_path(nas, rest):
    await one_of_everything(nas)
    told = await rest.refused("POST", f"{_A}/rename", {"new_name": "tank/k8s/b"})
    assert "set force to proceed" in json.dumps(told)
    await rest.post(f"{_A}/rename", {"new_name": "tank/k8s/b", "force": True})
    assert (await rest.get("pool/dataset/id/tank%2Fk8s%2Fb"))["name"] == "tank/k8s/b"
    assert [row["path"] for row in await rest.get("sharing/nfs")] == ["/mnt/tank/k8s/a"]


async def test_a_snapshot_is_renamed_and_rolled_back_to(nas, rest):
    await _source(nas)
    path = "pool/snapshot/id/tank%2Fk8s%2Fa%40s"
    assert "more recent snapshots" in (await rest.refused("POST", f"{path}/rollback", {}))["message"]
    await rest.post(f"{path}/rollback", {"recursive": True})
    await rest.post(f"{path}/rename", {"new_name": "tank/k8s/a@t", "force": True})
    assert list(nas.zfs.dataset("tank/k8s/a").snapshots) == ["t"]
