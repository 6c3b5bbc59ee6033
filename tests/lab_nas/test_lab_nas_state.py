"""The lab's state as JSON: it comes back as it was, and recorded states of real drivers load."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab_nas.test_lab_nas_space import check
from truetally.lab.nas import Driver, LabNas, pools, state
from truetally.lab.nas.encryption import key_of, lock

RECORDS = sorted((Path(__file__).parent / "records").glob("*.json"))
SAMPLES = Path(os.environ.get("TRUETALLY_SAMPLES", Path(__file__).parents[2].parent / "shared" / "samples"))


def through_json(value):
    return json.loads(json.dumps(value))


@pytest.fixture
def busy():
    """A lab with something of every kind in it."""
    lab = LabNas("25.10", now=lambda: datetime(2026, 5, 1, 12, tzinfo=UTC))
    zfs = lab.zfs
    zfs.create_pool("tank")
    zfs.create_pool("away")
    zfs.create("away/a")
    for protocol in ("nfs", "smb", "iscsi"):
        driver = Driver(lab, f"tank/{protocol}/vols", f"tank/{protocol}/snaps", protocol)
        driver.create_volume("pvc-1")
        handle = driver.create_snapshot("pvc-1", "snapshot-1")
        driver.restore("pvc-2", handle)
        driver.create_snapshot("pvc-1", "snapshot-2", detached=True)
    zfs.write("tank/nfs/vols/pvc-1", 1 << 20)
    zfs.hold("tank/nfs/vols/pvc-1@snapshot-1", "velero")
    zfs.destroy_snapshot("tank/nfs/vols/pvc-1@snapshot-1", defer=True)
    zfs.set_native("tank/nfs", {"compression": "zstd", "quota": "1T", "readonly": "on"})
    zfs.receive("tank/smb/vols/pvc-1@snapshot-1", "tank/replica", readonly=True)
    secret = zfs.create("tank/secret")
    secret.encryption = key_of(secret, passphrase="correct horse")
    zfs.create("tank/secret/child")
    lock(lab.machine, "tank/secret")
    pools.strike(lab.machine, "tank", "sda", "FAULTED", read_errors=3)
    zfs.start_scan("tank", takes=timedelta(hours=2))
    zfs.export_pool("away")
    lab.call("nvmet.port.create", {"addr_trtype": "TCP", "addr_traddr": "10.0.0.10"})
    lab.add_key("truetally")
    lab.machine.raise_alert("PoolUpgraded", "NOTICE", "x")
    lab.machine.connect_initiator("pvc-1", "iqn.1993-08.org.debian:01:a")
    return lab


@pytest.mark.parametrize(("before", "after"), [("24.10", "25.10"), ("25.10", "24.10")])
def test_which_services_there_are_is_the_versions(before, after):
    old, new = LabNas(before), LabNas(after)
    assert {before: "nvmet" in old.machine.services, after: "nvmet" in new.machine.services} == {
        "24.10": False,
        "25.10": True,
    }
    old.machine.set_service("nfs", running=False)
    state.load(new.machine, through_json(state.dump(old.machine)))
    services = {row["service"]: row["state"] for row in new.call("service.query")}
    assert services["nfs"] == "STOPPED"
    assert ("nvmet" in services) == (after == "25.10")
    assert len({row["id"] for row in new.call("service.query")}) == len(services)


def test_a_dump_loads_into_another_machine_and_dumps_the_same(busy):
    dumped = through_json(state.dump(busy.machine, secrets=True))
    other = LabNas("25.10", now=busy.machine.now)
    other.zfs.create_pool("mine")
    other.call("iscsi.initiator.create", {"comment": "mine"})
    state.load(other.machine, dumped)
    assert state.dump(other.machine, secrets=True) == dumped
    assert state.inventory(other.machine) == state.inventory(busy.machine)
    check(other.zfs)


def test_a_loaded_machine_answers_as_the_one_that_was_dumped(busy):
    other = LabNas("25.10", now=busy.machine.now)
    state.load(other.machine, state.dump(busy.machine))
    for method in ("pool.query", "pool.dataset.query", "pool.snapshot.query", "iscsi.targetextent.query"):
        assert other.call(method) == busy.call(method), method
    other.ssh.create_dataset("tank/new")
    assert other.zfs.dataset("tank/new").txg > max(
        taken.txg for each in busy.zfs.visible() for taken in each.snapshots.values()
    )


def test_an_exported_pool_can_be_imported_after_a_load(busy):
    other = LabNas("25.10", now=busy.machine.now)
    state.load(other.machine, state.dump(busy.machine))
    assert other.zfs.find("away/a") is None
    other.zfs.import_pool("away")
    assert other.zfs.find("away/a") is not None


def test_a_dump_without_secrets_tells_none(busy):
    key = next(iter(busy.machine.keys.values()))
    told, whole = (json.dumps(state.dump(busy.machine, secrets=each)) for each in (False, True))
    for secret in (key.secret, "correct horse"):
        assert secret in whole
        assert secret not in told


def test_a_key_that_was_dumped_without_its_secret_opens_nothing(busy):
    key = next(iter(busy.machine.keys.values()))
    other = LabNas("25.10", now=busy.machine.now)
    state.load(other.machine, state.dump(busy.machine))
    assert other.machine.keys[key.id].secret != key.secret
    assert len(other.machine.keys[key.id].secret) == 64


def _without(member):
    return lambda dumped: dumped.pop(member)


def _orphan(dumped):
    dumped["datasets"] = [each for each in dumped["datasets"] if each["name"] != "tank/nfs"]


def _lost_origin(dumped):
    dumped["snapshots"] = [each for each in dumped["snapshots"] if each["name"] != "snapshot-1"]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda dumped: dumped.update(format=2), "reads only 1"),
        (_without("format"), "no member `format`"),
        (_without("pools"), "'pools'"),
        (lambda dumped: dumped["datasets"][0].pop("txg"), "'txg'"),
        (lambda dumped: dumped["datasets"].append(dumped["datasets"][0]), "twice"),
        (lambda dumped: dumped.update(pools=dumped["pools"][1:]), "belongs to no pool"),
        (_orphan, "has no parent"),
        (_lost_origin, "origin"),
        (lambda dumped: dumped["tables"].update(x={"last": 0, "rows": []}), "does not know: x"),
        (lambda dumped: dumped.update(datasets=7), "cannot be read"),
    ],
)
def test_what_is_no_state_is_refused_and_changes_nothing(busy, spoil, complaint):
    dumped = through_json(state.dump(busy.machine))
    before = state.dump(busy.machine, secrets=True)
    spoil(dumped)
    with pytest.raises(ValueError, match=complaint):
        state.load(busy.machine, dumped)
    assert state.dump(busy.machine, secrets=True) == before


@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_what_is_no_object_is_refused(value):
    lab = LabNas("25.10")
    with pytest.raises(ValueError, match="no state"):
        state.load(lab.machine, value)
    with pytest.raises(ValueError, match="no record"):
        state.load_truenas_sample(lab.machine, value)


@pytest.mark.parametrize("version", ["22.12", "24.10", "25.10", "26.0"])
@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.stem)
def test_a_recorded_state_loads_with_all_that_it_tells(file, version):
    lab, record = LabNas(version), json.loads(file.read_text())
    if "nvmeof-full" in file.stem and version < "25.10":
        with pytest.raises(ValueError, match="NVMe-oF"):
            state.load_truenas_sample(lab.machine, record)
        return
    state.load_truenas_sample(lab.machine, record)
    check(lab.zfs)
    seen = state.inventory(lab.machine)
    rows = record.get("datasets") or [record["dataset"]]
    assert {row["name"] for row in rows} <= set(seen["dataset"])
    snapshots = record.get("snapshots", ())
    assert seen["snapshot"] == sorted(f"{row['dataset']}@{row['snapshot_name']}" for row in snapshots)
    for member, kind in (("nfs", "nfs_share"), ("smb", "smb_share"), ("iscsi_extent", "iscsi_extent")):
        assert seen[kind] == sorted(str(row["id"]) for row in record.get(member, ()))
    dumped = state.dump(lab.machine)
    other = LabNas(version, now=lab.machine.now)
    state.load(other.machine, through_json(dumped))
    assert state.dump(other.machine) == dumped


def test_a_recorded_dataset_has_its_sizes_marks_and_origin():
    lab = LabNas("25.10")
    (file,) = (file for file in RECORDS if file.stem == "freenas-api-iscsi-full")
    record = json.loads(file.read_text())
    state.load_truenas_sample(lab.machine, record)
    for row in record["datasets"]:
        dataset = lab.zfs.dataset(row["name"])
        assert dataset.referenced_bytes == int(row["referenced"]["rawvalue"])
        assert dataset.volsize == int(row.get("volsize", {"rawvalue": 0})["rawvalue"])
        assert dataset.origin == row.get("origin", {"rawvalue": ""})["rawvalue"]
        marks = {key: each["rawvalue"] for key, each in row["user_properties"].items()}
        assert dataset.user_properties().keys() == marks.keys()
        assert {key: value for key, (value, _) in dataset.user_properties().items()} == marks


def test_a_record_of_the_same_ids_is_not_loaded_twice():
    lab = LabNas("25.10")
    (file,) = (file for file in RECORDS if file.stem == "freenas-api-nfs-full")
    record = json.loads(file.read_text())
    state.load_truenas_sample(lab.machine, record)
    with pytest.raises(ValueError, match="empty lab"):
        state.load_truenas_sample(lab.machine, record)


@pytest.mark.skipif(
    not SAMPLES.is_dir(), reason="NOT CHECKED against the whole records: set TRUETALLY_SAMPLES"
)
def test_the_whole_records_load_as_the_compact_ones_do():
    for compact in RECORDS:
        driver = compact.stem
        name = "storage.json"
        for each in ("full", "blocked"):
            if compact.stem.endswith(f"-{each}"):
                driver, name = compact.stem.removesuffix(f"-{each}"), f"truenas-{each}.json"
        seen = []
        for file in (compact, SAMPLES / driver / name):
            lab = LabNas("26.0")
            state.load_truenas_sample(lab.machine, json.loads(file.read_text()))
            seen.append((state.inventory(lab.machine), [d.user_properties() for d in lab.zfs.visible()]))
        assert seen[0] == seen[1], compact.name
