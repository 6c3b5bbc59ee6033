"""What do the entries of TrueNAS mean? Literal ones, as the schemas and the documents show them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from truetally.model.truenas import (
    ApiKey,
    Device,
    DiskLoad,
    IscsiInitiator,
    IscsiPortal,
    IscsiTarget,
    NfsClient,
    NvmeHost,
    NvmeNamespace,
    NvmePort,
    NvmeSession,
    NvmeSubsystem,
    Performance,
    ReplicationTask,
    Scan,
    SmbClient,
    SnapshotTask,
)
from truetally.sources.truenas import decode

AT = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
AT_MS = {"$date": 1_700_000_000_000}


def entry(type_: Any, **fields: Any) -> Any:
    return msgspec.json.decode(json.dumps(fields), type=type_)


def a_pool(**fields: Any) -> Any:
    return decode.pool(entry(decode.PoolEntry, name="tank", status="ONLINE", healthy=True, **fields))


def a_disk(name: str, **errors: int) -> dict[str, Any]:
    none = {"read_errors": 0, "write_errors": 0, "checksum_errors": 0}
    return {
        "type": "DISK",
        "path": f"/dev/disk/by-partuuid/{name}",
        "guid": "1",
        "status": "ONLINE",
        "stats": none | errors,
        "children": [],
        "disk": name,
        "device": f"{name}1",
    }


def test_a_pools_topology_is_told_group_by_group_and_disk_by_disk():
    mirror = {"type": "MIRROR", "name": "mirror-0", "status": "DEGRADED", "stats": {"checksum_errors": 2}}
    mirror["children"] = [a_disk("sda", read_errors=3), a_disk("sdb", write_errors=4)]
    pool = a_pool(
        status_detail="One or more devices",
        topology={"data": [mirror], "log": [], "cache": [a_disk("nvme0n1")], "spare": None},
    )
    assert pool.status_detail == "One or more devices"
    assert pool.devices == (
        Device("data", "MIRROR", "mirror-0", "DEGRADED", 0, 0, 2),
        Device("data", "DISK", "sda", "ONLINE", 3, 0, 0),
        Device("data", "DISK", "sdb", "ONLINE", 0, 4, 0),
        Device("cache", "DISK", "nvme0n1", "ONLINE", 0, 0, 0),
    )


def test_a_missing_disk_is_named_by_what_is_left_of_it():
    gone = {"type": "DISK", "path": "/dev/disk/by-partuuid/abc", "guid": "77", "status": "UNAVAIL"}
    nameless = {"type": "DISK", "guid": 78, "status": "UNAVAIL", "disk": None, "stats": None}
    assert [d.name for d in a_pool(topology={"data": [gone, nameless]}).devices] == ["abc", "78"]


def test_a_scrub_is_told_with_its_times_and_errors():
    scan = {
        "function": "SCRUB",
        "state": "FINISHED",
        "start_time": AT_MS,
        "end_time": AT_MS,
        "percentage": 100,
        "errors": 5,
    }
    assert a_pool(scan=scan).scan == Scan("SCRUB", "FINISHED", AT, AT, 100.0, 5)


@pytest.mark.parametrize("scan", [None, {"function": None, "state": None, "start_time": None}])
def test_a_pool_that_was_never_scrubbed_has_no_scan(scan):
    assert a_pool(scan=scan).scan is None


def test_an_offline_pool_has_no_sizes_and_no_topology():
    pool = a_pool(size=None, allocated=None, free=None, fragmentation=None, topology=None, scan=None)
    assert (pool.size_bytes, pool.devices, pool.fragmentation_percent) == (None, (), None)


def raw(text: str) -> dict[str, Any]:
    return {"rawvalue": text, "value": "for people", "source": "LOCAL"}


def test_a_zvol_of_the_old_engine_tells_block_size_encryption_and_when_its_snapshots_changed():
    zvol = decode.dataset(
        entry(
            decode.DatasetEntry,
            id="tank/z",
            pool="tank",
            type="VOLUME",
            encrypted=True,
            logicalused=raw("4096"),
            volblocksize=raw("16384"),
            snapshots_changed=raw("1700000000"),
        ),
        tells_origin=True,
    )
    assert (zvol.encrypted, zvol.logical_used_bytes, zvol.volblocksize_bytes) == (True, 4096, 16384)
    assert zvol.snapshots_changed == 1_700_000_000


@pytest.mark.parametrize(("encryption", "encrypted"), [("off", False), ("aes-256-gcm", True), (None, None)])
def test_a_dataset_of_the_new_engine_is_encrypted_if_it_names_a_cipher(encryption, encrypted):
    properties = {
        "logicalused": {"raw": "4096", "value": 4096, "source": None},
        "volblocksize": {"raw": "16384", "value": 16384, "source": None},
        "snapshots_changed": {"raw": "1700000000", "value": 1700000000, "source": None},
    }
    if encryption:
        properties["encryption"] = {"raw": encryption, "value": encryption, "source": None}
    fields = {"name": "tank/z", "pool": "tank", "type": "VOLUME", "properties": properties}
    found = decode.resource(entry(decode.ResourceEntry, **fields))
    assert found.encrypted is encrypted
    assert (found.logical_used_bytes, found.volblocksize_bytes, found.snapshots_changed) == (
        4096,
        16384,
        1_700_000_000,
    )


def test_a_dataset_that_tells_nothing_more_is_unknown_and_not_zero():
    plain = decode.dataset(
        entry(decode.DatasetEntry, id="tank", pool="tank", type="FILESYSTEM"), tells_origin=True
    )
    assert (plain.encrypted, plain.logical_used_bytes, plain.snapshots_changed) == (None, None, None)


def test_iscsi_portals_initiators_and_groups():
    listen = [{"ip": "0.0.0.0", "port": 3260}, {"ip": "::"}]
    portal = entry(decode.PortalEntry, id=1, tag=2, listen=listen, comment="x")
    assert decode.portal(portal) == IscsiPortal(1, 2, ("0.0.0.0:3260", "[::]:3260"), "x")
    initiator = entry(decode.InitiatorEntry, id=3, initiators=["iqn.a"], comment=None)
    assert decode.initiator(initiator) == IscsiInitiator(3, ("iqn.a",), "")
    groups = [{"portal": 1, "initiator": 3}, {"portal": 1, "initiator": None}, {"portal": 2, "initiator": 4}]
    target = entry(decode.TargetEntry, id=5, name="z", alias=None, groups=groups)
    assert decode.target(target) == IscsiTarget(5, "z", "", (1, 2), (3, 4))


SUBSYSTEM = {"id": 1, "name": "csi-pvc-1", "subnqn": "nqn.2011-06.com.truenas:uuid:1:csi-pvc-1"}


def test_a_subsystem_that_tells_its_hosts_and_ports():
    told = entry(decode.SubsystemEntry, **SUBSYSTEM, allow_any_host=True, hosts=[7, 2], ports=[3])
    assert decode.subsystem(told) == NvmeSubsystem(
        1, "csi-pvc-1", SUBSYSTEM["subnqn"], True, ports=(3,), hosts=(2, 7)
    )


def test_a_subsystem_whose_hosts_and_ports_are_told_apart_from_it():
    links = [
        entry(decode.SubsystemLink, subsys={"id": 1, "name": "x"}, host={"id": 7, "hostnqn": "nqn.a"}),
        entry(decode.SubsystemLink, subsys={"id": 1}, port={"id": 3}),
        entry(decode.SubsystemLink, subsys={"id": 2}, port={"id": 4}),
    ]
    found = decode.subsystem(entry(decode.SubsystemEntry, **SUBSYSTEM, hosts=None), links)
    assert (found.ports, found.hosts) == ((3,), (7,))


def test_namespaces_ports_hosts_and_sessions_of_nvme():
    zvol = {"id": 4, "nsid": 1, "subsys": {"id": 1, "name": "x"}, "device_type": "ZVOL"}
    assert decode.namespace(
        entry(decode.NamespaceEntry, **zvol, device_path="zvol/tank/a+b", locked=False)
    ) == NvmeNamespace(4, 1, 1, "ZVOL", "tank/a b", True, False)
    file = zvol | {"device_type": "FILE", "device_path": "/mnt/tank/a+b.img", "nsid": None}
    assert decode.namespace(entry(decode.NamespaceEntry, **file)).device == "/mnt/tank/a+b.img"
    port = {"id": 2, "addr_trtype": "TCP", "addr_traddr": "10.0.0.1", "addr_trsvcid": 4420}
    assert decode.port(entry(decode.PortEntry, **port)) == NvmePort(2, "TCP", "10.0.0.1", "4420")
    assert decode.host(entry(decode.HostEntry, id=3, hostnqn="nqn.h")) == NvmeHost(3, "nqn.h")
    session = {"hostnqn": "nqn.h", "host_traddr": "10.0.0.9", "subsys_id": 1, "port_id": 2, "ctrl": 5}
    assert decode.nvme_session(entry(decode.NvmeSessionEntry, **session)) == NvmeSession(
        "nqn.h", "10.0.0.9", 1, 2, 5
    )


def test_clients_of_both_nfs_versions_and_of_smb():
    three = entry(decode.Nfs3Entry, ip="10.0.0.1", export="/mnt/tank/a")
    assert decode.nfs3_client(three) == NfsClient("10.0.0.1", 3, "/mnt/tank/a")
    states = [{"type": "open", "filename": "a/x"}, {"0x1": {"filename": "a/y"}}, {"type": "layout"}]
    four = entry(decode.Nfs4Entry, id="9", info={"address": "10.0.0.2:700"}, states=states)
    assert decode.nfs4_client(four) == NfsClient("10.0.0.2", 4, files=("a/x", "a/y"))
    six = entry(decode.Nfs4Entry, id="9", info={"address": "[fe80::1]:700"})
    assert decode.nfs4_client(six).address == "fe80::1"
    smb = entry(decode.SmbStatusEntry, service="share", machine="10.0.0.3", session_id=77)
    assert decode.smb_client(smb) == SmbClient("10.0.0.3", "share", "77")


def test_a_snapshot_tasks_schedule_is_cron():
    schedule = {"minute": "0", "hour": "*/4", "dom": "*", "month": "*", "dow": "1-5", "begin": "00:00"}
    task = entry(
        decode.SnapshotTaskEntry,
        id=1,
        dataset="tank/k8s",
        recursive=True,
        enabled=True,
        naming_schema="auto-%Y",
        schedule=schedule,
        lifetime_value=2,
        lifetime_unit="WEEK",
        exclude=["tank/k8s/x"],
        state={"state": "FINISHED", "last_snapshot": "x"},
    )
    assert decode.snapshot_task(task) == SnapshotTask(
        1, "tank/k8s", True, True, "auto-%Y", "0 */4 * * 1-5", "2 WEEK", ("tank/k8s/x",), "FINISHED"
    )


def test_a_replication_task_is_read_without_its_secrets():
    fields = {
        "id": 1,
        "name": "off-site",
        "direction": "PUSH",
        "transport": "SSH",
        "source_datasets": ["tank/k8s"],
        "target_dataset": "backup/k8s",
        "recursive": True,
        "enabled": False,
        "ssh_credentials": {"attributes": {"private_key": "SECRET"}},
        "encryption_key": "SECRET",
        "state": {"state": "ERROR"},
    }
    found = decode.replication_task(entry(decode.ReplicationEntry, **fields))
    assert found == ReplicationTask(
        1, "off-site", "PUSH", ("tank/k8s",), "backup/k8s", True, False, "SSH", "ERROR"
    )
    assert "SECRET" not in repr(found)


def test_an_api_key_tells_when_it_ends_and_whether_it_is_revoked():
    fields = {"id": 1, "name": "k", "username": "truetally", "keyhash": "SECRET", "revoked": True}
    found = decode.api_key(entry(decode.ApiKeyEntry, **fields, expires_at=AT_MS))
    assert found == ApiKey(1, "k", "truetally", AT, True)
    assert decode.api_key(entry(decode.ApiKeyEntry, id=1, name="old")) == ApiKey(1, "old")


@pytest.mark.parametrize(
    ("me", "roles"),
    [
        ({"privilege": {"roles": {"$set": ["B", "A"]}}}, ("A", "B")),
        ({"privilege": {"roles": ["A"]}}, ("A",)),
        ({"privilege": {"roles": []}}, ()),
        ({"privilege": None}, None),
        (None, None),
    ],
)
def test_our_roles_come_as_a_set_or_a_list_or_not_at_all(me, roles):
    assert decode.roles(me) == roles


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ({"code": "NORMAL", "status": {"new_version": {"version": "26.0.1"}}}, "AVAILABLE"),
        ({"code": "NORMAL", "status": {"new_version": None}}, "NORMAL"),
        ({"code": "ERROR", "status": None, "error": {"reason": "no net"}}, "ERROR"),
        (None, ""),
    ],
)
def test_an_update_in_a_word(status, word):
    assert decode.update(status) == word


SUM = {"busy": 12.5, "read_bytes": 100.0, "write_bytes": 200.0, "read_ops": 3.0, "write_ops": 4.0}
LOAD = DiskLoad(100.0, 200.0, 3.0, 4.0, 12.5)


def test_performance_up_to_24_10():
    event = {
        "zfs": {"arc_max_size": 9, "arc_size": 4096, "cache_hit_ratio": 97.5},
        "memory": {"classes": {}, "extra": {}},
        "virtual_memory": {"available": 1024},
        "disks": SUM,
    }
    assert decode.performance(event) == Performance({"": LOAD}, 4096, 97.5, 1024, {})


def test_performance_from_25_04_on_with_the_misspelt_disks_of_25_10():
    event = {
        "zfs": {
            "demand_accesses_per_second": 200,
            "demand_data_hits_per_second": 100,
            "demand_data_io_hits_per_second": 10,
            "demand_metadata_hits_per_second": 80,
        },
        "memory": {"arc_size": 4096, "physical_memory_available": 2048},
        "disls": SUM,
        "pools": {"tank": {"available": 1, "used": 77, "total": 78}},
    }
    assert decode.performance(event) == Performance({"": LOAD}, 4096, 95.0, 2048, {"tank": 77})


def test_performance_disk_by_disk():
    assert decode.performance({"disks": {"sda": SUM, "sdb": {}}}).disks == {"sda": LOAD, "sdb": DiskLoad()}


@pytest.mark.parametrize("event", [{}, None, [], {"zfs": None, "memory": 3, "pools": {"tank": None}}])
def test_performance_that_is_not_told_is_unknown(event):
    assert decode.performance(event) == Performance()


def test_no_access_to_the_cache_is_no_hit_ratio():
    assert decode.performance({"zfs": {"demand_accesses_per_second": 0}}).arc_hit_percent is None


def test_the_graphs_of_netdata_are_scaled_by_their_own_unit():
    graphs = [
        entry(decode.GraphEntry, name="disk", vertical_label="Kibibytes/s", identifiers=["sda"]),
        entry(decode.GraphEntry, name="arcsize", vertical_label="Mebibytes"),
        entry(decode.GraphEntry, name="memory", vertical_label="Furlongs"),
    ]
    rows = [[1, 1.0, -2.0], [2, 3.0, -4.0], [3, None, None]]
    answers = [
        entry(decode.GraphData, name="disk", identifier="sda", data=rows, legend=["time", "reads", "writes"]),
        entry(decode.GraphData, name="arcsize", data=[[1, 2.0]], legend=["time", "size"]),
        entry(decode.GraphData, name="memory", data=[[1, 2.0]], legend=["time", "available"]),
    ]
    assert decode.netdata(graphs, answers) == Performance(
        {"sda": DiskLoad(3 * 1024.0, 4 * 1024.0)}, 2 * 1024 * 1024
    )


def test_a_graph_without_rows_tells_nothing():
    graph = entry(decode.GraphEntry, name="disk", vertical_label="Kibibytes/s")
    assert (
        decode.netdata([graph], [entry(decode.GraphData, name="disk", data={}, legend=[])]) == Performance()
    )
