"""Ten thousand datasets and a hundred thousand snapshots: no query may walk more than it must."""

import time

import pytest

from truetally.lab.nas import LabNas

DATASETS, SNAPSHOTS = 10_000, 10


def filled(version, datasets):
    lab = LabNas(version)
    lab.zfs.create_pool("tank")
    for number in range(datasets):
        name = f"tank/pvc-{number:05}"
        lab.ssh.create_dataset(name, user={"democratic-csi:managed_resource": "true"})
        for leaf in range(SNAPSHOTS):
            lab.ssh.snapshot(f"{name}@s{leaf}")
    return lab


@pytest.fixture(scope="module", params=["24.10", "26.0"])
def full(request):
    began = time.perf_counter()
    lab = filled(request.param, DATASETS)
    # Several times what it takes on two shared cores, as in the limits below.
    assert time.perf_counter() - began < 20
    return lab


@pytest.fixture(scope="module", params=["24.10", "26.0"])
def small(request):
    return filled(request.param, 30)


def timed(lab, method, *arguments):
    began = time.perf_counter()
    answer = lab.call(method, *arguments)
    return answer, time.perf_counter() - began


def test_all_datasets_are_listed_in_a_second_and_a_half(full):
    flat = {"extra": {"retrieve_children": full.machine.old_engine}, "limit": 10_000, "order_by": ["id"]}
    rows, seconds = timed(full, "pool.dataset.query", [["id", "!=", ""]], flat)
    assert len(rows) == 10_000
    assert seconds < 3


@pytest.mark.parametrize("extra", [{"select": ["name"]}, {"extra": {"properties": ["used", "creation"]}}])
def test_pages_of_snapshots_are_quick_and_join_to_the_whole(full, extra):
    method = "zfs.snapshot.query" if full.machine.old_engine else "pool.snapshot.query"
    last, seen, slowest = "", [], 0.0
    while True:
        options = {"order_by": ["name"], "limit": 10_000, **extra}
        page, seconds = timed(full, method, [["name", ">", last]], options)
        slowest = max(slowest, seconds)
        seen += [row["name"] for row in page]
        if len(page) < 10_000:
            break
        last = page[-1]["name"]
    assert len(seen) == len(set(seen)) == DATASETS * SNAPSHOTS
    assert slowest < 2


def test_a_page_follows_what_changed_in_between(full):
    method = "zfs.snapshot.query" if full.machine.old_engine else "pool.snapshot.query"
    options = {"order_by": ["id"], "limit": 2, "select": ["id"]}
    paths = [row["id"] for row in full.call(method, [["id", ">", "tank/pvc-00010@s8"]], options)]
    assert paths == ["tank/pvc-00010@s9", "tank/pvc-00011@s0"]
    full.ssh.rename("tank/pvc-00010@s9", "tank/pvc-00010@t")
    full.ssh.destroy("tank/pvc-00011@s0")
    paths = [row["id"] for row in full.call(method, [["id", ">", "tank/pvc-00010@s8"]], options)]
    assert paths == ["tank/pvc-00010@t", "tank/pvc-00011@s1"]
    full.ssh.rename("tank/pvc-00010@t", "tank/pvc-00010@s9")
    full.ssh.snapshot("tank/pvc-00011@s0")


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
def test_a_page_by_names_is_what_a_walk_would_find(small, filters):
    method = "zfs.snapshot.query" if small.machine.old_engine else "pool.snapshot.query"
    walked = small.call(method, [*filters, ["type", "=", "SNAPSHOT"]], {"order_by": ["id"], "select": ["id"]})
    for offset, limit in ((0, 0), (3, 0), (2, 4)):
        options = {"order_by": ["id"], "select": ["id"], "offset": offset, "limit": limit}
        page = small.call(method, filters, options)
        assert page == walked[offset : offset + limit if limit else None]
