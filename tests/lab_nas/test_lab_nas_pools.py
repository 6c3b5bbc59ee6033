"""Pools: devices fail, scrubs run by the clock, exports take datasets along; and what the NAS reports."""

import asyncio
import errno
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest

from truetally.lab.nas import LabNas, pools, reporting
from truetally.lab.nas.failures import CallError
from truetally.lab.nas.machine import VERSIONS, Event
from truetally.lab.nas.pool import Vdev, disk_name, group

_CONTRACT = Path(
    os.environ.get("TRUETALLY_CONTRACT", Path(__file__).parents[2].parent / "shared" / "contract")
)
with_contract = pytest.mark.skipif(
    not _CONTRACT.is_dir(),
    reason="NOT CHECKED against the middleware's schemas: set TRUETALLY_CONTRACT to their folder",
)


class Clock:
    def __init__(self):
        self.at = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self):
        return self.at

    def pass_by(self, **time):
        self.at += timedelta(**time)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lab(clock):
    return a_lab("25.10", clock)


def a_lab(version, clock):
    made = LabNas(version, now=clock)
    made.zfs.create_pool("tank")
    made.ssh.create_dataset("tank/a")
    made.zfs.write("tank/a", 1 << 30)
    return made


def heard(lab):
    events = []
    lab.machine.listeners.append(events.append)
    return events


def the_pool(lab):
    return lab.call("pool.query", [["name", "=", "tank"]], {"get": True})


def test_a_whole_pool_is_online_and_names_its_disks(lab):
    row = the_pool(lab)
    assert (row["status"], row["healthy"], row["status_code"], row["status_detail"]) == (
        "ONLINE",
        True,
        "OK",
        None,
    )
    (mirror,) = row["topology"]["data"]
    assert [child["disk"] for child in mirror["children"]] == ["sda", "sdb"]
    assert row["allocated"] + row["free"] == row["size"]


def test_a_faulted_disk_degrades_a_mirror_and_is_told_up_to_25_10(lab):
    events = heard(lab)
    pools.strike(lab.machine, "tank", "sdb", "FAULTED", read_errors=12)
    row = the_pool(lab)
    assert (row["status"], row["healthy"], row["status_code"]) == ("DEGRADED", False, "FAULTED_DEV_R")
    assert "degraded state" in row["status_detail"]
    (mirror,) = row["topology"]["data"]
    assert (mirror["status"], mirror["children"][1]["status"]) == ("DEGRADED", "FAULTED")
    assert mirror["children"][1]["stats"]["read_errors"] == 12
    assert [(event.msg, event.collection, event.fields["status"]) for event in events] == [
        ("changed", "pool.query", "DEGRADED")
    ]
    pools.clear_errors(lab.machine, "tank")
    assert the_pool(lab)["healthy"] is True


def test_26_tells_nothing_of_a_disk(clock):
    lab = a_lab("26.0", clock)
    events = heard(lab)
    pools.strike(lab.machine, "tank", "sdb", "FAULTED")
    assert the_pool(lab)["status"] == "DEGRADED"
    assert events == []


def test_errors_alone_leave_a_pool_online_and_unwell(lab):
    pools.strike(lab.machine, "tank", "sda", checksum_errors=1)
    row = the_pool(lab)
    assert (row["status"], row["healthy"], row["status_code"]) == ("ONLINE", False, "FAILING_DEV")


@pytest.mark.parametrize(
    ("kind", "lost", "state"),
    [
        ("MIRROR", 3, "DEGRADED"),
        ("MIRROR", 4, "UNAVAIL"),
        ("RAIDZ1", 1, "DEGRADED"),
        ("RAIDZ1", 2, "UNAVAIL"),
        ("RAIDZ2", 2, "DEGRADED"),
        ("RAIDZ2", 3, "UNAVAIL"),
    ],
)
def test_a_group_does_without_as_many_disks_as_its_kind_says(lab, kind, lost, state):
    pool = lab.zfs.pools["tank"]
    pool.vdevs["data"] = [group(kind, 77, ["sda", "sdb", "sdc", "sdd"])]
    for number in range(lost):
        pool.disk(disk_name(number)).state = "REMOVED"
    assert pool.state == state


def test_a_lone_disk_that_is_gone_takes_the_pool_with_it(lab):
    pool = lab.zfs.pools["tank"]
    pool.vdevs["data"] = [Vdev("DISK", 5, "sdz", "UNAVAIL")]
    row = the_pool(lab)
    assert (row["status"], row["status_code"]) == ("UNAVAIL", "MISSING_DEV_NR")
    assert row["topology"]["data"][0]["disk"] is None


def test_disks_are_named_as_linux_names_them():
    assert [disk_name(number) for number in (0, 25, 26, 27, 701, 702)] == [
        "sda",
        "sdz",
        "sdaa",
        "sdab",
        "sdzz",
        "sdaaa",
    ]


@pytest.mark.parametrize(
    ("version", "collection"), [("22.12", "zfs.pool.scan"), ("25.10", "zfs.pool.scan"), ("26.0", "pool.scan")]
)
def test_a_scrub_goes_by_the_clock_and_is_told_until_it_has_ended(version, collection, clock):
    lab = a_lab(version, clock)
    events = heard(lab)
    lab.call("pool.scrub.scrub", "tank", "START")
    clock.pass_by(minutes=15)
    scan = the_pool(lab)["scan"]
    assert (scan["function"], scan["state"], scan["percentage"]) == ("SCRUB", "SCANNING", 25)
    assert (scan["total_secs_left"], scan["end_time"]) == (45 * 60, None)
    assert scan["bytes_processed"] == scan["bytes_to_process"] // 4
    pools.tell_scans(lab.machine)
    clock.pass_by(hours=2)
    pools.tell_scans(lab.machine)
    pools.tell_scans(lab.machine)
    told = [event.fields["scan"]["state"] for event in events if event.collection == collection]
    assert told == ["SCANNING", "SCANNING", "FINISHED"]
    ended = the_pool(lab)["scan"]["end_time"]["$date"]
    assert ended == int(datetime(2026, 1, 1, 1, tzinfo=UTC).timestamp() * 1000)


def test_a_paused_scrub_stands_still_and_goes_on(lab, clock):
    lab.call("pool.scrub.scrub", "tank")
    clock.pass_by(minutes=30)
    lab.call("pool.scrub.scrub", "tank", "PAUSE")
    clock.pass_by(hours=5)
    scan = the_pool(lab)["scan"]
    assert (scan["percentage"], scan["pause"] is not None) == (50, True)
    lab.call("pool.scrub.scrub", "tank", "START")
    clock.pass_by(minutes=29)
    assert the_pool(lab)["scan"]["state"] == "SCANNING"
    clock.pass_by(minutes=1)
    assert the_pool(lab)["scan"]["state"] == "FINISHED"


def test_a_stopped_scrub_is_cancelled_and_a_second_stop_fails(lab):
    lab.call("pool.scrub.scrub", "tank")
    lab.call("pool.scrub.scrub", "tank", "STOP")
    assert the_pool(lab)["scan"]["state"] == "CANCELED"
    job = lab.call("pool.scrub.scrub", "tank", "STOP")
    assert lab.machine.jobs[job - 1]["state"] == "FAILED"


def test_26_scrubs_and_shows_pools_by_another_service_too(clock):
    lab = a_lab("26.0", clock)
    pools.strike(lab.machine, "tank", "sda", "FAULTED", read_errors=2)
    lab.call("zpool.scrub.run", {"pool_name": "tank"})
    clock.pass_by(minutes=30)
    (row,) = lab.call("zpool.query", {"topology": True, "scan": True, "properties": ["size"]})
    assert (row["status"], row["scan"]["percentage"], row["scan"]["start_time"]) == (
        "DEGRADED",
        50,
        int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()),
    )
    assert row["topology"]["data"][0]["children"][0]["stats"]["read_errors"] == 2
    assert row["properties"]["size"]["value"] == lab.zfs.pools["tank"].size_bytes
    lab.call("zpool.scrub.run", {"pool_name": "tank", "action": "CANCEL"})
    assert the_pool(lab)["scan"]["state"] == "CANCELED"
    assert lab.call("zpool.query", {"pool_names": ["other"]}) == []


async def test_scans_are_told_as_long_as_they_are_watched(lab):
    events = heard(lab)
    _scrubbing(lab)
    watching = asyncio.create_task(pools.watch_scans(lab.machine, timedelta(milliseconds=1)))
    async with asyncio.timeout(5):
        while len([event for event in events if event.collection == "zfs.pool.scan"]) < 5:
            await asyncio.sleep(0.001)
    watching.cancel()


def test_two_scrubs_at_once_are_refused(lab):
    lab.call("pool.scrub.scrub", "tank")
    job = lab.call("pool.scrub.scrub", "tank")
    assert lab.machine.jobs[job - 1]["error"].startswith("[EBUSY]")


def test_a_scrub_by_schedule_waits_for_its_threshold(lab, clock):
    lab.call("pool.scrub.run", "tank", 35)
    clock.pass_by(days=34)
    lab.call("pool.scrub.run", "tank", 35)
    assert the_pool(lab)["scan"]["start_time"]["$date"] == int(
        datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000
    )
    clock.pass_by(days=2)
    lab.call("pool.scrub.run", "tank", 35)
    assert the_pool(lab)["scan"]["state"] == "SCANNING"


def test_a_resilver_is_told_as_a_scan(lab):
    events = heard(lab)
    pools.resilver(lab.machine, "tank")
    assert events[0].fields["scan"]["function"] == "RESILVER"


def test_an_exported_pool_takes_its_datasets_along_and_brings_them_back(lab):
    lab.ssh.snapshot("tank/a@s")
    before = lab.call("pool.dataset.query"), lab.call("pool.snapshot.query")
    guid = the_pool(lab)["guid"]
    events = heard(lab)
    lab.call("pool.export", 1)
    assert (lab.call("pool.query"), lab.call("pool.dataset.query"), lab.zfs.find("tank/a")) == ([], [], None)
    assert lab.call("pool.snapshot.query", [["id", ">", ""]], {"order_by": ["id"]}) == []
    found = lab.machine.jobs[lab.call("pool.import_find") - 1]["result"]
    assert [each["guid"] for each in found] == [guid]
    lab.call("pool.import_pool", {"guid": guid})
    assert (lab.call("pool.dataset.query"), lab.call("pool.snapshot.query")) == before
    told = [(event.msg, event.id) for event in events if event.collection == "pool.query"]
    assert told == [("removed", 1), ("added", 1)]


def test_a_destroyed_pool_cannot_be_imported(lab):
    guid = the_pool(lab)["guid"]
    lab.call("pool.export", 1, {"destroy": True})
    job = lab.call("pool.import_pool", {"guid": guid})
    assert lab.machine.jobs[job - 1]["state"] == "FAILED"


def test_graphs_move_with_the_clock_and_are_the_same_for_all(lab, clock):
    asked = [{"name": "disk", "identifier": "sda"}], {"unit": "HOUR"}
    first = lab.call("reporting.netdata_get_data", *asked)[0]
    assert lab.call("reporting.netdata_get_data", *asked)[0] == first
    assert first["legend"] == ["time", "reads", "writes"]
    assert first["data"][-1][0] == first["end"] == int(clock.at.timestamp())
    assert len({row[1] for row in first["data"]}) > 50
    clock.pass_by(minutes=10)
    assert lab.call("reporting.netdata_get_data", *asked)[0]["data"][-1] != first["data"][-1]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_graph_that_is_named_can_be_asked_for(version, clock):
    lab = a_lab(version, clock)
    for graph in lab.call("reporting.graphs"):
        for each in graph["identifiers"] or [None]:
            asked = [{"name": graph["name"], "identifier": each}]
            (answer,) = lab.call("reporting.get_data", asked, {"unit": "HOUR", "aggregate": True})
            assert answer["data"]
            values = [value for row in answer["data"] for value in row]
            assert all(value >= 0 for value in values)
            assert len(answer["aggregations"]["mean"]) == len(set(answer["legend"]) - {"time"})


def test_one_graph_is_told_for_all_that_it_is_drawn_for(lab):
    disks = lab.call("reporting.netdata_graphs", [["name", "=", "disk"]], {"get": True})["identifiers"]
    asked = [{"name": "disk", "identifier": each} for each in disks]
    assert lab.call("reporting.netdata_graph", "disk") == lab.call("reporting.netdata_get_data", asked)
    (memory,) = lab.call("reporting.netdata_graph", "memory", {"unit": "DAY"})
    assert (memory["identifier"], memory["end"] - memory["start"]) == (None, 86400)
    (load,) = lab.call("reporting.netdata_graph", "load")
    assert load["legend"] == ["time", "shortterm", "midterm", "longterm"]


def test_a_graph_that_there_is_not_is_not_found(lab):
    with pytest.raises(CallError, match="'nonsense' is not a valid graph plugin") as refused:
        lab.call("reporting.netdata_graph", "nonsense")
    assert refused.value.number == errno.ENOENT


@pytest.mark.parametrize("version", VERSIONS)
def test_a_sample_moves_with_the_clock(version, clock):
    lab = a_lab(version, clock)
    first = reporting.realtime(lab.machine)
    assert reporting.realtime(lab.machine) == first
    clock.pass_by(minutes=7)
    assert reporting.realtime(lab.machine)["zfs"] != first["zfs"]
    if version >= "25.10":
        assert first["pools"]["tank"]["used"] == lab.zfs.dataset("tank").used_bytes


# Against the schemas


def _old(schema):
    """The dialect of 24.10 and before as JSON Schema: `items` lists what the items may be."""
    if isinstance(schema, list):
        return [_old(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {k: _old(v) for k, v in schema.items() if not k.startswith("_") and k not in ("items", "default")}
    if schema.get("items"):
        found["items"] = {"anyOf": _old(schema["items"])}
    if "properties" in schema:
        found["properties"] = {k: _old(v) for k, v in schema["properties"].items()}
        found["required"] = [k for k, v in schema["properties"].items() if v.get("_required_")]
    return {"anyOf": [found, {"type": "null"}]} if schema.get("nullable") else found


def _plain(value):
    if isinstance(value, dict):
        if set(value) == {"$date"}:
            return "2026-01-01T00:00:00+00:00"
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _fits(version, method, value):
    file = _CONTRACT / version / f"{method}.json"
    if not file.exists():
        return
    dumped = json.loads(file.read_text())
    schema = dumped["result"] if "result" in dumped else _old((dumped["returns"] or [{}])[0])
    # 24.04 and 24.10 declare one graph where a list of them is given.
    for each in value if schema.get("type") == "object" and isinstance(value, list) else [value]:
        jsonschema.Draft202012Validator(schema).validate(_plain(each))


def _untouched(_):
    pass


def _scrubbing(lab):
    lab.call("pool.scrub.scrub", "tank")


def _scrubbed(lab):
    _scrubbing(lab)
    lab.machine.now.pass_by(days=1)


def _paused(lab):
    _scrubbing(lab)
    lab.call("pool.scrub.scrub", "tank", "PAUSE")


def _degraded(lab):
    pools.strike(lab.machine, "tank", "sda", "UNAVAIL", write_errors=3)


def _offline(lab):
    lab.zfs.pools["tank"].imported = False


@with_contract
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("befall", [_untouched, _scrubbing, _scrubbed, _paused, _degraded, _offline])
def test_a_pool_fits_the_real_schema_whatever_befell_it(version, befall, clock):
    lab = a_lab(version, clock)
    befall(lab)
    _fits(version, "pool.query", lab.call("pool.query"))
    _fits(version, "pool.get_instance", lab.call("pool.get_instance", 1))
    _fits(version, "pool.scrub.query", lab.call("pool.scrub.query"))


def _job(lab, method, *arguments):
    row = lab.machine.jobs[lab.call(method, *arguments) - 1]
    assert row["state"] == "SUCCESS", row
    return row["result"]


def _known_to_old_schemas(row):
    # The schemas up to 24.10 know none of these, while the domain document says that every
    # property is shown there.
    unknown = ("createtxg", "guid", "logicalused", "referenced", "snapshots_changed", "written")
    return {name: value for name, value in row.items() if name not in unknown}


@with_contract
@pytest.mark.parametrize("version", VERSIONS)
def test_datasets_keys_and_reports_fit_the_real_schemas(version, clock):
    lab = a_lab(version, clock)
    options = {"passphrase": "correct horse"}
    data = {"name": "tank/s", "encryption": True, "encryption_options": options}
    lab.call("pool.dataset.create", data | {"inherit_encryption": False})
    lab.call("pool.dataset.create", {"name": "tank/s/z", "type": "VOLUME", "volsize": 1 << 20})
    lab.ssh.set("tank/a", {"quota": "2G", "recordsize": "1M", "readonly": "on", "x:y": "z"})
    keys = {"datasets": [{"name": "tank/s", "passphrase": "correct horse"}]}
    _fits(version, "pool.dataset.lock", _job(lab, "pool.dataset.lock", "tank/s"))
    shown = [_known_to_old_schemas(row) for row in lab.call("pool.dataset.query")]
    _fits(version, "pool.dataset.query", shown)
    summary = _job(lab, "pool.dataset.encryption_summary", "tank/s", keys)
    _fits(version, "pool.dataset.encryption_summary", summary)
    _fits(version, "pool.dataset.unlock", _job(lab, "pool.dataset.unlock", "tank/s", keys))
    if version >= "25.10":
        asked = {"paths": ["tank"], "get_children": True, "get_source": True, "get_user_properties": True}
        _fits(version, "zfs.resource.query", lab.call("zfs.resource.query", asked))
    for kind in ("", "netdata_") if version != "22.12" else ("",):
        _fits(version, f"reporting.{kind}graphs", lab.call(f"reporting.{kind}graphs"))
        disk = [{"name": "disk", "identifier": "sda"}]
        _fits(version, f"reporting.{kind}get_data", lab.call(f"reporting.{kind}get_data", disk, {}))
    if version != "22.12":
        _fits(version, "reporting.netdata_graph", lab.call("reporting.netdata_graph", "disk"))


@with_contract
@pytest.mark.parametrize("befall", [_untouched, _scrubbing, _scrubbed, _paused, _degraded])
def test_a_zpool_fits_the_real_schema_whatever_befell_it(befall, clock):
    lab = a_lab("26.0", clock)
    befall(lab)
    asked = {"properties": ["size", "capacity", "health"], "topology": True, "scan": True}
    _fits("26.0", "zpool.query", lab.call("zpool.query", asked))
    _fits("26.0", "zpool.query", lab.call("zpool.query"))


@with_contract
@pytest.mark.parametrize("version", ["25.10", "26.0"])
def test_samples_and_scans_fit_the_real_schemas(version, clock):
    lab = a_lab(version, clock)
    events = heard(lab)
    _scrubbing(lab)
    events.append(Event("added", "reporting.realtime", fields=reporting.realtime(lab.machine)))
    checked = []
    for event in events:
        file = _CONTRACT / version / "events" / f"{event.collection}.json"
        if event.collection == "core.get_jobs" or not file.exists():
            continue
        schema = json.loads(file.read_text())["schemas"]["properties"][event.msg.upper()]
        # A scan's schema is of the fields themselves.
        told = {"fields": event.fields} if "fields" in schema["properties"] else event.fields
        jsonschema.Draft202012Validator(schema).validate(_plain(told))
        checked.append(event.collection)
    assert checked == (["reporting.realtime"] if version == "25.10" else ["pool.scan", "reporting.realtime"])
