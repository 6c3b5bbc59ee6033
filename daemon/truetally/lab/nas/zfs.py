"""ZFS as far as CSI volumes need it: pools, datasets, zvols, snapshots, clones and holds.

User properties are inherited by children and snapshots, a snapshot with clones can
only be destroyed later (`defer`), and a dataset with children, snapshots or clones
is not destroyed at all unless asked to recurse: these are the facts that make
orphans, so they hold here.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from truetally.lab.nas.failures import CallError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\- ]*\Z")
_TIB = 1 << 40
_KIB_24 = 24 * 1024
_KIB_16 = 16 * 1024


@dataclass(eq=False, slots=True)
class Snapshot:
    """A snapshot; `clones` are the names of datasets made from it."""

    dataset: str
    name: str
    created_at: datetime
    txg: int
    referenced_bytes: int
    used_bytes: int = 0
    user: dict[str, str] = field(default_factory=dict)
    holds: dict[str, int] = field(default_factory=dict)
    clones: set[str] = field(default_factory=set)
    defer_destroy: bool = False

    @property
    def path(self) -> str:
        """`dataset@name`."""
        return f"{self.dataset}@{self.name}"


@dataclass(eq=False, slots=True)
class Dataset:
    """A filesystem or zvol. `received` names user properties that came by replication."""

    name: str
    kind: str
    created_at: datetime
    txg: int
    parent: Dataset | None = None
    referenced_bytes: int = _KIB_24
    used_bytes: int = 0
    refquota: int = 0
    quota: int = 0
    reservation: int = 0
    refreservation: int = 0
    volsize: int = 0
    volblocksize: int = _KIB_16
    recordsize: int = 131072
    origin: str = ""
    readonly: bool = False
    encrypted: bool = False
    locked: bool = False
    comments: str = ""
    user: dict[str, str] = field(default_factory=dict)
    received: set[str] = field(default_factory=set)
    children: dict[str, Dataset] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)

    @property
    def pool(self) -> str:
        """The pool's name."""
        return self.name.partition("/")[0]

    def user_properties(self) -> dict[str, tuple[str, str]]:
        """Every user property that is in force here, as (value, where it comes from)."""
        found: dict[str, tuple[str, str]] = {}
        if self.parent is not None:
            found = {key: (value, "INHERITED") for key, (value, _) in self.parent.user_properties().items()}
        for key, value in self.user.items():
            found[key] = (value, "RECEIVED" if key in self.received else "LOCAL")
        return found

    def below(self) -> Iterator[Dataset]:
        """Itself and all its descendants, parents first."""
        yield self
        for child in self.children.values():
            yield from child.below()


@dataclass(eq=False, slots=True)
class Pool:
    """A pool; one that is not imported hides its datasets."""

    name: str
    id: int
    guid: int
    root: Dataset
    size_bytes: int = 10 * _TIB
    status: str = "ONLINE"
    imported: bool = True

    @property
    def healthy(self) -> bool:
        """Whether TrueNAS would call it healthy."""
        return self.imported and self.status == "ONLINE"


class Zfs:
    """All pools of one machine. Nothing here tells anybody: that is the middleware's part."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self.pools: dict[str, Pool] = {}
        self.datasets: dict[str, Dataset] = {}
        self._txg = 1000

    def create_pool(self, name: str, size_bytes: int = 10 * _TIB) -> Pool:
        """A new pool with its root dataset."""
        root = Dataset(name, "FILESYSTEM", self.now(), self._next_txg())
        self.datasets[name] = root
        number = len(self.pools) + 1
        self.pools[name] = Pool(name, number, 10**18 + number, root, size_bytes)
        self.grow(root, root.referenced_bytes)
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

    def create(
        self, name: str, *, volsize: int = 0, user: Mapping[str, str] | None = None, parents: bool = False
    ) -> Dataset:
        """A new filesystem, or a zvol where `volsize` is given; `parents` makes missing ancestors."""
        parent_name, _, leaf = name.rpartition("/")
        if parents and parent_name and self.find(parent_name) is None:
            self.create(parent_name, parents=True)
        parent = self.dataset(parent_name)
        if name in self.datasets:
            raise CallError(f"cannot create '{name}': dataset already exists", errno.EEXIST)
        if not _NAME.match(leaf) or parent.kind != "FILESYSTEM":
            raise CallError(f"cannot create '{name}': invalid name or parent", errno.EINVAL)
        kind = "VOLUME" if volsize else "FILESYSTEM"
        dataset = Dataset(name, kind, self.now(), self._next_txg(), parent, volsize=volsize)
        dataset.user.update(user or {})
        return self._adopt(dataset, parent)

    def take(self, name: str, leaf: str, *, user: Mapping[str, str] | None = None) -> Snapshot:
        """A snapshot of a dataset."""
        dataset = self.dataset(name)
        if leaf in dataset.snapshots:
            raise CallError(f"cannot create snapshot '{name}@{leaf}': dataset already exists", errno.EEXIST)
        taken = Snapshot(name, leaf, self.now(), self._next_txg(), dataset.referenced_bytes)
        taken.user.update(user or {})
        dataset.snapshots[leaf] = taken
        return taken

    def clone(self, path: str, target: str, *, user: Mapping[str, str] | None = None) -> Dataset:
        """A dataset that begins as a snapshot; only properties given now are its own."""
        source = self.snapshot(path)
        original = self.dataset(source.dataset)
        made = self.create(target, volsize=original.volsize, user=user)
        made.origin = path
        made.volblocksize = original.volblocksize
        made.referenced_bytes = source.referenced_bytes
        source.clones.add(target)
        return made

    def promote(self, name: str) -> None:
        """Turn a clone and its origin round: the clone takes the snapshots up to the shared one."""
        clone = self.dataset(name)
        if not clone.origin:
            raise CallError(f"cannot promote '{name}': not a cloned filesystem", errno.EINVAL)
        shared = self.snapshot(clone.origin)
        original = self.dataset(shared.dataset)
        for taken in [each for each in original.snapshots.values() if each.txg <= shared.txg]:
            del original.snapshots[taken.name]
            taken.dataset = name
            clone.snapshots[taken.name] = taken
            for other in taken.clones - {name}:
                self.datasets[other].origin = taken.path
        shared.clones.discard(name)
        clone.origin, original.origin = original.origin, shared.path
        shared.clones.add(original.name)

    def set_user(self, name: str, properties: Mapping[str, str | None]) -> None:
        """Set user properties of a dataset or snapshot; None takes one away."""
        target = self.snapshot(name) if "@" in name else self.dataset(name)
        for key, value in properties.items():
            if value is None:
                target.user.pop(key, None)
            else:
                target.user[key] = value

    def write(self, name: str, size_bytes: int) -> None:
        """Let a dataset hold so many bytes; what snapshots still show becomes theirs."""
        dataset = self.dataset(name)
        self.grow(dataset, size_bytes - dataset.referenced_bytes)
        dataset.referenced_bytes = size_bytes

    def grow(self, dataset: Dataset, delta: int) -> None:
        """Account space at a dataset and at all above it."""
        place: Dataset | None = dataset
        while place is not None:
            place.used_bytes += delta
            place = place.parent

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
            self._drop(taken)
            return True
        if not defer:
            what = "snapshot has dependent clones" if taken.clones else "dataset is busy"
            raise CallError(f"cannot destroy '{path}': {what}", errno.EBUSY)
        taken.defer_destroy = True
        return False

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
            _refuse_dependents(dataset)
        gone: list[str] = []
        doomed = {each.name for each in dataset.below()}
        for snapshot in [taken for each in dataset.below() for taken in each.snapshots.values()]:
            gone += self._clear(snapshot, doomed, clones=clones)
        for each in reversed(list(dataset.below())):
            gone += [*(f"{each.name}@{leaf}" for leaf in each.snapshots), each.name]
            self._forget(each)
        return gone

    def rename(self, name: str, target: str) -> None:
        """Rename a dataset with everything below it."""
        dataset, parent = self.dataset(name), self.dataset(target.rpartition("/")[0])
        if target in self.datasets:
            raise CallError(f"cannot rename to '{target}': dataset already exists", errno.EEXIST)
        for each in list(dataset.below()):
            self._rename_one(each, target + each.name.removeprefix(name))
        if dataset.parent is not None:
            del dataset.parent.children[name.rpartition("/")[2]]
            self.grow(dataset.parent, -dataset.used_bytes)
        dataset.parent = parent
        parent.children[target.rpartition("/")[2]] = dataset
        self.grow(parent, dataset.used_bytes)

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

    def _adopt(self, dataset: Dataset, parent: Dataset) -> Dataset:
        self.datasets[dataset.name] = dataset
        parent.children[dataset.name.rpartition("/")[2]] = dataset
        self.grow(dataset, dataset.referenced_bytes)
        return dataset

    def _clear(self, snapshot: Snapshot, doomed: set[str], *, clones: bool) -> list[str]:
        outside = snapshot.clones - doomed
        if (outside or snapshot.holds) and not clones:
            what = "snapshot has dependent clones" if outside else "dataset is busy"
            raise CallError(f"cannot destroy '{snapshot.path}': {what}", errno.EBUSY)
        snapshot.holds.clear()
        return [
            path
            for clone in sorted(outside)
            if clone in self.datasets
            for path in self.destroy(clone, recursive=True, clones=True)
        ]

    def _forget(self, dataset: Dataset) -> None:
        del self.datasets[dataset.name]
        parent = dataset.parent
        if parent is not None:
            parent.children.pop(dataset.name.rpartition("/")[2], None)
            self.grow(parent, -dataset.used_bytes)
        origin = self.find_snapshot(dataset.origin) if dataset.origin else None
        if origin is not None:
            origin.clones.discard(dataset.name)
            self._reap(origin)

    def _reap(self, snapshot: Snapshot) -> None:
        if snapshot.defer_destroy and not snapshot.clones and not snapshot.holds:
            self._drop(snapshot)

    def _drop(self, snapshot: Snapshot) -> None:
        dataset = self.datasets[snapshot.dataset]
        dataset.snapshots.pop(snapshot.name, None)
        self.grow(dataset, -snapshot.used_bytes)

    def _next_txg(self) -> int:
        self._txg += 1
        return self._txg


def _refuse_dependents(dataset: Dataset) -> None:
    if dataset.children:
        raise CallError(f"cannot destroy '{dataset.name}': filesystem has children", errno.ENOTEMPTY)
    if dataset.snapshots:
        text = f"cannot destroy '{dataset.name}': filesystem has dependent snapshots"
        raise CallError(text, errno.EBUSY)


def under(path: str, tops: Iterable[str]) -> bool:
    """Whether a path is one of the tops or below one."""
    return any(path == top or path.startswith(top + "/") for top in tops)
