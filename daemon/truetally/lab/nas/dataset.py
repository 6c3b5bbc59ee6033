"""Datasets and snapshots as ZFS keeps them: properties with their origin, keys, and blocks.

Blocks are counted, not kept. Each has a birth: the txg of the snapshot before it (for a
clone that has none: of its origin). `Dataset.live` counts what the head still shows and
`Snapshot.dead` what a snapshot is the last to show, both by birth; all that ZFS tells
of space follows from these (`space.py`). Births before a clone's origin belong to the
dataset of the origin, and are charged there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from truetally.lab.nas.native import NATIVES, raw

_KIB_24 = 24 * 1024
Effective = tuple[str, str, str | None]


@dataclass(eq=False, slots=True)
class Snapshot:
    """A snapshot; `clones` are the names of datasets made from it.

    Attributes:
        used_bytes: what destroying it alone would free.
        dead: by birth, the bytes that no later snapshot and not the head shows any more.
        received: the names of user properties that came by replication.
    """

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
    dead: dict[int, int] = field(default_factory=dict)
    guid: int = 0
    received: set[str] = field(default_factory=set)
    volsize: int = 0

    def __post_init__(self) -> None:
        self.guid = self.guid or self.txg << 20

    @property
    def path(self) -> str:
        """`dataset@name`."""
        return f"{self.dataset}@{self.name}"


@dataclass(eq=False, slots=True)
class Encryption:
    """The key that a tree of datasets shares; `root` is where it was made."""

    root: Dataset
    key: str
    key_format: str = "hex"
    algorithm: str = "aes-256-gcm"
    pbkdf2iters: int = 0
    loaded: bool = True
    in_database: bool = True


@dataclass(slots=True)
class Changes:
    """How often the names of snapshots and the properties of datasets changed: what caches ask."""

    names: int = 0
    natives: int = 0


@dataclass(eq=False, slots=True)
class Dataset:
    """A filesystem or zvol.

    Attributes:
        native: ZFS properties set here; `native_received` those that came by replication.
        received: the names of user properties that came by replication.
        live: by birth, the bytes that it shows now.
        compression_ratio: logical bytes for each byte written here.
        snapshots_changed: when a snapshot was last made, destroyed or renamed.
    """

    name: str
    kind: str
    created_at: datetime
    txg: int
    parent: Dataset | None = None
    changes: Changes = field(default_factory=Changes)
    origin: str = ""
    origin_txg: int = 0
    comments: str = ""
    guid: int = 0
    encryption: Encryption | None = None
    user: dict[str, str] = field(default_factory=dict)
    received: set[str] = field(default_factory=set)
    native: dict[str, str] = field(default_factory=dict)
    native_received: dict[str, str] = field(default_factory=dict)
    children: dict[str, Dataset] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    snapshots_changed: datetime | None = None
    live: dict[int, int] = field(default_factory=dict)
    referenced_bytes: int = 0
    own_bytes: int = 0
    unique_bytes: int = 0
    snapshots_bytes: int = 0
    children_bytes: int = 0
    used_bytes: int = 0
    charged_bytes: int = 0
    compression_ratio: float = 1.0
    # Of the last rows shown to children (`tree.py`), with the bequest that they were made of.
    shown_to_children: tuple[object, dict[str, Any]] | None = None
    _bequest: tuple[int, dict[str, Effective]] | None = None

    def __post_init__(self) -> None:
        self.guid = self.guid or self.txg << 20

    @property
    def pool(self) -> str:
        """The pool's name."""
        return self.name.partition("/")[0]

    # Properties that are read often have names of their own; setting one is `zfs set`.
    @property
    def quota(self) -> int:
        """The most that it and all below it may use; 0 for no limit."""
        return self._number("quota")

    @quota.setter
    def quota(self, value: int) -> None:
        self.set_native("quota", value)

    @property
    def refquota(self) -> int:
        """The most that it alone may reference; 0 for no limit."""
        return self._number("refquota")

    @refquota.setter
    def refquota(self, value: int) -> None:
        self.set_native("refquota", value)

    @property
    def reservation(self) -> int:
        """What is kept for it and all below it."""
        return self._number("reservation")

    @reservation.setter
    def reservation(self, value: int) -> None:
        self.set_native("reservation", value)

    @property
    def refreservation(self) -> int:
        """What is kept for it alone."""
        return self._number("refreservation")

    @refreservation.setter
    def refreservation(self, value: int) -> None:
        self.set_native("refreservation", value)

    @property
    def volsize(self) -> int:
        """The size of the block device; 0 for a filesystem."""
        return self._number("volsize")

    @volsize.setter
    def volsize(self, value: int) -> None:
        self.set_native("volsize", value)

    @property
    def volblocksize(self) -> int:
        """The block size of a zvol."""
        return self._number("volblocksize") or int(NATIVES["volblocksize"].default)

    @volblocksize.setter
    def volblocksize(self, value: int) -> None:
        self.set_native("volblocksize", value)

    @property
    def recordsize(self) -> int:
        """The record size of a filesystem."""
        return int(self.effective("recordsize")[0])

    @recordsize.setter
    def recordsize(self, value: int) -> None:
        self.set_native("recordsize", value)

    @property
    def readonly(self) -> bool:
        """Whether nothing can be written."""
        return self.effective("readonly")[0] == "on"

    @readonly.setter
    def readonly(self, value: bool) -> None:
        self.set_native("readonly", value)

    @property
    def encrypted(self) -> bool:
        """Whether it has a key, its own or an inherited one; set it to make or drop a key of its own."""
        return self.encryption is not None

    @encrypted.setter
    def encrypted(self, value: bool) -> None:
        if value and self.encryption is None:
            self.encryption = Encryption(self, f"{self.guid:064x}")
        elif not value:
            self.encryption = None

    @property
    def locked(self) -> bool:
        """Whether its key is not loaded; locking a dataset without a key gives it one."""
        return self.encryption is not None and not self.encryption.loaded

    @locked.setter
    def locked(self, value: bool) -> None:
        if value:
            self.encrypted = True
        if self.encryption is not None:
            self.encryption.loaded = not value

    @property
    def refreservation_bytes(self) -> int:
        """What is kept and not yet written: a snapshot takes what was written out of it again."""
        return max(self.refreservation - self.unique_bytes, 0)

    def set_native(self, name: str, value: str | int | bool | None) -> None:
        """`zfs set`, or `zfs inherit` for None; what a thick zvol keeps follows its size.

        A property of the other kind of dataset is left alone; `Zfs.set_native` refuses it.
        """
        own, text = raw(name, value) if value is not None else raw(name, "")
        if NATIVES[own].only not in ("", self.kind):
            return
        thick = own == "volsize" and self.volsize and self.refreservation == thick_bytes(self)
        if value is None or (text == "0" and own in _UNSET_BY_ZERO):
            self.native.pop(own, None)
            self.native_received.pop(own, None)
        else:
            self.native[own] = text
        if thick:
            self.native["refreservation"] = str(thick_bytes(self))
        self._bequest = None
        if NATIVES[own].inherited and self.children:
            self.changes.natives += 1
        self.settle()

    def effective(self, name: str) -> Effective:
        """A property's value, its source, and whom it is inherited from."""
        local = self.native.get(name)
        if local is not None:
            return local, "LOCAL", None
        received = self.native_received.get(name)
        if received is not None:
            return received, "RECEIVED", None
        native = NATIVES[name]
        if native.inherited and self.parent is not None:
            return self.parent.bequest()[name]
        return native.default, "DEFAULT", None

    def bequest(self) -> Mapping[str, Effective]:
        """What its children inherit, by property."""
        if self._bequest is None or self._bequest[0] != self.changes.natives:
            found = {name: self._bequeathed(name) for name, native in NATIVES.items() if native.inherited}
            self._bequest = (self.changes.natives, found)
        return self._bequest[1]

    def _bequeathed(self, name: str) -> Effective:
        value, source, whence = self.effective(name)
        if source in ("LOCAL", "RECEIVED"):
            return value, "INHERITED", self.name
        return value, source, whence

    def user_properties(self) -> dict[str, tuple[str, str]]:
        """Every user property that is in force here, as (value, source)."""
        return {key: (value, source) for key, (value, source, _) in self.user_effective().items()}

    def user_effective(self) -> dict[str, Effective]:
        """Every user property that is in force here, as (value, source, whom it is inherited from)."""
        found: dict[str, Effective] = {}
        if self.parent is not None:
            for key, (value, source, whence) in self.parent.user_effective().items():
                found[key] = (value, "INHERITED", whence if source == "INHERITED" else self.parent.name)
        for key, value in self.user.items():
            found[key] = (value, "RECEIVED" if key in self.received else "LOCAL", None)
        return found

    def below(self) -> Iterator[Dataset]:
        """Itself and all its descendants, parents first."""
        waiting = [self]
        while waiting:
            each = waiting.pop()
            yield each
            waiting.extend(reversed(each.children.values()))

    def settle(self) -> None:
        """Charge what it uses now, here and to all above it."""
        place: Dataset | None = self
        while place is not None:
            place.used_bytes = (
                place.own_bytes + place.snapshots_bytes + place.refreservation_bytes + place.children_bytes
            )
            # A reservation is paid for by the parent, whether it is used or not.
            charge = max(place.used_bytes, place.reservation)
            delta, place.charged_bytes = charge - place.charged_bytes, charge
            place = place.parent
            if place is not None:
                place.children_bytes += delta

    def _number(self, name: str) -> int:
        found = self.native.get(name) or self.native_received.get(name)
        return int(found) if found is not None else 0


_UNSET_BY_ZERO = frozenset(name for name, native in NATIVES.items() if native.shape == "limit")
_POINTERS_PER_BLOCK = 1024
_METADATA_BLOCK = 128 * 1024
_ALWAYS_BLOCKS = 7


def thick_bytes(dataset: Dataset) -> int:
    """What a thick zvol reserves: its size, and the metadata of a device written in full.

    The form follows `zvol_volsize_to_reservation` of OpenZFS; raidz padding is left out (inferred).
    """
    blocks, metadata = max(dataset.volsize // dataset.volblocksize, 1), _ALWAYS_BLOCKS
    while blocks > 1:
        blocks = -(-blocks // _POINTERS_PER_BLOCK)
        metadata += blocks
    return dataset.volsize + 2 * metadata * _METADATA_BLOCK
