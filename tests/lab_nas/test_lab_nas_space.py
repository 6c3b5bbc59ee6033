"""Space: what is charged where as blocks are written, kept by snapshots, shared by clones and freed."""

import errno
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from truetally.lab.nas import space, state
from truetally.lab.nas.failures import CallError
from truetally.lab.nas.machine import Machine
from truetally.lab.nas.zfs import Zfs

MIB = 1 << 20
GIB = 1 << 30


def at(second):
    return datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)


def a_zfs(size=10 * GIB):
    made = Zfs(lambda: at(0))
    made.create_pool("tank", size)
    return made


def parts(dataset):
    return dataset.own_bytes + dataset.snapshots_bytes + dataset.refreservation_bytes + dataset.children_bytes


def check(zfs):
    """What holds of space whatever has happened."""
    for dataset in zfs.visible():
        assert dataset.used_bytes == parts(dataset), dataset.name
        assert dataset.children_bytes == sum(
            max(child.used_bytes, child.reservation) for child in dataset.children.values()
        )
        counts = [dataset.own_bytes, dataset.unique_bytes, dataset.snapshots_bytes, dataset.children_bytes]
        assert min(counts) >= 0
        assert dataset.unique_bytes <= dataset.own_bytes <= dataset.referenced_bytes
        assert dataset.referenced_bytes == sum(dataset.live.values())
        assert all(count > 0 for count in dataset.live.values())
        for taken in dataset.snapshots.values():
            assert 0 <= taken.used_bytes <= dataset.snapshots_bytes
            assert 0 <= space.written(dataset, taken) <= taken.referenced_bytes
            assert sum(space.shown_by(dataset, taken).values()) == taken.referenced_bytes, taken.path
        assert zfs.available_bytes(dataset) >= 0
    for pool in zfs.pools.values():
        assert pool.root.used_bytes <= pool.size_bytes


class Life(RuleBasedStateMachine):
    """Anything that can be done to a small pool, in any order."""

    @initialize()
    def begin(self):
        self.machine = Machine("25.10", now=lambda: at(0))
        self.zfs = self.machine.zfs
        self.zfs.create_pool("tank", 200 * MIB)
        self.number = 0
        for name in ("tank/a", "tank/a/b", "tank/c"):
            self.zfs.create(name)
            for leaf in ("s1", "s2"):
                self.zfs.write(name, 3 * MIB)
                self.zfs.take(name, leaf)
                self.zfs.overwrite(name, MIB)
        self.zfs.clone("tank/a/b@s1", "tank/clone")

    def a_name(self, data, *, root=False):
        names = sorted(each.name for each in self.zfs.visible() if root or each.parent is not None)
        assume(names)
        return data.draw(st.sampled_from(names))

    def a_snapshot(self, data):
        paths = self.zfs.snapshots_by_path()[0]
        assume(paths)
        return data.draw(st.sampled_from(paths))

    def fresh(self):
        self.number += 1
        return f"n{self.number}"

    def attempt(self, act, *arguments, **keywords):
        before = {each.name: each.used_bytes for each in self.zfs.visible()}
        try:
            act(*arguments, **keywords)
        except CallError:
            assert {each.name: each.used_bytes for each in self.zfs.visible()} == before

    @precondition(lambda self: len(self.zfs.datasets) < 8)
    @rule(data=st.data(), volsize=st.sampled_from([0, 0, 8 * MIB]), sparse=st.booleans())
    def create(self, data, volsize, sparse):
        name = f"{self.a_name(data, root=True)}/{self.fresh()}"
        self.attempt(self.zfs.create, name, volsize=volsize, sparse=sparse)

    @rule(data=st.data(), size=st.integers(0, 60 * MIB))
    def write(self, data, size):
        self.attempt(self.zfs.write, self.a_name(data), size)

    @rule(data=st.data(), size=st.integers(0, 60 * MIB))
    def overwrite(self, data, size):
        self.attempt(self.zfs.overwrite, self.a_name(data), size)

    @rule(data=st.data(), size=st.integers(0, 9 * MIB))
    def snapshot(self, data, size):
        name = self.a_name(data)
        self.attempt(self.zfs.take, name, self.fresh())
        self.attempt(self.zfs.overwrite, name, size)

    @precondition(lambda self: len(self.zfs.datasets) < 10)
    @rule(data=st.data())
    def clone(self, data):
        self.attempt(self.zfs.clone, self.a_snapshot(data), f"tank/{self.fresh()}")

    @rule(data=st.data())
    def promote(self, data):
        root, kept = self.zfs.dataset("tank"), [each.refreservation for each in self.zfs.visible()]
        before = root.used_bytes
        self.attempt(self.zfs.promote, self.a_name(data))
        assert root.used_bytes == before or any(kept) or any(each.reservation for each in self.zfs.visible())

    @rule(data=st.data(), defer=st.booleans())
    def destroy_snapshot(self, data, defer):
        self.attempt(self.zfs.destroy_snapshot, self.a_snapshot(data), defer=defer)

    @rule(data=st.data(), recursive=st.booleans(), clones=st.booleans())
    def destroy(self, data, recursive, clones):
        self.attempt(self.zfs.destroy, self.a_name(data), recursive=recursive, clones=clones)

    @rule(data=st.data(), recursive=st.booleans(), clones=st.booleans())
    def rollback(self, data, recursive, clones):
        self.attempt(self.zfs.rollback, self.a_snapshot(data), recursive=recursive, clones=clones)

    @rule(data=st.data())
    def rename(self, data):
        target = f"{self.a_name(data, root=True)}/{self.fresh()}"
        self.attempt(self.zfs.rename, self.a_name(data), target)

    @rule(
        data=st.data(),
        name=st.sampled_from(["quota", "refquota", "reservation", "refreservation"]),
        size=st.one_of(st.none(), st.integers(0, 60 * MIB)),
    )
    def limit(self, data, name, size):
        self.attempt(self.zfs.set_native, self.a_name(data), {name: size})

    @rule(data=st.data(), intermediate=st.booleans(), force=st.booleans())
    def replicate(self, data, intermediate, force):
        source = self.a_snapshot(data)
        target = data.draw(st.sampled_from([f"tank/{self.fresh()}", self.a_name(data)]))
        assume(not target.startswith(source.partition("@")[0]))
        with suppress(CallError):
            self.zfs.receive(source, target, intermediate=intermediate, force=force)

    @invariant()
    def adds_up(self):
        if hasattr(self, "zfs"):
            check(self.zfs)

    def teardown(self):
        if not hasattr(self, "zfs"):
            return
        dumped, other = state.dump(self.machine), Machine("25.10", now=lambda: at(0))
        state.load(other, dumped)
        assert state.dump(other) == dumped
        check(other.zfs)
        root = self.zfs.dataset("tank")
        for child in list(root.children.values()):
            if child.name in self.zfs.datasets:
                self.zfs.destroy(child.name, recursive=True, clones=True)
        assert root.used_bytes == root.own_bytes == root.referenced_bytes == 24 * 1024
        assert set(self.zfs.datasets) == {"tank"}


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def a_file(zfs, name="tank/a", size=100 * MIB):
    zfs.create(name)
    zfs.write(name, size)
    return zfs.dataset(name)


def test_a_new_snapshot_costs_nothing_and_an_overwrite_makes_it_cost():
    zfs = a_zfs()
    dataset = a_file(zfs)
    taken = zfs.take("tank/a", "s")
    assert (taken.used_bytes, taken.referenced_bytes, dataset.used_bytes) == (0, 100 * MIB, 100 * MIB)
    zfs.overwrite("tank/a", 30 * MIB)
    assert (taken.used_bytes, dataset.snapshots_bytes, dataset.unique_bytes) == (30 * MIB,) * 3
    assert (dataset.used_bytes, dataset.referenced_bytes) == (130 * MIB, 100 * MIB)
    zfs.destroy_snapshot("tank/a@s")
    assert dataset.used_bytes == 100 * MIB


def test_what_two_snapshots_show_costs_neither_of_them_alone():
    zfs = a_zfs()
    dataset = a_file(zfs)
    first, second = zfs.take("tank/a", "s1"), zfs.take("tank/a", "s2")
    zfs.write("tank/a", 0)
    assert (first.used_bytes, second.used_bytes, dataset.snapshots_bytes) == (0, 0, 100 * MIB)
    zfs.destroy_snapshot("tank/a@s2")
    assert (first.used_bytes, dataset.snapshots_bytes) == (100 * MIB, 100 * MIB)


def test_written_is_what_came_since_the_snapshot_before():
    zfs = a_zfs()
    a_file(zfs)
    zfs.take("tank/a", "s1")
    zfs.write("tank/a", 140 * MIB)
    second = zfs.take("tank/a", "s2")
    zfs.overwrite("tank/a", 10 * MIB)
    assert space.written(zfs.dataset("tank/a"), second) == 40 * MIB


def test_a_clone_costs_what_it_changes_and_a_promotion_moves_the_rest_to_it():
    zfs = a_zfs()
    original = a_file(zfs)
    zfs.take("tank/a", "s")
    clone = zfs.clone("tank/a@s", "tank/c")
    assert (clone.used_bytes, clone.referenced_bytes) == (0, 100 * MIB)
    zfs.overwrite("tank/c", 5 * MIB)
    assert clone.used_bytes == 5 * MIB
    whole = zfs.dataset("tank").used_bytes
    zfs.promote("tank/c")
    assert (original.used_bytes, clone.used_bytes) == (0, 105 * MIB)
    assert zfs.dataset("tank").used_bytes == whole


def test_a_thick_zvol_keeps_its_size_and_a_snapshot_makes_it_keep_it_again():
    zfs = a_zfs()
    volume = zfs.create("tank/z", volsize=GIB, sparse=False)
    assert GIB < volume.refreservation < 1.05 * GIB
    before = volume.used_bytes
    assert before == volume.refreservation
    zfs.write("tank/z", 400 * MIB)
    assert volume.used_bytes == before
    zfs.take("tank/z", "s")
    assert volume.used_bytes == before + 400 * MIB
    zfs.set_native("tank/z", {"volsize": 2 * GIB})
    assert volume.refreservation > 2 * GIB


def test_a_sparse_zvol_keeps_nothing():
    volume = a_zfs().create("tank/z", volsize=GIB)
    assert (volume.refreservation, volume.used_bytes) == (0, 24 * 1024)


def test_a_reservation_is_paid_by_the_parent_before_it_is_used():
    zfs = a_zfs()
    zfs.create("tank/a", native={"reservation": GIB})
    zfs.create("tank/b")
    assert zfs.dataset("tank").children_bytes == GIB + 24 * 1024
    assert zfs.available_bytes(zfs.dataset("tank/a")) - zfs.available_bytes(zfs.dataset("tank/b")) == (
        GIB - 24 * 1024
    )


def test_available_is_the_least_of_pool_quotas_and_refquota():
    zfs = a_zfs()
    deep = zfs.create("tank/a/b", parents=True)
    free = zfs.available_bytes(deep)
    assert free == zfs.available_bytes(zfs.dataset("tank")) == 10 * GIB - 3 * 24 * 1024
    zfs.set_native("tank/a", {"quota": GIB})
    assert zfs.available_bytes(deep) == GIB - 2 * 24 * 1024
    zfs.set_native("tank/a/b", {"refquota": 100 * MIB})
    assert zfs.available_bytes(deep) == 100 * MIB - 24 * 1024


@pytest.mark.parametrize(
    ("limits", "number"),
    [
        ({"tank/a": {"quota": 50 * MIB}}, errno.EDQUOT),
        ({"tank/a/b": {"quota": 50 * MIB}}, errno.EDQUOT),
        ({"tank/a/b": {"refquota": 50 * MIB}}, errno.EDQUOT),
        ({"tank/c": {"reservation": 10 * GIB - MIB}}, errno.ENOSPC),
        ({"tank/a/b": {"readonly": "on"}}, errno.EROFS),
    ],
)
def test_a_write_beyond_a_limit_is_refused_and_writes_nothing(limits, number):
    zfs = a_zfs()
    zfs.create("tank/a/b", parents=True)
    zfs.create("tank/c")
    for name, properties in limits.items():
        zfs.set_native(name, properties)
    with pytest.raises(CallError) as refused:
        zfs.write("tank/a/b", 60 * MIB)
    assert refused.value.number == number
    assert zfs.dataset("tank/a/b").referenced_bytes == 24 * 1024


def test_an_overwrite_in_a_full_pool_needs_room_only_if_a_snapshot_keeps_the_old():
    zfs = a_zfs(100 * MIB)
    a_file(zfs, size=80 * MIB)
    zfs.overwrite("tank/a", 80 * MIB)
    zfs.take("tank/a", "s")
    with pytest.raises(CallError) as refused:
        zfs.overwrite("tank/a", 80 * MIB)
    assert refused.value.number == errno.ENOSPC


@pytest.mark.parametrize("what", [{"volsize": 200 * MIB, "sparse": False}, {"native": {"reservation": "1G"}}])
def test_what_reserves_more_than_there_is_is_not_created(what):
    zfs = a_zfs(100 * MIB)
    with pytest.raises(CallError) as refused:
        zfs.create("tank/z", **what)
    assert refused.value.number == errno.ENOSPC
    assert zfs.find("tank/z") is None
    check(zfs)


def test_a_snapshot_of_a_thick_zvol_is_refused_where_it_could_not_be_written_again():
    zfs = a_zfs(200 * MIB)
    zfs.create("tank/z", volsize=100 * MIB, sparse=False)
    zfs.write("tank/z", 100 * MIB)
    with pytest.raises(CallError, match="out of space"):
        zfs.take("tank/z", "s")


def test_a_limit_below_what_is_used_is_refused_and_the_old_one_stays():
    zfs = a_zfs()
    a_file(zfs)
    zfs.set_native("tank/a", {"quota": GIB})
    with pytest.raises(CallError):
        zfs.set_native("tank/a", {"quota": MIB})
    assert zfs.dataset("tank/a").quota == GIB


def test_what_compresses_well_is_larger_before():
    zfs = a_zfs()
    a_file(zfs).compression_ratio = 2.5
    assert space.logical(zfs.dataset("tank")) == 250 * MIB + 24 * 1024
