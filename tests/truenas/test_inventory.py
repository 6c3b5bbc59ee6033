"""Is each version asked for what it can tell, as cheaply as it allows, and is its silence understood?"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from recorded import RecordingSession, answers, generation_of

from truetally.model.refs import TRUENAS_KINDS, Kind
from truetally.model.truenas import Origin, Snapshot
from truetally.sources.truenas import inventory
from truetally.sources.truenas.calls import CallFailed, Change, Fault
from truetally.sources.truenas.hints import COLLECTIONS, followed, hinted
from truetally.sources.truenas.inventory import Known, NotTold
from truetally.sources.truenas.queries import EVERY, Every, needed, needed_to_remediate

ALL = ["24.10", "25.04", "25.10", "26.0"]
NVME = [kind for kind in EVERY if kind.value.startswith("Nvme")]


async def listed(kind: Kind, session: Any, known: Known | None = None) -> dict[str, Any]:
    return {
        name: value async for page in inventory.listing(kind, session, "nas1", known) for name, value in page
    }


def a_snapshot(path: str, **fields: Any) -> dict[str, Any]:
    return {"id": path, "name": path, "dataset": path.partition("@")[0], "createtxg": "5", **fields}


class Snapshots:
    """Answers the two forms of a snapshot query as the real server does."""

    def __init__(self, *paths: str) -> None:
        self.paths = list(paths)

    def __call__(self, filters: list[Any], options: dict[str, Any]) -> list[dict[str, Any]]:
        found = [a_snapshot(path) for path in self.paths]
        for field, op, value in filters:
            match op:
                case "in":
                    found = [each for each in found if each[field] in value]
                case "=":
                    found = [each for each in found if each[field] == value]
                case ">":
                    found = [each for each in found if each[field] > value]
        return [{"name": each["name"]} for each in found] if options.get("select") else found


def snapshot_session(train: str, *paths: str) -> RecordingSession:
    method = "zfs.snapshot.query" if train in ("24.10", "25.04") else "pool.snapshot.query"
    return RecordingSession(train, answers({method: Snapshots(*paths)}))


async def some_snapshots(session: Any, datasets: list[str]) -> list[str]:
    pages = inventory.snapshots_of(session, datasets, {})
    return [name async for page in pages for name, _ in page]


# What a version does not have, and what it does not tell


@pytest.mark.parametrize("kind", NVME)
@pytest.mark.parametrize("train", ["24.10", "25.04"])
async def test_before_25_10_there_is_no_nvme_and_nothing_is_asked(train, kind):
    session = RecordingSession(train, answers({}))
    assert inventory.absent(kind, session.generation)
    assert await listed(kind, session) == {}
    assert await inventory.read(kind, "1", session, "nas1") is None
    assert session.asked == []


async def test_smb_clients_are_untold_on_25_10_and_told_before_and_after():
    status = {"smb.status": [{"service": "a", "machine": "10.0.0.3", "session_id": "7"}]}
    untold = RecordingSession("25.10", answers(status))
    with pytest.raises(NotTold, match=r"TrueNAS 25\.10 does not tell") as error:
        await listed(Kind.SMB_CLIENT, untold)
    assert "SMB clients" in error.value.reason
    with pytest.raises(NotTold):
        await inventory.read(Kind.SMB_CLIENT, "x", untold, "nas1")
    assert untold.asked == []
    assert not inventory.absent(Kind.SMB_CLIENT, untold.generation)
    for train in ("25.04", "26.0"):
        assert set(await listed(Kind.SMB_CLIENT, RecordingSession(train, answers(status)))) == {
            "10.0.0.3>a#7"
        }


async def test_old_keys_are_asked_for_by_name_only_and_new_ones_are_ours():
    old = RecordingSession("24.10", answers({"api_key.query": [{"id": 1, "name": "k"}]}))
    assert set(await listed(Kind.API_KEY, old)) == {"1"}
    assert old.asked == [("api_key.query", [[], {"select": ["id", "name"]}])]
    new = RecordingSession("25.04", answers({"api_key.my_keys": [{"id": 1, "name": "k"}]}))
    await listed(Kind.API_KEY, new)
    assert new.asked == [("api_key.my_keys", [])]


async def test_clients_of_both_nfs_versions_are_one_kind():
    told = {
        "nfs.get_nfs3_clients": [{"ip": "10.0.0.1", "export": "/mnt/tank/a"}],
        "nfs.get_nfs4_clients": [{"id": "9", "info": {"address": "10.0.0.2:7"}, "states": []}],
    }
    found = await listed(Kind.NFS_CLIENT, RecordingSession("26.0", answers(told)))
    assert {name: value.version for name, value in found.items()} == {"10.0.0.1>/mnt/tank/a": 3, "nfs4#9": 4}


@pytest.mark.parametrize("hosts", [None, [3]])
async def test_what_belongs_to_a_subsystem_is_asked_for_apart_only_if_it_is_not_told(hosts):
    told = {
        "nvmet.subsys.query": [{"id": 1, "name": "s", "subnqn": "nqn.s", "hosts": hosts, "ports": [2]}],
        "nvmet.host_subsys.query": [{"id": 1, "host": {"id": 3}, "subsys": {"id": 1}}],
        "nvmet.port_subsys.query": [],
    }
    session = RecordingSession("25.10", answers(told))
    found = (await listed(Kind.NVME_SUBSYSTEM, session))["1"]
    assert (found.hosts, found.ports) == ((3,), (2,))
    assert len(session.asked) == (3 if hosts is None else 1)
    assert await inventory.read(Kind.NVME_SUBSYSTEM, "1", session, "nas1") == found
    assert await inventory.read(Kind.NVME_SUBSYSTEM, "2", session, "nas1") is None


# The NAS itself


async def test_the_system_tells_what_its_version_can():
    told = {
        "system.version": "TrueNAS-25.10.5",
        "system.boot_id": "abc",
        "failover.status": "MASTER",
        "update.status": {"code": "NORMAL", "status": {"new_version": {"version": "x"}}},
        "auth.me": {"privilege": {"roles": {"$set": ["READONLY_ADMIN"]}}},
    }
    found = (await listed(Kind.SYSTEM, RecordingSession("25.10", answers(told))))["nas1"]
    assert (found.boot_id, found.failover, found.update) == ("abc", "MASTER", "AVAILABLE")
    assert found.roles == ("READONLY_ADMIN",)
    old = RecordingSession("24.10", answers(told))
    assert (await listed(Kind.SYSTEM, old))["nas1"].roles is None
    assert not {"auth.me", "update.status"} & {method for method, _ in old.asked}


async def test_what_fails_alone_leaves_the_rest_of_the_system_known():
    told = {"system.version": "TrueNAS-26.0.0", "failover.status": CallFailed(Fault.FAILED, "no licence")}
    found = (await listed(Kind.SYSTEM, RecordingSession("26.0", answers(told))))["nas1"]
    assert (found.version, found.failover, found.boot_id) == ("TrueNAS-26.0.0", "", "")


# Snapshots of some datasets


@pytest.mark.parametrize("train", ALL)
async def test_only_the_snapshots_of_the_datasets_that_were_named_are_read(train):
    session = snapshot_session(train, "tank/a@1", "tank/a@2", "tank/a/child@1", "tank/b@1", "tank/c@1")
    assert sorted(await some_snapshots(session, ["tank/a", "tank/c", "tank/gone"])) == [
        "tank/a@1",
        "tank/a@2",
        "tank/c@1",
    ]


@pytest.mark.parametrize("train", ALL)
async def test_snapshots_are_never_asked_for_with_all_their_properties(train):
    session = snapshot_session(train, "tank/a@1", "tank/a@2")
    await some_snapshots(session, ["tank/a"])
    await listed(Kind.SNAPSHOT, session)
    for _, (_, options) in session.asked:
        assert options.get("select") == ["name"] or options["extra"]["properties"]


@pytest.mark.parametrize("train", ["24.10", "25.04", "25.10"])
async def test_up_to_25_10_only_new_snapshots_are_read_and_one_by_one(train):
    old = Snapshot("tank/a", "old")
    session = snapshot_session(train, "tank/a@old", "tank/a@new")
    pages = inventory.snapshots_of(session, ["tank/a"], {"tank/a@old": old, "tank/a@destroyed": old})
    found = {name: value async for page in pages for name, value in page}
    assert set(found) == {"tank/a@old", "tank/a@new"}
    assert found["tank/a@old"] is old
    # Exactly these filters and this select are what the server answers without a walk over everything.
    assert session.asked[0][1] == [
        [["dataset", "in", ["tank/a"]]],
        {"select": ["name"]},
    ]
    assert [params[0] for _, params in session.asked[1:]] == [[["id", "=", "tank/a@new"]]]


async def test_many_new_snapshots_are_read_together():
    session = snapshot_session("25.10", *(f"tank/a@{n}" for n in range(200)))
    assert len(await some_snapshots(session, ["tank/a"])) == 200
    assert len(session.asked) == 2


@pytest.mark.parametrize("train", ALL)
async def test_ten_thousand_datasets_never_make_a_message_that_the_server_refuses(train):
    datasets = [f"tank/kubernetes/production/volumes/pvc-{n:036d}" for n in range(10_000)]
    session = snapshot_session(train, f"{datasets[0]}@1", f"{datasets[-1]}@1", "tank/other@1")
    assert len(await some_snapshots(session, datasets)) == 2
    assert max(len(json.dumps(params)) for _, params in session.asked) < 40_000


@pytest.mark.parametrize("train", ["24.10", "25.10"])
async def test_a_new_snapshot_of_every_dataset_costs_one_walk_and_not_one_for_each_portion(train):
    datasets = [f"tank/kubernetes/production/volumes/pvc-{n:036d}" for n in range(2_000)]
    session = snapshot_session(train, *(f"{each}@nightly" for each in datasets), "tank/other@1")
    assert len(await some_snapshots(session, datasets)) == 2_000
    walks = [params for _, params in session.asked if params[1].get("select") != ["name"]]
    assert len(walks) == 1


# What has not changed


def shares(count: int, changed: int = -1) -> list[dict[str, Any]]:
    return [
        {"id": n, "path": f"/mnt/tank/{n}", "comment": "new" if n == changed else "", "hosts": []}
        for n in range(count)
    ]


async def test_an_entry_that_has_not_changed_stays_the_same_object():
    told: dict[str, Any] = {"sharing.nfs.query": shares(3)}
    session, known = RecordingSession("25.10", answers(told)), Known()
    before = await listed(Kind.NFS_SHARE, session, known)
    told["sharing.nfs.query"] = shares(3, changed=1)
    after = await listed(Kind.NFS_SHARE, session, known)
    assert [after[n] is before[n] for n in ("0", "1", "2")] == [True, False, True]
    assert after["1"].comment == "new"
    assert len(known) == 3


async def test_what_is_gone_from_the_list_is_forgotten():
    told: dict[str, Any] = {"sharing.nfs.query": shares(3)}
    session, known = RecordingSession("25.10", answers(told)), Known()
    await listed(Kind.NFS_SHARE, session, known)
    told["sharing.nfs.query"] = shares(1)
    assert set(await listed(Kind.NFS_SHARE, session, known)) == {"0"}
    assert len(known) == 1


async def test_a_list_that_was_not_read_to_its_end_changes_nothing_that_is_known():
    told: dict[str, Any] = {"sharing.nfs.query": shares(3)}
    session, known = RecordingSession("25.10", answers(told)), Known()
    first = await listed(Kind.NFS_SHARE, session, known)
    told["sharing.nfs.query"] = [*shares(2, changed=0), {"id": "no number"}]
    with pytest.raises(CallFailed, match="cannot be read"):
        await listed(Kind.NFS_SHARE, session, known)
    told["sharing.nfs.query"] = shares(3)
    again = await listed(Kind.NFS_SHARE, session, known)
    assert all(again[n] is first[n] for n in first)


async def test_the_same_bytes_from_another_generation_are_decoded_anew():
    row = {
        "id": "tank/a",
        "pool": "tank",
        "type": "FILESYSTEM",
        "user_properties": {"a:b": {"rawvalue": "c", "source": "INHERITED"}},
    }
    told = {
        "pool.query": [{"name": "tank", "status": "ONLINE"}],
        "zfs.resource.query": CallFailed(Fault.NOT_PERMITTED, "no"),
        "pool.dataset.query": [row],
    }
    known = Known()
    for train, origin in (("25.04", Origin.INHERITED), ("25.10", Origin.UNKNOWN)):
        found = await listed(Kind.DATASET, RecordingSession(train, answers(told)), known)
        assert found["tank/a"].user_properties["a:b"].origin is origin


async def test_decoding_ten_thousand_datasets_lets_others_have_their_turn():
    rows = [
        {
            "name": f"tank/k8s/pvc-{n}",
            "pool": "tank",
            "type": "FILESYSTEM",
            "properties": {p: {"raw": str(n), "value": n} for p in inventory._RESOURCE_PROPERTIES},
            "user_properties": {f"democratic-csi:{x}": "y" for x in range(12)},
        }
        for n in range(10_000)
    ]
    told = {"pool.query": [{"name": "tank", "status": "ONLINE"}], "zfs.resource.query": rows}
    session = RecordingSession("25.10", answers(told))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    assert len(await listed(Kind.DATASET, session)) == 10_000
    beside.cancel()
    assert turns >= 10_000 // 300  # 300 take some five milliseconds


# Hints


@pytest.mark.parametrize(
    ("collection", "id_", "expected"),
    [
        ("pool.dataset.query", "tank/a", (Kind.DATASET, "tank/a")),
        ("pool.dataset.query", "tank/a@1", (Kind.SNAPSHOT, "tank/a@1")),
        ("pool.dataset.query", "tank/a/%recv", None),
        ("pool.dataset.query", "tank/%recv@1", None),
        ("pool.query", 1, (Kind.POOL, "")),
        ("zpool.query", "tank", (Kind.POOL, "")),
        ("pool.scan", None, (Kind.POOL, "")),
        ("zfs.pool.scan", None, (Kind.POOL, "")),
        ("service.query", None, (Kind.SERVICE, "")),
        ("iscsi.target.query", 4, (Kind.ISCSI_TARGET, "4")),
        ("iscsi.portal.query", 4, (Kind.ISCSI_PORTAL, "4")),
        ("nvmet.namespace.query", 4, (Kind.NVME_NAMESPACE, "4")),
        ("nvmet.host_subsys.query", 4, (Kind.NVME_SUBSYSTEM, "")),
        ("nvmet.port_subsys.query", 4, (Kind.NVME_SUBSYSTEM, "")),
        ("pool.snapshottask.query", 4, (Kind.SNAPSHOT_TASK, "4")),
        ("replication.query", 4, (Kind.REPLICATION_TASK, "4")),
        ("api_key.query", 4, (Kind.API_KEY, "")),
        ("update.status", None, (Kind.SYSTEM, "")),
        ("failover.status", None, (Kind.SYSTEM, "")),
        ("system.reboot.info", None, (Kind.SYSTEM, "")),
        ("core.get_jobs", 4, None),
    ],
)
def test_what_an_event_makes_us_read(collection, id_, expected):
    assert hinted(Change(collection, "changed", id_)) == expected


@pytest.mark.parametrize("collection", ["pool.scan", "zfs.pool.scan"])
@pytest.mark.parametrize(
    ("fields", "read"),
    [
        (b'{"name":"tank","scan":{"state":"SCANNING","percentage":7}}', False),
        (b'{"name":"tank","scan":{"state":"FINISHED"}}', True),
        (b'{"name":"tank","scan":{"state":"CANCELED"}}', True),
        (b'{"name":"tank","scan":null}', True),
        (b"null", True),
        (b'"something else"', True),
    ],
)
def test_the_end_of_a_scrub_is_read_at_once_and_its_progress_only_now_and_then(collection, fields, read):
    found = hinted(Change(collection, "changed", None, msgspec.Raw(fields)))
    assert found == ((Kind.POOL, "") if read else None)


def test_each_version_is_subscribed_to_what_it_has():
    def names(train: str) -> set[str]:
        return {each.name for each in followed(generation_of(train).since)}

    assert names("24.10") >= {"zfs.snapshot.query", "zfs.pool.scan"}
    assert not names("24.10") & {"pool.scan", "zpool.query", "pool.snapshot.query", "nvmet.subsys.query"}
    assert names("26.0") >= {"pool.scan", "zpool.query", "pool.snapshot.query", "nvmet.subsys.query"}
    assert not names("26.0") & {"zfs.snapshot.query", "zfs.pool.scan"}
    assert set(COLLECTIONS) == set().union(*(names(train) for train in ALL))


# What has to be permitted


def test_every_kind_has_its_pace():
    assert set(EVERY) == TRUENAS_KINDS
    assert (EVERY[Kind.DATASET], EVERY[Kind.API_KEY], EVERY[Kind.SNAPSHOT]) == (
        Every.FAST,
        Every.SLOW,
        Every.SELDOM,
    )


@pytest.mark.parametrize("train", ALL)
async def test_all_that_is_asked_for_is_named_among_what_has_to_be_permitted(train):
    session = RecordingSession(train, lambda method, *_: _something(method))
    for kind in EVERY:
        try:
            await listed(kind, session)
        except NotTold:
            continue
    for name in ("tank/a", "tank/z"):
        await inventory.read(Kind.DATASET_USE, name, session, "nas1")
    await inventory.performance(session)
    named = {need.method for need in needed(session.generation)}
    asked = {method for method, _ in session.asked}
    if train == "25.10":
        asked -= {"smb.status"}  # only to be told that it cannot be
    assert asked <= named


def _something(method: str) -> Any:
    return {
        "pool.query": [{"name": "tank", "status": "ONLINE"}],
        "system.version": "x",
        "sharing.nfs.query": [{"id": 1, "path": "/mnt/tank/a"}],
        "sharing.smb.query": [{"id": 1, "name": "a", "path": "/mnt/tank/a"}],
        "nfs.client_count": 1,
        "iscsi.extent.query": [{"id": 1, "name": "z", "disk": "zvol/tank/z"}],
        "nvmet.subsys.query": [{"id": 1, "name": "s"}],
        "nvmet.namespace.query": [{"id": 1, "subsys": {"id": 1}, "device_path": "zvol/tank/z"}],
        "reporting.netdata_graphs": [{"name": "disk", "identifiers": ["sda"]}],
    }.get(method, [])


@pytest.mark.parametrize("train", ALL)
def test_keys_of_old_versions_need_methods_and_those_of_new_ones_roles(train):
    generation = generation_of(train)
    needs = [*needed(generation), *needed_to_remediate(generation)]
    assert any(need.roles for need in needs) is (train != "24.10")
    (datasets,) = [n for n in needs if n.method == "pool.dataset.query" and n.subscription]
    assert datasets.allowed == {"method": "SUBSCRIBE", "resource": "pool.dataset.query"}
    assert {"method": "CALL", "resource": "pool.dataset.delete"} in [n.allowed for n in needs]


def test_the_observer_needs_no_role_that_can_destroy():
    roles = {role for need in needed(generation_of("26.0")) for role in need.roles}
    assert not {role for role in roles if role.endswith("_DELETE") or role == "FULL_ADMIN"}
    # NFS clients are told only to who may change shares, or to READONLY_ADMIN.
    assert {role for role in roles if role.endswith("_WRITE")} == {"SHARING_NFS_WRITE"}


# Who uses a dataset, by NVMe-oF


@pytest.mark.parametrize(("train", "used"), [("25.04", ()), ("25.10", ("nqn.h",)), ("26.0", ("nqn.h",))])
async def test_a_host_that_is_connected_to_a_namespace_on_the_zvol_uses_it(train, used):
    told = {
        "nvmet.namespace.query": [
            {"id": 1, "subsys": {"id": 5}, "device_type": "ZVOL", "device_path": "zvol/tank/z"},
            {"id": 2, "subsys": {"id": 6}, "device_type": "ZVOL", "device_path": "zvol/tank/y"},
        ],
        "nvmet.global.sessions": [
            {"hostnqn": "nqn.h", "subsys_id": 5},
            {"hostnqn": "nqn.other", "subsys_id": 6},
        ],
    }
    session = RecordingSession(train, lambda method, *_: told.get(method, []))
    found = await inventory.read(Kind.DATASET_USE, "tank/z", session, "nas1")
    assert found.sessions == used
