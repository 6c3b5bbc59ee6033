"""TrueNAS's query language and what the two engines show of datasets and snapshots."""

from datetime import UTC, datetime

import pytest

from lab_nas.nas_client import logged_in
from truetally.lab.nas import LabNas
from truetally.lab.nas.failures import Invalid, MatchNotFound
from truetally.lab.nas.query import checked

_ROWS = [
    {"id": 1, "name": "Alpha", "tags": ["a"], "used": {"parsed": 10}, "note": None},
    {"id": 2, "name": "beta", "tags": ["a", "b"], "used": {"parsed": 5}, "a.b": 7},
    {"id": 3, "name": "gamma", "tags": [], "used": {"parsed": 20}, "note": "x"},
]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ([["id", "=", 2]], [2]),
        ([["id", "!=", 2]], [1, 3]),
        ([["id", ">", 1], ["id", "<=", 2]], [2]),
        ([["name", "~", "^.*ta$"]], [2]),
        ([["id", "in", [1, 3]]], [1, 3]),
        ([["id", "nin", [1, 3]]], [2]),
        ([["tags", "rin", "a"]], [1, 2]),
        ([["tags", "rnin", "a"]], [3]),
        ([["name", "^", "g"]], [3]),
        ([["name", "!^", "g"]], [1, 2]),
        ([["name", "$", "a"]], [1, 2, 3]),
        ([["name", "!$", "ta"]], [1, 3]),
        ([["name", "C=", "ALPHA"]], [1]),
        ([["name", "C^", "B"]], [2]),
        ([["used.parsed", ">=", 10]], [1, 3]),
        ([["a\\.b", "=", 7]], [2]),
        ([["absent", "!=", "x"]], []),
        ([["name", ">", 3]], []),
        ([["OR", [["id", "=", 1], ["name", "=", "gamma"]]]], [1, 3]),
        ([["OR", [[["id", "=", 1], ["name", "=", "gamma"]], ["id", "=", 2]]]], [2]),
    ],
)
def test_filters_choose(filters, ids):
    assert [row["id"] for row in checked(filters).apply(_ROWS)] == ids


@pytest.mark.parametrize("bad", [["bad"], "x", ["a", "??", 1], ["AND", [["id", "=", 1]]], ["OR", [["x"]]]])
def test_bad_filters_are_invalid(bad):
    with pytest.raises(Invalid):
        checked([bad])


def test_the_last_key_of_order_by_dominates():
    rows = [{"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 3, "b": 1}]
    assert checked([], {"order_by": ["-a", "b"]}).apply(rows) == [rows[2], rows[1], rows[0]]


def test_nulls_can_stand_last():
    assert [row["id"] for row in checked([], {"order_by": ["nulls_last:note"]}).apply(_ROWS)] == [3, 1, 2]


def test_select_comes_before_order_by_and_keeps_the_nesting():
    rows = checked([], {"select": ["used.parsed", ["name", "called"]], "order_by": ["-id"]}).apply(_ROWS)
    assert rows[0] == {"used": {"parsed": 10}, "called": "Alpha"}


def test_get_gives_one_row_or_an_error():
    assert checked([["id", "=", 2]], {"get": True}).apply(_ROWS)["name"] == "beta"
    with pytest.raises(MatchNotFound):
        checked([["id", "=", 77]], {"get": True}).apply(_ROWS)


def test_offset_and_limit_cut():
    assert [row["id"] for row in checked([], {"offset": 1, "limit": 1}).apply(_ROWS)] == [2]


async def test_a_limit_above_ten_thousand_is_an_error_since_25_10(nas25_04, nas):
    async with logged_in(nas) as client:
        assert (await client.error("pool.dataset.query", [], {"limit": 10001}))["code"] == -32602
    async with logged_in(nas25_04) as client:
        assert await client.call("pool.dataset.query", [], {"limit": 10001})


async def test_get_without_a_row_is_match_not_found_on_the_wire(nas):
    async with logged_in(nas) as client:
        error = await client.error("iscsi.initiator.query", [["id", "=", 77]], {"get": True})
    assert (error["code"], error["data"]["reason"]) == (-32001, "MatchNotFound()")


async def test_user_properties_lose_their_source_with_25_10(nas25_04, nas):
    sources = {}
    for lab in (nas25_04, nas):
        lab.ssh.create_dataset("tank/k8s/v", user={"x:y": "1"})
        lab.ssh.create_dataset("tank/k8s/v/child")
        async with logged_in(lab) as client:
            child = await client.call("pool.dataset.query", [["id", "=", "tank/k8s/v/child"]], {"get": True})
        sources[lab.machine.version] = child["user_properties"]["x:y"]["source"]
    assert sources == {"25.04": "INHERITED", "25.10": "LOCAL"}


async def test_replicas_carry_properties_as_received(nas25_04):
    nas25_04.ssh.create_dataset("tank/k8s/v", user={"x:y": "1"})
    nas25_04.ssh.receive("tank/k8s/v", "tank/backup/v")
    async with logged_in(nas25_04) as client:
        copy = await client.call("pool.dataset.get_instance", "tank/backup/v")
    assert copy["user_properties"]["x:y"]["source"] == "RECEIVED"


async def test_the_new_engine_shows_a_fixed_set_of_properties(nas25_04, nas):
    async with logged_in(nas25_04) as client:
        assert "referenced" in await client.call("pool.dataset.get_instance", "tank/k8s")
    async with logged_in(nas) as client:
        assert "referenced" not in await client.call("pool.dataset.get_instance", "tank/k8s")
        asked = {"extra": {"properties": ["referenced", "used"]}, "get": True}
        row = await client.call("pool.dataset.query", [["id", "=", "tank/k8s"]], asked)
    assert row["referenced"]["parsed"] == row["used"]["parsed"]
    assert "available" not in row


@pytest.mark.parametrize("version", ["25.04", "25.10"])
def test_zfs_knows_when_something_was_made_to_the_second(version):
    lab = LabNas(version, now=lambda: datetime(2026, 1, 1, 12, 0, 0, 999_999, tzinfo=UTC))
    lab.zfs.create_pool("tank")
    lab.zfs.take("tank", "s")
    snapshots = "zfs.snapshot.query" if version == "25.04" else "pool.snapshot.query"
    made = lab.call("pool.dataset.query", [], {"get": True})["creation"]
    taken = lab.call(snapshots, [], {"get": True, "extra": {"properties": ["creation"]}})["properties"]
    for each in (made, taken["creation"]):
        assert each["parsed"] == {"$date": int(each["rawvalue"]) * 1000}


async def test_a_flat_walk_without_children_needs_a_filter(nas25_04, nas):
    flat = {"extra": {"retrieve_children": False}}
    async with logged_in(nas) as client:
        assert [row["id"] for row in await client.call("pool.dataset.query", [], flat)] == ["tank"]
        rows = await client.call("pool.dataset.query", [["id", "!=", ""]], flat)
        assert [(row["id"], row["children"]) for row in rows] == [("tank", []), ("tank/k8s", [])]
    async with logged_in(nas25_04) as client:
        rows = await client.call("pool.dataset.query", [["id", "!=", ""]], flat)
        assert [row["id"] for row in rows] == ["tank"]


async def test_ancestors_repeat_their_children(nas):
    async with logged_in(nas) as client:
        rows = await client.call("pool.dataset.query")
    assert [row["id"] for row in rows] == ["tank", "tank/k8s"]
    assert rows[0]["children"] == [rows[1]]


async def test_the_new_engine_counts_without_filtering(nas25_04, nas):
    question = ("pool.dataset.query", [["id", "=", "tank/k8s"]], {"count": True})
    async with logged_in(nas) as client:
        assert await client.call(*question) == 2
    async with logged_in(nas25_04) as client:
        assert await client.call(*question) == 1


async def test_resources_are_opened_by_path(nas):
    nas.ssh.create_dataset("tank/k8s/v", user={"x:y": "1"})
    async with logged_in(nas) as client:
        asked = {
            "paths": ["tank/k8s"],
            "get_children": True,
            "get_user_properties": True,
            "properties": ["used"],
        }
        rows = await client.call("zfs.resource.query", asked)
        assert [(row["name"], row["user_properties"]) for row in rows] == [
            ("tank/k8s", {}),
            ("tank/k8s/v", {"x:y": "1"}),
        ]
        assert list(rows[1]["properties"]) == ["used"]
        missing = await client.error("zfs.resource.query", {"paths": ["tank/none"]})
        assert missing["data"]["extra"][0][2] == 2
        overlap = {"paths": ["tank", "tank/k8s"], "get_children": True}
        assert (await client.error("zfs.resource.query", overlap))["code"] == -32602


async def test_snapshots_inherit_user_properties(nas):
    nas.ssh.create_dataset("tank/k8s/v", user={"x:y": "1"})
    nas.ssh.snapshot("tank/k8s/v@auto")
    async with logged_in(nas) as client:
        row = await client.call("pool.snapshot.query", [["dataset", "=", "tank/k8s/v"]], {"get": True})
    assert row["properties"]["x:y"]["source"] == "INHERITED"


async def test_foreign_holds_are_invisible_in_26(nas, nas26):
    for lab, shown in ((nas, {"velero": 1, "truenas": 1}), (nas26, {"truenas": 1})):
        lab.ssh.snapshot("tank/k8s@s")
        lab.zfs.hold("tank/k8s@s", "velero")
        lab.zfs.hold("tank/k8s@s")
        async with logged_in(lab) as client:
            row = (await client.call("pool.snapshot.query", [], {"extra": {"holds": True}}))[0]
        assert row["holds"] == shown
    async with logged_in(nas26) as client:
        asked = {"paths": ["tank/k8s@s"], "get_holds": True}
        assert (await client.call("zfs.resource.snapshot.query", asked))[0]["holds"] == ["truenas", "velero"]


async def test_an_offline_pool_takes_its_datasets_out_of_sight(nas):
    nas.zfs.pools["tank"].imported = False
    async with logged_in(nas) as client:
        assert await client.call("pool.dataset.query") == []
        assert await client.call("pool.snapshot.query") == []
        pool = (await client.call("pool.query"))[0]
    assert (pool["status"], pool["size"], pool["healthy"]) == ("OFFLINE", None, False)


async def test_a_locked_dataset_locks_its_shares(nas):
    async with logged_in(nas) as client:
        await client.call("sharing.nfs.create", {"path": "/mnt/tank/k8s"})
        nas.zfs.dataset("tank/k8s").locked = True
        assert (await client.call("sharing.nfs.query"))[0]["locked"] is True
        row = await client.call("pool.dataset.get_instance", "tank/k8s")
    assert (row["locked"], row["mountpoint"]) == (True, None)


async def test_pages_of_snapshots_join_to_the_whole_list(nas):
    for number in range(5):
        nas.ssh.snapshot(f"tank/k8s@s{number}")
    async with logged_in(nas) as client:
        whole = await client.call("pool.snapshot.query")
        pages = [
            await client.call("pool.snapshot.query", [], {"limit": 2, "offset": offset})
            for offset in (0, 2, 4)
        ]
    assert [row for page in pages for row in page] == whole
    assert [len(page) for page in pages] == [2, 2, 1]


@pytest.mark.parametrize("version", ["24.10", "25.10", "26.0"])
def test_a_snapshot_of_a_zvol_tells_its_sizes_and_only_older_ones_its_name(version):
    lab = LabNas(version)
    lab.zfs.create_pool("tank")
    lab.ssh.create_dataset("tank/z", volsize=1 << 30, user={"a:b": "c", "a:d": "e"})
    lab.ssh.snapshot("tank/z@s")
    method = "zfs.snapshot.query" if version == "24.10" else "pool.snapshot.query"

    def properties(*wanted):
        options = {"extra": {"properties": list(wanted)}} if wanted else {}
        return lab.call(method, [["id", "=", "tank/z@s"]], options)[0]["properties"]

    known = properties()
    assert known["volsize"]["parsed"] == 1 << 30
    assert known["logicalreferenced"]["parsed"] == known["referenced"]["parsed"] > 0
    older = version != "26.0"
    assert (("name" in known), ("a:b" in known)) == (older, older)
    assert set(properties("name", "volsize", "a:b")) == {"volsize", *(["name", "a:b"] if older else [])}
