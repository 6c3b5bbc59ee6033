"""Changes underneath the middleware, as whoever has a shell on the NAS makes them.

Nobody is told of what is made or set here, which is why a watcher must read everything
again now and then; of what is destroyed the kernel's history tells.
"""

from __future__ import annotations

from collections.abc import Mapping

from truetally.lab.nas.machine import Event, Machine
from truetally.lab.nas.tree import dataset_row
from truetally.lab.nas.zfs import Dataset, Snapshot


class Ssh:
    """Changes made underneath the middleware, by `zfs` over SSH: only what is destroyed makes an event.

    22.12 alone also tells of what is created and set (`zfs_events.py` of that version).
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._zfs = machine.zfs

    def create_dataset(
        self,
        name: str,
        *,
        volsize: int = 0,
        user: Mapping[str, str] | None = None,
        parents: bool = True,
        sparse: bool = True,
        native: Mapping[str, str | int | bool] | None = None,
    ) -> Dataset:
        """`zfs create`."""
        made = self._zfs.create(
            name, volsize=volsize, user=user, parents=parents, sparse=sparse, native=native
        )
        self._history("added", made)
        return made

    def snapshot(self, path: str, *, user: Mapping[str, str] | None = None) -> Snapshot:
        """`zfs snapshot`."""
        name, _, leaf = path.partition("@")
        return self._zfs.take(name, leaf, user=user)

    def clone(self, path: str, target: str, *, user: Mapping[str, str] | None = None) -> Dataset:
        """`zfs clone`."""
        return self._zfs.clone(path, target, user=user)

    def set(self, name: str, properties: Mapping[str, str | int | None]) -> None:
        """`zfs set`, of user properties (with a colon) and of ZFS's own; None is `zfs inherit`."""
        users = {
            key: None if value is None else str(value) for key, value in properties.items() if ":" in key
        }
        natives = {key: value for key, value in properties.items() if ":" not in key}
        self._zfs.set_user(name, users)
        if natives:
            self._zfs.set_native(name, natives)
        found = self._zfs.find(name)
        if found is not None:
            self._history("changed", found)

    def write(self, name: str, size_bytes: int) -> None:
        """Let a dataset hold so many bytes, as whoever has mounted it would."""
        self._zfs.write(name, size_bytes)

    def promote(self, name: str) -> None:
        """`zfs promote`."""
        self._zfs.promote(name)

    def rename(self, path: str, target: str) -> None:
        """`zfs rename` of a dataset, or of a snapshot within its dataset; shares keep the old path."""
        if "@" in path:
            self._zfs.rename_snapshot(path, target.rpartition("@")[2])
        else:
            self._zfs.rename(path, target)

    def rollback(self, path: str, *, recursive: bool = False) -> None:
        """`zfs rollback`; the snapshots that go for it are told of."""
        self._machine.removed(self._zfs.rollback(path, recursive=recursive))

    def hold(self, path: str, tag: str) -> None:
        """`zfs hold`."""
        self._zfs.hold(path, tag)

    def release(self, path: str, tag: str) -> None:
        """`zfs release`; a deferred destroy may then happen, and is told of."""
        self._zfs.release(path, tag)
        if self._zfs.find_snapshot(path) is None:
            self._machine.removed([path])

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
        """`zfs send | zfs receive`, the first time or an increment; see `Zfs.receive`."""
        return self._zfs.receive(
            source,
            target,
            properties=properties,
            readonly=readonly,
            intermediate=intermediate,
            force=force,
        )

    def destroy(self, path: str, *, recursive: bool = False, defer: bool = False) -> None:
        """`zfs destroy` of a dataset or snapshot; shares and extents stay, pointing at nothing."""
        if "@" in path:
            gone = [path] if self._zfs.destroy_snapshot(path, defer=defer) else []
        else:
            origins = {each.origin for each in self._zfs.dataset(path).below() if each.origin}
            gone = self._zfs.destroy(path, recursive=recursive)
            # A deferred destroy that waited for this clone happens now.
            gone += [each for each in sorted(origins - set(gone)) if self._zfs.find_snapshot(each) is None]
        self._machine.removed(gone)

    def _history(self, msg: str, dataset: Dataset) -> None:
        if self._machine.number < (23, 10):
            row = dataset_row(dataset, self._zfs, old_engine=True)
            self._machine.emit(Event(msg, "pool.dataset.query", dataset.name, row))
