"""ZFS as far as CSI volumes need it: pools, datasets, zvols, snapshots, clones, holds and replicas.

Properties are inherited by children and user properties by snapshots too, a snapshot with
clones can only be destroyed later (`defer`), and a dataset with children, snapshots or
clones is not destroyed at all unless asked to recurse: these are the facts that make
orphans, so they hold here.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from truetally.lab.nas import lineage, replica, space, writing
from truetally.lab.nas.dataset import Changes, Dataset, Encryption, Snapshot, thick_bytes
from truetally.lab.nas.failures import CallError
from truetally.lab.nas.pool import Pool, Scan, Vdev

__all__ = ["Dataset", "Encryption", "Pool", "Scan", "Snapshot", "Vdev", "Zfs", "under"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\- ]*\Z")
_TIB = 1 << 40
_EMPTY = 24 * 1024
Value = str | int | bool


class Zfs:
    """All pools of one machine. Nothing here tells anybody: that is the middleware's part.

    Attributes:
        exported: pools that were exported, with their datasets; `import_pool` brings one back.
        changes: counters that say whether names or properties changed.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self.pools: dict[str, Pool] = {}
        self.exported: dict[str, Pool] = {}
        self.datasets: dict[str, Dataset] = {}
        self.changes = Changes()
        self.txg = 1000
        self.last_pool = 0
        self._sorted: tuple[tuple[int, tuple[int, ...]], list[str], list[Snapshot]] | None = None

    def create_pool(self, name: str, size_bytes: int = 10 * _TIB) -> Pool:
        """A new pool with its root dataset; the lab lets none have the name of one that is exported."""
        _check_name(name, f"cannot create '{name}'")
        if name in self.pools or name in self.exported:
            raise CallError(f"cannot create '{name}': pool already exists", errno.EEXIST)
        if size_bytes < _EMPTY:
            raise CallError(
                f"cannot create '{name}': the pool needs {_EMPTY} bytes at least", errno.EOVERFLOW
            )
        root = Dataset(name, "FILESYSTEM", self.now(), self.next_txg(), changes=self.changes)
        self.datasets[name] = root
        self.last_pool += 1
        self.pools[name] = Pool(name, self.last_pool, 10**18 + 1000 * self.last_pool, root, size_bytes)
        space.bear(root, _EMPTY)
        return self.pools[name]

    def pool(self, name: str) -> Pool:
        """The pool, or ENOENT."""
        if name not in self.pools:
            raise CallError(f"cannot open '{name}': no such pool", errno.ENOENT)
        return self.pools[name]

    def imported(self) -> Iterator[Pool]:
        """The pools whose datasets can be seen."""
        return (pool for pool in self.pools.values() if pool.imported)

    def visible(self) -> Iterator[Dataset]:
        """Every dataset of the imported pools, parents first."""
        for pool in self.imported():
            yield from pool.root.below()

    def find(self, name: str) -> Dataset | None:
        """The dataset, if its pool is imported."""
        dataset = self.datasets.get(name)
        pool = self.pools.get(name.partition("/")[0])
        return dataset if dataset is not None and pool is not None and pool.imported else None

    def find_snapshot(self, path: str) -> Snapshot | None:
        """The snapshot called `dataset@name`."""
        name, _, leaf = path.partition("@")
        dataset = self.find(name)
        return dataset.snapshots.get(leaf) if dataset is not None else None

    def dataset(self, name: str) -> Dataset:
        """The dataset, or ENOENT."""
        found = self.find(name)
        if found is None:
            raise CallError(f"cannot open '{name}': dataset does not exist", errno.ENOENT)
        return found

    def snapshot(self, path: str) -> Snapshot:
        """The snapshot, or ENOENT."""
        found = self.find_snapshot(path)
        if found is None:
            raise CallError(f"cannot open '{path}': dataset does not exist", errno.ENOENT)
        return found

    def snapshots_by_path(self) -> tuple[list[str], list[Snapshot]]:
        """The paths of all visible snapshots in order, and the snapshots beside them."""
        stamp = (self.changes.names, tuple(pool.id for pool in self.imported()))
        if self._sorted is None or self._sorted[0] != stamp:
            found = [(taken.path, taken) for each in self.visible() for taken in each.snapshots.values()]
            found.sort(key=lambda pair: pair[0])
            self._sorted = (stamp, [path for path, _ in found], [taken for _, taken in found])
        return self._sorted[1], self._sorted[2]

    def pool_bytes(self, dataset: Dataset) -> int:
        """The size of the pool that a dataset is in."""
        return self.pools[dataset.pool].size_bytes

    def available_bytes(self, dataset: Dataset) -> int:
        """What is still free for a dataset, quotas and reservations considered."""
        return space.available(dataset, self.pool_bytes(dataset))

    def create(
        self,
        name: str,
        *,
        volsize: int = 0,
        user: Mapping[str, str] | None = None,
        parents: bool = False,
        sparse: bool = True,
        native: Mapping[str, Value] | None = None,
    ) -> Dataset:
        """A new filesystem, or a zvol where `volsize` is given; `parents` makes missing ancestors.

        Args:
            sparse: whether a zvol reserves nothing.
            native: ZFS properties that are set on it.
        """
        if volsize < 0:
            raise CallError(f"cannot create '{name}': bad volume size {volsize}", errno.EINVAL)
        dataset = self._new(name, "VOLUME" if volsize else "FILESYSTEM", parents=parents)
        above = dataset.parent or dataset
        left = space.room(above, self.pool_bytes(above))
        if volsize:
            dataset.native["volsize"] = str(volsize)
        dataset.user.update(user or {})
        try:
            for key, value in (native or {}).items():
                dataset.set_native(key, value)
            if volsize and not sparse:
                dataset.native["refreservation"] = str(thick_bytes(dataset))
        except CallError:
            self._leave_tree(dataset)
            raise
        space.bear(dataset, _EMPTY)
        if dataset.charged_bytes > left:
            self._leave_tree(dataset)
            raise CallError(f"cannot create '{name}': out of space", errno.ENOSPC)
        return dataset

    def take(self, name: str, leaf: str, *, user: Mapping[str, str] | None = None) -> Snapshot:
        """A snapshot of a dataset; one of a thick zvol needs room for what was written."""
        dataset = self.dataset(name)
        _check_name(leaf, f"cannot create snapshot '{name}@{leaf}'")
        if leaf in dataset.snapshots:
            raise CallError(f"cannot create snapshot '{name}@{leaf}': dataset already exists", errno.EEXIST)
        if dataset.refreservation:
            again = min(dataset.unique_bytes, dataset.refreservation)
            writing.need(self, dataset, again, "create snapshot of", kept=0)
        taken = Snapshot(name, leaf, self.now(), self.next_txg(), dataset.referenced_bytes)
        taken.volsize = dataset.volsize
        taken.user.update(user or {})
        dataset.snapshots[leaf] = taken
        dataset.unique_bytes = 0
        dataset.settle()
        self.snapshots_changed(dataset)
        return taken

    def clone(
        self,
        path: str,
        target: str,
        *,
        user: Mapping[str, str] | None = None,
        native: Mapping[str, Value] | None = None,
    ) -> Dataset:
        """A dataset that begins as a snapshot; only properties given now are its own."""
        source = self.snapshot(path)
        original = self.dataset(source.dataset)
        if target.partition("/")[0] != original.pool:
            raise CallError(f"cannot create '{target}': source and target pools differ", errno.EXDEV)
        made = self._new(target, original.kind)
        if source.volsize:
            made.native["volsize"] = str(source.volsize)
            made.native["volblocksize"] = str(original.volblocksize)
        made.user.update(user or {})
        made.encryption = original.encryption
        made.origin, made.origin_txg = path, source.txg
        made.live = space.shown_by(original, source)
        made.compression_ratio = original.compression_ratio
        for key, value in (native or {}).items():
            made.set_native(key, value)
        source.clones.add(target)
        space.recount(made)
        return made

    def promote(self, name: str) -> None:
        """Turn a clone and its origin round: the clone takes the snapshots up to the shared one."""
        lineage.promote(self, name)

    def set_user(self, name: str, properties: Mapping[str, str | None]) -> None:
        """Set user properties of a dataset or snapshot; None takes one away."""
        target = self.snapshot(name) if "@" in name else self.dataset(name)
        for key, value in properties.items():
            target.received.discard(key)
            if value is None:
                target.user.pop(key, None)
            else:
                target.user[key] = value

    def set_native(self, name: str, properties: Mapping[str, Value | None]) -> None:
        """Set ZFS properties of a dataset; None inherits again (or, for a limit, takes it away).

        Raises:
            CallError: EINVAL for a property or value that there is not, ENOSPC for a reservation that
                the pool has no room for, or a limit below what is used.
        """
        writing.set_native(self, self.dataset(name), properties)

    def write(self, name: str, size_bytes: int) -> None:
        """Let a dataset hold so many bytes; what snapshots still show becomes theirs.

        Raises:
            CallError: EDQUOT beyond a quota, ENOSPC in a full pool or zvol, EROFS and EACCES where
                nothing can be written.
        """
        writing.write(self, self.dataset(name), size_bytes)

    def overwrite(self, name: str, size_bytes: int) -> None:
        """Let so many bytes of a dataset be written anew; it holds as much as before.

        Raises:
            CallError: as `write`; snapshots keep the old blocks, so this takes room.
        """
        writing.overwrite(self, self.dataset(name), size_bytes)

    def grow(self, dataset: Dataset, delta: int) -> None:
        """Account space at a dataset and at all above it, without asking whether there is room."""
        if delta > 0:
            space.bear(dataset, delta)
        elif delta < 0:
            space.free(dataset, -delta)

    def hold(self, path: str, tag: str = "truenas") -> None:
        """Hold a snapshot, so that it cannot be destroyed."""
        self.snapshot(path).holds[tag] = 1

    def release(self, path: str, tag: str | None = None) -> None:
        """Release one tag, or all as TrueNAS does; a deferred destroy may then happen."""
        held = self.snapshot(path)
        for each in [tag] if tag is not None else list(held.holds):
            held.holds.pop(each, None)
        self._reap(held)

    def destroy_snapshot(self, path: str, *, defer: bool = False) -> bool:
        """Destroy a snapshot; False if it only will be, when its last clone or hold goes."""
        taken = self.snapshot(path)
        if not taken.clones and not taken.holds:
            self.drop(taken)
            return True
        if not defer:
            what = "snapshot has dependent clones" if taken.clones else "dataset is busy"
            raise CallError(f"cannot destroy '{path}': {what}", errno.EBUSY)
        taken.defer_destroy = True
        return False

    def rename_snapshot(self, path: str, leaf: str) -> None:
        """Give a snapshot another name in the same dataset."""
        taken = self.snapshot(path)
        dataset = self.datasets[taken.dataset]
        _check_name(leaf, f"cannot rename to '{taken.dataset}@{leaf}'")
        if leaf in dataset.snapshots:
            text = f"cannot rename to '{taken.dataset}@{leaf}': dataset already exists"
            raise CallError(text, errno.EEXIST)
        dataset.snapshots = {
            leaf if name == taken.name else name: each for name, each in dataset.snapshots.items()
        }
        taken.name = leaf
        for clone in taken.clones:
            self.datasets[clone].origin = taken.path
        self.snapshots_changed(dataset)

    def rollback(self, path: str, *, recursive: bool = False, clones: bool = False) -> list[str]:
        """Let a dataset be again what a snapshot shows; what was destroyed for it.

        Args:
            recursive: destroy newer snapshots.
            clones: and the clones of those.
        """
        return lineage.roll_back(self, path, recursive=recursive, clones=clones)

    def destroy(self, name: str, *, recursive: bool = False, clones: bool = False) -> list[str]:
        """Destroy a dataset; what went, snapshots included.

        Args:
            recursive: its children and snapshots too.
            clones: release holds and destroy dependent clones elsewhere too, as TrueNAS 26 does.
        """
        dataset = self.dataset(name)
        if dataset.parent is None:
            raise CallError(f"cannot destroy '{name}': operation does not apply to pools", errno.EINVAL)
        if not recursive:
            lineage.refuse_dependents(dataset)
        tops = self.with_clones(dataset) if clones else [dataset]
        doomed = {each.name: each for top in tops for each in top.below()}
        snapshots = [taken for each in doomed.values() for taken in each.snapshots.values()]
        if not clones:
            lineage.refuse_outsiders(name, snapshots, set(doomed))
        for snapshot in snapshots:
            snapshot.holds.clear()
        gone: list[str] = []
        # Clones before what they were made of, children before their parents.
        for each in [each for top in reversed(tops) for each in reversed(list(top.below()))]:
            if each.name in self.datasets:
                gone += [*(f"{each.name}@{leaf}" for leaf in each.snapshots), each.name]
                self._forget(each)
        return gone

    def with_clones(self, dataset: Dataset) -> list[Dataset]:
        """A dataset and all clones, with theirs, that must go with it."""
        tops, known = [dataset], {each.name for each in dataset.below()}
        for top in tops:
            for taken in [taken for each in top.below() for taken in each.snapshots.values()]:
                for clone in sorted(taken.clones - known):
                    tops.append(self.datasets[clone])
                    known.update(each.name for each in self.datasets[clone].below())
        return tops

    def rename(self, name: str, target: str) -> None:
        """Rename a dataset with everything below it."""
        dataset, parent = self.dataset(name), self.dataset(target.rpartition("/")[0])
        _check_name(target.rpartition("/")[2], f"cannot rename to '{target}'")
        if target in self.datasets:
            raise CallError(f"cannot rename to '{target}': dataset already exists", errno.EEXIST)
        if dataset.parent is None or under(target, [name]) or dataset.pool != parent.pool:
            raise CallError(f"cannot rename '{name}' to '{target}': invalid target", errno.EINVAL)
        for each in list(dataset.below()):
            self._rename_one(each, target + each.name.removeprefix(name))
        self._leave_tree(dataset, name)
        dataset.parent = parent
        parent.children[target.rpartition("/")[2]] = dataset
        dataset.charged_bytes = 0
        self.changes.names += 1
        self.changes.natives += 1
        dataset.settle()

    def receive(
        self,
        source: str,
        target: str,
        *,
        properties: bool = True,
        readonly: bool | None = None,
        intermediate: bool = False,
        force: bool = False,
    ) -> Dataset:
        """`zfs send | zfs receive` of a snapshot (`a@s`), or of a dataset's content without a snapshot (`a`).

        Args:
            properties: send properties too; they arrive as RECEIVED, and local ones there win.
            readonly: set `readonly` on the replica (`-o readonly=on`); None leaves it.
            intermediate: send the snapshots in between too (`-I`).
            force: roll the target back to the last common snapshot first (`-F`).

        Raises:
            CallError: EEXIST if the target is no replica of the source, ETXTBSY if it has been written to.
        """
        return replica.receive(
            self,
            source,
            target,
            replica.Options(properties, readonly, intermediate=intermediate, force=force),
        )

    def export_pool(self, name: str) -> Pool:
        """Export a pool: it and its datasets are gone until `import_pool`."""
        pool = self.exported[name] = self.pool(name)
        del self.pools[name]
        for each in pool.root.below():
            del self.datasets[each.name]
        self.changes.names += 1
        return pool

    def import_pool(self, name: str) -> Pool:
        """Import an exported pool; locked datasets come back locked."""
        pool = self.exported.pop(name, None)
        if pool is None:
            raise CallError(f"cannot import '{name}': no such pool available", errno.ENOENT)
        self.pools[name] = pool
        pool.imported = True
        for each in pool.root.below():
            self.datasets[each.name] = each
            if each.encryption is not None and not each.encryption.in_database:
                each.encryption.loaded = False
        self.changes.names += 1
        return pool

    def start_scan(self, name: str, function: str = "SCRUB", takes: timedelta = timedelta(hours=1)) -> Scan:
        """Begin a SCRUB or RESILVER that takes so long."""
        if function not in ("SCRUB", "RESILVER"):
            raise CallError(f"a scan is SCRUB or RESILVER, not {function}", errno.EINVAL)
        pool = self.pool(name)
        if pool.scan is not None and pool.scan.state(self.now()) == "SCANNING":
            raise CallError(f"cannot scrub {name}: currently {pool.scan.function.lower()}ing", errno.EBUSY)
        pool.scan = Scan(function, self.now(), takes, pool.root.used_bytes)
        return pool.scan

    def snapshots_changed(self, *datasets: Dataset) -> None:
        """Remember that the snapshots of datasets changed just now."""
        self.changes.names += 1
        for each in datasets:
            each.snapshots_changed = self.now()

    def drop(self, snapshot: Snapshot) -> None:
        """Forget a snapshot, whatever holds or clones it has."""
        dataset = self.datasets[snapshot.dataset]
        space.forget_snapshot(dataset, snapshot)
        self.snapshots_changed(dataset)

    def next_txg(self) -> int:
        """The number of the next transaction group."""
        self.txg += 1
        return self.txg

    def _new(self, name: str, kind: str, *, parents: bool = False) -> Dataset:
        parent_name, _, leaf = name.rpartition("/")
        if parents and parent_name and self.find(parent_name) is None:
            self.create(parent_name, parents=True)
        parent = self.dataset(parent_name)
        if name in self.datasets:
            raise CallError(f"cannot create '{name}': dataset already exists", errno.EEXIST)
        if not _NAME.match(leaf) or parent.kind != "FILESYSTEM":
            raise CallError(f"cannot create '{name}': invalid name or parent", errno.EINVAL)
        if parent.locked:
            raise CallError(f"cannot create '{name}': encryption key not loaded", errno.EACCES)
        made = Dataset(name, kind, self.now(), self.next_txg(), parent, self.changes)
        made.encryption = parent.encryption
        self.datasets[name] = made
        parent.children[leaf] = made
        return made

    def _rename_one(self, dataset: Dataset, target: str) -> None:
        del self.datasets[dataset.name]
        self.datasets[target] = dataset
        origin = self.find_snapshot(dataset.origin) if dataset.origin else None
        if origin is not None:
            origin.clones ^= {dataset.name, target}
        dataset.name = target
        for taken in dataset.snapshots.values():
            taken.dataset = target
            for clone in taken.clones:
                self.datasets[clone].origin = taken.path

    def _leave_tree(self, dataset: Dataset, name: str = "") -> None:
        parent = dataset.parent
        if parent is not None:
            parent.children.pop((name or dataset.name).rpartition("/")[2], None)
            parent.children_bytes -= dataset.charged_bytes
            parent.settle()
        if not name:
            self.datasets.pop(dataset.name, None)

    def _forget(self, dataset: Dataset) -> None:
        self._leave_tree(dataset)
        self.changes.names += 1
        origin = self.find_snapshot(dataset.origin) if dataset.origin else None
        if origin is not None:
            origin.clones.discard(dataset.name)
            self._reap(origin)

    def _reap(self, snapshot: Snapshot) -> None:
        if snapshot.defer_destroy and not snapshot.clones and not snapshot.holds:
            self.drop(snapshot)


def _check_name(name: str, what: str) -> None:
    if not _NAME.match(name):
        raise CallError(f"{what}: invalid name", errno.EINVAL)


def under(path: str, tops: Iterable[str]) -> bool:
    """Whether a path is one of the tops or below one."""
    return any(path == top or path.startswith(top + "/") for top in tops)
