"""A full NAS answers as a small one: no query builds or walks more than it must, however much there is.

How long it takes is measured by bench/lab_nas.py.
"""

from pathlib import Path

import pytest

from lab_nas.counting import calls, lines
from truetally.lab import nas
from truetally.lab.nas import Driver, LabNas, sharing, snapshots, tree
from truetally.lab.nas.zfs import Zfs

VERSIONS = ["24.10", "26.0"]
SNAPSHOTS = 10
SOURCES = str(Path(nas.__file__).parent)


def filled(version, datasets):
    lab = LabNas(version)
    lab.zfs.create_pool("tank")
    for number in range(datasets):
        name = f"tank/pvc-{number:05}"
        lab.ssh.create_dataset(name, user={"democratic-csi:managed_resource": "true"})
        for leaf in range(SNAPSHOTS):
            lab.ssh.snapshot(f"{name}@s{leaf}")
    return lab


@pytest.fixture(params=VERSIONS)
def lab(request):
    return filled(request.param, 30)


def method_of(lab):
    return "zfs.snapshot.query" if lab.machine.old_engine else "pool.snapshot.query"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_datasets_inherit_is_shown_once_for_all_children(version):
    flat = {"extra": {"retrieve_children": version == "24.10"}, "limit": 10_000, "order_by": ["id"]}
    shown = []
    for datasets in (10, 40):
        lab = filled(version, datasets)
        (properties, rows), answer = calls(
            lambda lab=lab: lab.call("pool.dataset.query", [["id", "!=", ""]], flat),
            tree._shown,
            tree.dataset_row,
        )
        assert (rows, len(answer)) == (datasets + 1, datasets + 1)
        shown.append(properties)
    assert shown[0] == shown[1] > 0
    (again,), _ = calls(lambda: lab.call("pool.dataset.query", [["id", "!=", ""]], flat), tree._inherited)
    assert again == 40


@pytest.mark.parametrize("extra", [{"select": ["name"]}, {"extra": {"properties": ["used", "creation"]}}])
def test_pages_of_snapshots_build_only_their_rows_and_join_to_the_whole(lab, extra):
    last, seen = "", []
    while True:
        options = {"order_by": ["name"], "limit": 70, **extra}
        (names, rows, rebuilt), page = calls(
            lambda last=last, options=options: lab.call(method_of(lab), [["name", ">", last]], options),
            tree.snapshot_name_row,
            tree.snapshot_row,
            Zfs.visible,
        )
        assert names == len(page)
        assert rows == (0 if "select" in extra else len(page))
        # Only the first page walks the datasets, to put all snapshots in order.
        assert bool(rebuilt) == (not last)
        seen += [row["name"] for row in page]
        if len(page) < 70:
            break
        last = page[-1]["name"]
    assert len(seen) == len(set(seen)) == 30 * SNAPSHOTS


@pytest.mark.parametrize(
    ("filters", "rows"), [([["id", "=", "tank/pvc-00003@s1"]], 1), ([["dataset", "=", "tank/pvc-00003"]], 10)]
)
def test_snapshots_that_are_named_are_found_without_a_walk(lab, filters, rows):
    (visible, built), found = calls(
        lambda: lab.call(method_of(lab), filters), Zfs.visible, snapshots.snapshot_row
    )
    assert (visible, built, len(found)) == (0, rows, rows)


def test_a_dataset_that_is_named_is_found_without_a_walk(lab):
    (visible, built), found = calls(
        lambda: lab.call("pool.dataset.query", [["id", "=", "tank/pvc-00003"]]), Zfs.visible, tree.dataset_row
    )
    assert (visible, built, len(found)) == (0, 1, 1)


def test_a_share_is_compared_with_those_of_its_own_path_alone():
    lab = LabNas("25.10")
    lab.zfs.create_pool("tank")
    driver = Driver(lab)
    made = [driver.create_volume(f"pvc-{number}")[0] for number in range(20)]
    share = {"path": f"/mnt/{driver.dataset_of(made[0])}", "hosts": ["192.0.2.9"]}
    lab.machine.tables["sharing.nfs"].rows[1]["hosts"] = ["192.0.2.1"]
    (compared,), _ = calls(lambda: lab.call("sharing.nfs.create", share), sharing._overlap)
    assert compared == 1


@pytest.mark.parametrize("protocol", ["nfs", "smb", "iscsi", "nvmeof"])
def test_the_hundredth_volume_costs_as_much_as_the_tenth(protocol):
    lab = LabNas("25.10")
    lab.zfs.create_pool("tank")
    driver = Driver(lab, "tank/v", "tank/s", protocol)

    costs = [lines(lambda n=n: driver.create_volume(f"pvc-{n:03}"), SOURCES) for n in range(101)]
    assert 0 < costs[100] <= costs[10] * 1.1, costs


def test_many_volumes_with_snapshots_are_made_and_listed():
    lab = LabNas("25.10")
    lab.zfs.create_pool("tank")
    Driver(lab).create_many((f"pvc-{number}" for number in range(100)), snapshots_per_volume=3)
    assert len(lab.call("sharing.nfs.query")) == 100
    assert len(lab.call("pool.snapshot.query")) == 300


def test_a_page_follows_what_changed_in_between(lab):
    method = "zfs.snapshot.query" if lab.machine.old_engine else "pool.snapshot.query"
    options = {"order_by": ["id"], "limit": 2, "select": ["id"]}
    paths = [row["id"] for row in lab.call(method, [["id", ">", "tank/pvc-00010@s8"]], options)]
    assert paths == ["tank/pvc-00010@s9", "tank/pvc-00011@s0"]
    lab.ssh.rename("tank/pvc-00010@s9", "tank/pvc-00010@t")
    lab.ssh.destroy("tank/pvc-00011@s0")
    paths = [row["id"] for row in lab.call(method, [["id", ">", "tank/pvc-00010@s8"]], options)]
    assert paths == ["tank/pvc-00010@t", "tank/pvc-00011@s1"]
    lab.ssh.rename("tank/pvc-00010@t", "tank/pvc-00010@s9")
    lab.ssh.snapshot("tank/pvc-00011@s0")


@pytest.mark.parametrize(
    "filters",
    [
        [["id", ">", "tank/pvc-00010"], ["id", "<=", "tank/pvc-00012@s3"]],
        [["dataset", "=", "tank/pvc-00011"], ["id", ">", "tank/pvc-00011@s3"]],
        [["dataset", "^", "tank/pvc-0001"], ["snapshot_name", "in", ["s1", "s2"]]],
        [["name", ">=", "tank/pvc-00010@s5"], ["pool", "=", "tank"], ["id", "<", "tank/pvc-00011"]],
        [["pool", "=", "other"]],
    ],
)
def test_a_page_by_names_is_what_a_walk_would_find(lab, filters):
    method = "zfs.snapshot.query" if lab.machine.old_engine else "pool.snapshot.query"
    walked = lab.call(method, [*filters, ["type", "=", "SNAPSHOT"]], {"order_by": ["id"], "select": ["id"]})
    for offset, limit in ((0, 0), (3, 0), (2, 4)):
        options = {"order_by": ["id"], "select": ["id"], "offset": offset, "limit": limit}
        page = lab.call(method, filters, options)
        assert page == walked[offset : offset + limit if limit else None]
