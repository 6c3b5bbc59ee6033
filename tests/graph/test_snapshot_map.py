"""Who made a snapshot, what belongs to it, and what comes back without it?"""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetally.csi import democratic_csi as csi
from truetally.graph import snapshots
from truetally.graph.snapshots import Space, is_named_by, made, space_returned
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.refs import Kind, Ref
from truetally.model.snapshots import Maker
from worlds import (
    NAME,
    NAS,
    NOW,
    PARENT,
    PATH,
    SNAPSHOT_UID,
    a_content,
    a_csi_source,
    a_dataset,
    a_pool,
    a_snapshot,
    a_volume,
    properties,
    ref_of,
    world,
)

WHOLE = (a_pool(), a_dataset(), a_volume())
AUTO = "auto-2026-11-20_12-00"
SCHEMA = "auto-%Y-%m-%d_%H-%M"


def a_task(dataset: str = PATH, schema: str = SCHEMA, **changes) -> truenas.SnapshotTask:
    given = {"recursive": False, "enabled": True, "lifetime": "2 WEEK"} | changes
    return truenas.SnapshotTask(id=3, dataset=dataset, naming_schema=schema, **given)


def a_replication(target: str, **changes) -> truenas.ReplicationTask:
    given = {"direction": "PULL", "sources": ("far/away",), "recursive": True, "enabled": True} | changes
    return truenas.ReplicationTask(id=4, name="nightly", target=target, **given)


def who(name: str, *more, dataset: str = PATH) -> Maker:
    snapshot = a_snapshot(name, dataset)
    return made(world(*WHOLE, snapshot, *more), ref_of(snapshot)).maker


# Who


@pytest.mark.parametrize(
    ("name", "maker"),
    [
        (f"snapshot-{SNAPSHOT_UID}", Maker.CSI),
        (f"volume-source-for-volume-{NAME}", Maker.CLONE_SOURCE),
        (f"volume-source-for-snapshot-snapshot-{SNAPSHOT_UID}", Maker.CLONE_SOURCE),
        ("autosnap_2026-11-20_12:00:01_hourly", Maker.SANOID),
        ("autosnap_2026-11-20_12:00:01", Maker.MANUAL),
        ("zrepl_20261120_120000_000", Maker.ZREPL),
        ("syncoid_backup_2026-11-20:12:00:00-GMT00:00", Maker.REPLICATION),
        ("velero-daily-1", Maker.VELERO),
        (AUTO, Maker.TASK),
        ("manual-2026-11-20", Maker.MANUAL),
        ("before-upgrade", Maker.MANUAL),
        ("snapshot-of-mine", Maker.MANUAL),
        (f"mine-{SNAPSHOT_UID}", Maker.MANUAL),
    ],
)
def test_the_name_tells_who_made_a_snapshot(name, maker):
    assert who(name) is maker


def test_the_content_with_its_handle_makes_a_snapshot_a_csi_one_whatever_it_is_called():
    content = a_content(snapshot_handle=f"{NAME}@by-hand", snapshot_uid="")
    assert who("by-hand", content) is Maker.CSI
    assert who("by-hand") is Maker.MANUAL


def test_a_snapshot_named_as_a_csi_one_on_no_volume_of_democratic_csi_is_not_taken_for_one():
    assert who(f"snapshot-{SNAPSHOT_UID}", a_dataset(user_properties={})) is Maker.MANUAL


def test_a_csi_snapshot_is_mapped_to_its_content_and_volume_snapshot():
    snapshot, content = a_snapshot(), a_content()
    taken = k8s.VolumeSnapshot("default", "snap", SNAPSHOT_UID, NOW, bound_content=content.name)
    found = made(world(*WHOLE, snapshot, content, taken), ref_of(snapshot))
    assert (found.contents, found.volume_snapshots) == ((ref_of(content),), (ref_of(taken),))


def test_a_restored_volume_snapshot_of_another_uid_is_found_through_its_content():
    snapshot = a_snapshot()
    content = a_content(snapshot_uid="", source_snapshot_handle=f"{NAME}@{snapshot.name}")
    again = k8s.VolumeSnapshot("default", "again", "another-uid", NOW, source_content=content.name)
    found = made(world(*WHOLE, snapshot, content, again), ref_of(snapshot))
    assert found.volume_snapshots == (ref_of(again),)


@pytest.mark.parametrize("how", ["label", "name"])
def test_a_csi_snapshot_of_velero_is_told_from_others(how):
    content = a_content(labels={"velero.io/backup-name": "nightly"} if how == "label" else {})
    name = "velero-data-x7k2p" if how == "name" else "snap"
    taken = k8s.VolumeSnapshot("default", name, SNAPSHOT_UID, NOW)
    assert who(f"snapshot-{SNAPSHOT_UID}", content, taken) is Maker.VELERO


def test_a_clone_source_tells_what_it_was_taken_for():
    snapshot = a_snapshot("volume-source-for-volume-pvc-2")
    assert made(world(*WHOLE, snapshot), ref_of(snapshot)).made_for == "pvc-2"


def test_sanoid_tells_the_period():
    snapshot = a_snapshot("autosnap_2026-11-20_12:00:01_daily")
    assert made(world(*WHOLE, snapshot), ref_of(snapshot)).period == "daily"


@pytest.mark.parametrize(
    ("change", "maker"),
    [
        ({}, Maker.CSI),
        ({"target": PARENT}, Maker.REPLICATION),
        ({"target": PATH}, Maker.REPLICATION),
        ({"target": "tank/other"}, Maker.CSI),
        ({"target": PARENT, "direction": "PUSH", "transport": "SSH"}, Maker.CSI),
        ({"target": PARENT, "direction": "PUSH", "transport": "LOCAL"}, Maker.REPLICATION),
        # What is replicated from here is no replica, not even if the other NAS calls it the same.
        ({"sources": (PATH,), "direction": "PUSH", "transport": "LOCAL"}, Maker.CSI),
        ({"sources": (PATH,), "target": PATH, "direction": "PUSH", "transport": "SSH"}, Maker.CSI),
    ],
)
def test_what_lies_where_a_replication_writes_came_with_it(change, maker):
    task = a_replication(**({"target": "elsewhere"} | change))
    assert who(f"snapshot-{SNAPSHOT_UID}", a_content(), task) is maker


def test_what_lies_on_a_received_dataset_came_with_it():
    received = a_dataset(user_properties=properties(truenas.Origin.RECEIVED))
    assert who(f"snapshot-{SNAPSHOT_UID}", a_content(), received) is Maker.REPLICATION


def test_a_detached_snapshot_is_a_dataset_and_what_is_inside_it_is_not():
    path = f"tank/k8s/nfs/snaps/{NAME}/snapshot-{SNAPSHOT_UID}"
    detached = a_dataset(path, user_properties=properties(**{csi.SNAPSHOT_NAME: f"snapshot-{SNAPSHOT_UID}"}))
    inside = a_dataset(f"{path}/child", user_properties=detached.user_properties)
    content = a_content(snapshot_handle=f"{NAME}/snapshot-{SNAPSHOT_UID}")
    around = world(*WHOLE, detached, inside, content)
    found = made(around, ref_of(detached))
    assert (found.maker, found.contents) == (Maker.DETACHED, (ref_of(content),))
    assert made(around, ref_of(inside)) is None
    assert made(around, ref_of(a_dataset())) is None


# Tasks


@pytest.mark.parametrize(
    ("task", "covered"),
    [
        (a_task(), True),
        (a_task("tank/k8s"), False),
        (a_task("tank/k8s", recursive=True), True),
        (a_task("tank/k8", recursive=True), False),
        (a_task("tank", recursive=True, exclude=(PARENT,)), False),
        (a_task("tank", recursive=True, exclude=(PATH,)), False),
        (a_task("tank", recursive=True, exclude=("tank/k8s/*",)), False),
        (a_task("tank", recursive=True, exclude=("tank/k8s/nfs/vol",)), True),
        (a_task(enabled=False), True),
        (a_task(schema="daily-%Y-%m-%d_%H-%M"), False),
    ],
)
def test_a_periodic_task_is_matched_on_its_dataset_and_below_a_recursive_one(task, covered):
    snapshot = a_snapshot(AUTO)
    found = made(world(*WHOLE, snapshot, task), ref_of(snapshot))
    assert found.maker is Maker.TASK
    assert found.tasks == ((Ref(NAS, Kind.SNAPSHOT_TASK, "3"),) if covered else ())


SCHEMAS = [
    SCHEMA,
    "auto-%Y%m%d.%H%M%S-2w",
    "d%d.%m.%y_%H:%M_%Y",
    "x-%Y-%m-%d_%H-%M%z",
    "e-%s",
]


@given(
    at=st.datetimes(min_value=NOW.replace(year=1971, tzinfo=None), max_value=NOW.replace(tzinfo=None)),
    schema=st.sampled_from(SCHEMAS),
)
def test_every_name_that_a_schema_gives_is_read_by_it(at, schema):
    name = at.replace(tzinfo=NOW.tzinfo).strftime(schema).replace("+", ":")
    assert is_named_by(name, schema)
    assert not is_named_by(f"{name}x", schema)
    assert not is_named_by(f"x{name}", schema)


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("auto-2026-13-01_00-00", SCHEMA),
        ("e-12x", "e-%s"),
        ("e-", "e-%s"),
        ("fixed", "fixed"),
        ("fixed", ""),
        ("a", "a%"),
    ],
)
def test_what_a_schema_cannot_have_given_is_not_read_by_it(name, schema):
    assert not is_named_by(name, schema)


@pytest.mark.parametrize(
    ("said", "days"), [("2 WEEK", 14), ("12 HOUR", 0.5), ("1 MONTH", 31), ("", None), ("3 EON", None)]
)
def test_a_lifetime_is_never_shorter_than_meant(said, days):
    assert snapshots.lifetime(a_task(lifetime=said)) == (None if days is None else timedelta(days=days))


@pytest.mark.parametrize(
    ("changes", "held"),
    [
        ({"sources": (PATH,), "holds_pending": True}, True),
        ({"sources": (PATH,), "holds_pending": None}, True),
        ({"sources": (PATH,), "holds_pending": False}, False),
        ({"sources": (PARENT,), "holds_pending": True}, True),
        ({"sources": (PARENT,), "holds_pending": True, "recursive": False}, False),
        ({"sources": ("tank/other",), "holds_pending": True}, False),
        ({"sources": (PATH,), "holds_pending": True, "recursive": False}, True),
        ({"target": PATH, "direction": "PULL", "holds_pending": True}, False),
    ],
)
def test_a_replication_may_hold_what_it_has_not_sent(changes, held):
    task = a_replication(**({"target": "far", "direction": "PUSH", "transport": "SSH"} | changes))
    assert bool(snapshots.held_for_replication(world(*WHOLE, task), NAS, PATH)) is held


def test_a_volume_is_on_the_dataset_that_it_leads_to_and_on_no_namesake():
    parent, copy = a_dataset(PARENT), a_dataset(f"tank/copies/{NAME}")
    around = world(*WHOLE, parent, copy)
    assert snapshots.volumes_on(around, ref_of(a_dataset())) == (ref_of(a_volume()),)
    assert snapshots.volumes_on(around, ref_of(parent)) == ()
    assert snapshots.volumes_on(around, ref_of(copy)) == ()
    assert snapshots.volumes_on(around, ref_of(a_dataset("tank/gone"))) == ()


def test_a_volume_is_found_by_where_its_dataset_is_mounted():
    moved = a_dataset("tank/moved", mountpoint="/mnt/tank/elsewhere", user_properties={})
    adopted = a_volume("adopted", csi=a_csi_source("any", share="/mnt/tank/elsewhere"))
    assert snapshots.volumes_on(world(moved, adopted), ref_of(moved)) == (ref_of(adopted),)


def test_clones_are_known_by_their_origin_where_the_snapshot_does_not_tell():
    snapshot = a_snapshot()
    clone = a_dataset(f"{PARENT}/pvc-clone", origin=snapshot.path)
    other = a_dataset(f"{PARENT}/pvc-other", origin=f"{PATH}@another")
    assert snapshots.clones(world(*WHOLE, snapshot, clone, other), ref_of(snapshot), snapshot) == (
        clone.path,
    )


# Space


def of_sizes(*sizes: int | None) -> list[truenas.Snapshot]:
    return [a_snapshot(f"s{i}", used_bytes=size) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("usedbysnapshots", "sizes", "destroyed", "space"),
    [
        (100, (10, 20, 30), (), Space(0, 0)),
        (100, (10, 20, 30), ("s0",), Space(10, 50)),
        (100, (10, 20, 30), ("s0", "s1"), Space(30, 70)),
        (100, (10, 20, 30), ("s0", "s1", "s2"), Space(100, 100)),
        (None, (10, 20), ("s0",), Space(10, None)),
        (100, (None, 20), ("s0",), Space(0, 80)),
        (100, (10, None), ("s0",), Space(10, 100)),
        (5, (10, 20), ("s0",), Space(10, 10)),
        (100, (10, 20), ("gone",), Space(0, 0)),
    ],
)
def test_what_comes_back_lies_between_bounds(usedbysnapshots, sizes, destroyed, space):
    assert space_returned(usedbysnapshots, of_sizes(*sizes), destroyed) == space


@given(st.data())
def test_the_bounds_hold_for_blocks_that_snapshots_share(data):
    """A block is kept by the snapshots from its birth to its death: what comes back can be counted."""
    count = data.draw(st.integers(1, 6))
    spans = data.draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=20))
    blocks = [frozenset(range(min(span), max(span) + 1)) for span in spans]
    going = data.draw(st.sets(st.integers(0, count - 1)))
    each = of_sizes(*(sum(block == {i} for block in blocks) for i in range(count)))
    space = space_returned(len(blocks), each, {f"s{i}" for i in going})
    returned = sum(block <= going for block in blocks)
    assert space.at_least_bytes <= returned <= space.at_most_bytes


def test_space_of_several_datasets_is_unknown_at_most_if_one_is():
    assert snapshots.total([Space(1, 2), Space(3, 4)]) == Space(4, 6)
    assert snapshots.total([Space(1, 2), Space(3, None)]) == Space(4, None)
    assert snapshots.total([]) == Space(0, 0)
