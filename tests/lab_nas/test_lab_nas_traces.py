"""The real democratic-csi's requests against the lab's REST: same statuses, and all that the driver reads."""

import re

import pytest

from lab_nas.trace import JOBS, PROTOCOLS, Replay, load, state, without_ids
from truetally.lab.nas import LabNas
from truetally.lab.nas.machine import VERSIONS

_FULL = ("CreateVolume", "'detachedVolumesFromVolumes'")
_BLOCKED = ("DeleteSnapshot", "attached, has clone")


# 1.9.4 was recorded against 24.10, and asks for the same of every version that has zfs/snapshot; for
# 25.10 its traces are put into the words of `next`, of which NVMe-oF alone was recorded.
_VERSIONS = [
    *((protocol, version) for protocol in PROTOCOLS[:3] for version in VERSIONS if version < "26"),
    ("nvmeof", "25.10"),
]


@pytest.fixture(params=_VERSIONS, ids="-".join)
async def replay(request):
    protocol, version = request.param
    trace = load(protocol, version)
    lab = LabNas(version)
    lab.zfs.create_pool("tank")
    await lab.start()
    yield Replay(lab, trace).prepare()
    await lab.stop()


def _is(call, rpc_and_label):
    rpc, label = rpc_and_label
    return call.rpc == rpc and label in call.label


async def test_every_request_of_the_real_driver_is_answered_as_it_was(replay):
    calls = [call async for call in replay]
    assert len(calls) == len(replay.trace["calls"]) == 23
    assert sum(len(call.exchanges) for call in calls) >= 140


async def test_what_the_real_driver_made_is_what_the_lab_holds(replay):
    held = {}
    async for call in replay:
        if _is(call, _FULL):
            held["full"] = without_ids(state(replay.nas))
        if _is(call, _BLOCKED):
            held["blocked"] = without_ids(state(replay.nas))
    held["end"] = state(replay.nas)
    for name, recorded in replay.trace["states"].items():
        assert held[name] == without_ids(recorded), name


def _properties(row, *names):
    return [row[name]["rawvalue"] for name in names]


def _check_dataset(row):
    volume = row["type"] == "VOLUME"
    sizes = ("volsize", "volblocksize") if volume else ("refquota",)
    assert all(value.isdigit() for value in _properties(row, "available", *sizes)), row
    assert row["id"] == row["name"]
    assert isinstance(row["mountpoint"], str) is not volume
    assert isinstance(row["origin"]["rawvalue"], str)
    for value in row["user_properties"].values():
        assert isinstance(value["rawvalue"], str)
        assert value.keys() >= {"value", "rawvalue", "parsed", "source", "source_info"}
    for child in row["children"]:
        _check_dataset(child)


def _check_snapshot(row, *, volume):
    for name in ("name", "creation", "referenced", "logicalreferenced", *(["volsize"] if volume else [])):
        assert {"value", "rawvalue"} <= row["properties"][name].keys(), name


_NEEDED = {
    "sharing/nfs": {"id", "path"},
    "sharing/smb": {"id", "name", "path"},
    "iscsi/global": {"basename"},
    "iscsi/target": {"id", "name", "groups"},
    "iscsi/extent": {"id", "name"},
    "iscsi/targetextent": {"id", "target", "extent", "lunid"},
    "nvmet/subsys": {"id", "name", "subnqn"},
    "nvmet/namespace": {"id", "nsid", "device_path"},
    "nvmet/port_subsys": {"id"},
}
_JOBS_OF = ("filesystem/setperm", "replication/run_onetime", "pool/dataset/destroy_snapshots")


def _check(exchange, *, volume):
    """That what the driver reads of an answer is there."""
    body, resource = exchange.body, exchange.resource
    if resource == "system/version":
        assert re.match(r"TrueNAS", body)
    elif resource == "pool/dataset" and exchange.method == "GET":
        _check_dataset(body)
        if "extra.snapshots" in exchange.query and body["snapshots"]:
            assert "@" in body["snapshots"][0]["name"]
    elif resource in ("zfs/snapshot", "pool/snapshot") and exchange.method == "GET":
        _check_snapshot(body, volume=volume)
    elif resource == JOBS:
        assert [job["state"] for job in body] == ["SUCCESS"], body
    elif resource in _JOBS_OF:
        assert isinstance(body, int)
    elif resource in _NEEDED and exchange.method in ("GET", "POST"):
        for row in body if isinstance(body, list) else [body]:
            assert row.keys() >= _NEEDED[resource], row
    else:
        assert exchange.method in ("POST", "PUT", "DELETE"), exchange.told
        return False
    return True


async def test_all_that_the_driver_reads_is_there(replay):
    volume = replay.trace["driver"].endswith(("iscsi", "nvmeof"))
    checked = set()
    async for call in replay:
        for exchange in call.exchanges:
            if exchange.status == 200 and _check(exchange, volume=volume):
                checked.add(exchange.resource)
    assert len(checked) >= 6


async def test_a_list_of_snapshots_tells_the_properties_that_were_asked_for():
    lab = LabNas("24.10")
    lab.zfs.create_pool("tank")
    await lab.start()
    listed = None
    async for call in Replay(lab, load("nfs")).prepare():
        if call.rpc == "ListSnapshots":
            listed = call.exchanges[0].body
    await lab.stop()
    (snapshot,) = [taken for child in listed["children"] for taken in child["snapshots"]]
    shown = {name: each["rawvalue"] for name, each in snapshot["properties"].items()}
    assert shown["name"] == snapshot["name"]
    assert shown["democratic-csi:csi_snapshot_name"] == snapshot["name"].partition("@")[2]
    assert shown["democratic-csi:managed_resource"] == "true"
    assert {"creation", "referenced", "logicalreferenced", "used"} <= shown.keys()


_CONFLICTS = {
    "pool/dataset": "already exists",
    "nvmet/subsys": "already exists",
    "nvmet/namespace": "already used by subsystem",
}


async def test_refusals_say_what_the_driver_looks_for(replay):
    refused = []
    async for call in replay:
        refused += [(call, each) for each in call.exchanges if each.status == 422]
    for call, exchange in refused:
        if exchange.method == "POST":
            assert _CONFLICTS[exchange.resource] in exchange.text, exchange.told
        elif call.error is not None:
            assert call.error.partition(": ")[2] in exchange.text, exchange.told
        else:
            assert "does not exist" in exchange.text, exchange.told
    assert len(refused) >= 2


async def test_a_missing_member_is_404_to_read_and_422_to_delete(replay):
    statuses = {}
    async for call in replay:
        if "already gone" in call.label:
            statuses = {exchange.method: exchange.status for exchange in call.exchanges}
    assert statuses == {"GET": 404, "DELETE": 422}
