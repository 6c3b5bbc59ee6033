"""Space: what is charged where as blocks are written, kept by snapshots, shared by clones and freed."""

from contextlib import suppress
from datetime import UTC, datetime

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from truetally.lab.nas import space
from truetally.lab.nas.failures import CallError
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
        self.zfs = a_zfs(200 * MIB)
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

    @rule(data=st.data(), recursive=st.booleans())
    def rollback(self, data, recursive):
        self.attempt(self.zfs.rollback, self.a_snapshot(data), recursive=recursive)

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
