"""The lab cluster's memory: objects, the order of their changes, and how far back it remembers.

It behaves as etcd and the apiserver's watch cache do together. One counter gives
every change its resourceVersion; a list that comes in pages shows one moment
throughout; whoever asks for a moment that has been forgotten is told so.

Objects are kept as the JSON that will be sent, without `kind` and `apiVersion`: the
apiserver leaves both out of the items of a list of a built-in kind, and puts them
into watch events and single objects.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import uuid4

import msgspec

from truetally.errors import NotFound
from truetally.lab.cluster.resources import Resource
from truetally.model.refs import Kind

Manifest = dict[str, Any]
Key = tuple[str, str]  # namespace ("" for cluster-wide kinds) and name: sorted as etcd sorts

_PAGED_LISTS_KEPT = 64


class ChangeType(StrEnum):
    """What a watch event says of its object."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one object."""

    version: int
    type: ChangeType
    namespace: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a list; `rest` counts what follows it."""

    version: int
    items: Sequence[bytes]
    offset: int
    rest: int


class TooOld(Exception):
    """The asked-for moment has been forgotten (the API's `410 Gone`)."""


@dataclass(slots=True)
class _Shelf:
    """The objects of one kind, and their latest changes."""

    resource: Resource
    objects: dict[Key, bytes] = field(default_factory=dict)
    changes: deque[Change] = field(default_factory=deque)
    forgotten: int = 0
    ordered: Sequence[tuple[Key, bytes]] | None = None


class Store:
    """All objects of a cluster.

    Attributes:
        version: the resourceVersion of the latest change.
        subscribers: called with every change, while it happens.
    """

    def __init__(self, now: Callable[[], datetime], history: int = 50_000) -> None:
        self.version = 1
        self.subscribers: list[Callable[[Resource, Change], None]] = []
        self._now = now
        self._history = history
        self._shelves: dict[Kind, _Shelf] = {}
        self._paged: OrderedDict[tuple[Kind, str, int], Sequence[bytes]] = OrderedDict()

    @property
    def served(self) -> list[Resource]:
        """The kinds that the cluster has."""
        return [shelf.resource for shelf in self._shelves.values()]

    def install(self, resource: Resource) -> None:
        """Begin to serve a kind."""
        # A CRD that has just been made has no past: no older watch of it can exist.
        self._shelves.setdefault(resource.kind, _Shelf(resource))

    def uninstall(self, kind: Kind) -> None:
        """Stop to serve a kind, and drop its objects without a word, as deleting a CRD does in the end."""
        self._shelves.pop(kind, None)

    def apply(self, manifest: Mapping[str, Any]) -> Manifest:
        """Create or replace an object; uid, age and a begun deletion stay what they were."""
        shelf = self._shelf(Kind(manifest["kind"]))
        wanted = manifest["metadata"]
        key = (wanted.get("namespace", ""), wanted["name"])
        _check_scope(shelf.resource, key)
        body = {k: v for k, v in manifest.items() if k not in ("kind", "apiVersion", "metadata")}
        if key not in shelf.objects:
            return self._put(shelf, key, {"metadata": self._birth() | wanted, **body}, ChangeType.ADDED)
        stored = msgspec.json.decode(shelf.objects[key])
        changed = {"metadata": wanted | _identity(stored), **body}
        if changed == stored:
            return _manifest(shelf.resource, stored)
        if "deletionTimestamp" in changed["metadata"] and not changed["metadata"].get("finalizers"):
            return self._remove(shelf, key, changed)
        return self._put(shelf, key, changed, ChangeType.MODIFIED)

    def delete(self, kind: Kind, key: Key) -> Manifest:
        """Remove an object at once, whatever finalizers it has."""
        shelf = self._shelf(kind)
        if key not in shelf.objects:
            raise NotFound(f"the lab cluster has no {kind.value} {'/'.join(filter(None, key))}")
        return self._remove(shelf, key, msgspec.json.decode(shelf.objects[key]))

    def get(self, kind: Kind, key: Key) -> bytes | None:
        """The object's JSON with `kind` and `apiVersion`."""
        shelf = self._shelf(kind)
        body = shelf.objects.get(key)
        return None if body is None else whole(shelf.resource, body)

    def page(self, kind: Kind, namespace: str | None, limit: int) -> Page:
        """The first `limit` objects (all, if 0), as they are now."""
        items = self._listing(self._shelf(kind), namespace)
        if limit and limit < len(items):
            self._paged[kind, namespace or "", self.version] = items
            if len(self._paged) > _PAGED_LISTS_KEPT:
                self._paged.popitem(last=False)
        return _cut(items, self.version, 0, limit)

    def next_page(self, kind: Kind, namespace: str | None, version: int, offset: int, limit: int) -> Page:
        """A later page of the list that began at `version`, as it was then."""
        items = self._paged.get((kind, namespace or "", version))
        if items is None:
            raise TooOld
        return _cut(items, version, offset, limit)

    def changes_since(self, kind: Kind, version: int) -> list[Change]:
        """What has happened to a kind after `version`, oldest first."""
        shelf = self._shelf(kind)
        if version < shelf.forgotten:
            raise TooOld
        return [change for change in shelf.changes if change.version > version]

    def current(self, kind: Kind) -> list[Change]:
        """All objects as if just added: what a watch without a resourceVersion begins with."""
        return [
            Change(self.version, ChangeType.ADDED, key[0], body) for key, body in _ordered(self._shelf(kind))
        ]

    def forget_history(self) -> None:
        """Compact: every resourceVersion given out so far becomes too old."""
        # Something unseen gets written, or a reader of the newest version would still be up to date.
        self.version += 1
        self._paged.clear()
        for shelf in self._shelves.values():
            shelf.changes.clear()
            shelf.forgotten = self.version

    def _birth(self) -> Manifest:
        return {"uid": str(uuid4()), "creationTimestamp": timestamp(self._now())}

    def _shelf(self, kind: Kind) -> _Shelf:
        shelf = self._shelves.get(kind)
        if shelf is None:
            raise NotFound(f"the lab cluster serves no {kind.value}; install its CRD first")
        return shelf

    def _put(self, shelf: _Shelf, key: Key, changed: Manifest, change_type: ChangeType) -> Manifest:
        shelf.objects[key] = self._record(shelf, change_type, key[0], changed)
        return _manifest(shelf.resource, changed)

    def _remove(self, shelf: _Shelf, key: Key, changed: Manifest) -> Manifest:
        del shelf.objects[key]
        self._record(shelf, ChangeType.DELETED, key[0], changed)
        return _manifest(shelf.resource, changed)

    def _record(self, shelf: _Shelf, change_type: ChangeType, namespace: str, changed: Manifest) -> bytes:
        self.version += 1
        # A deletion has a version of its own too: a watch goes on from there.
        changed["metadata"]["resourceVersion"] = str(self.version)
        body = msgspec.json.encode(changed)
        shelf.ordered = None
        change = Change(self.version, change_type, namespace, body)
        shelf.changes.append(change)
        if len(shelf.changes) > self._history:
            shelf.forgotten = shelf.changes.popleft().version
        for told in self.subscribers:
            told(shelf.resource, change)
        return body

    def _listing(self, shelf: _Shelf, namespace: str | None) -> list[bytes]:
        return [
            whole(shelf.resource, body) if shelf.resource.custom else body
            for key, body in _ordered(shelf)
            if namespace is None or key[0] == namespace
        ]


def whole(resource: Resource, body: bytes) -> bytes:
    """A stored object with its `kind` and `apiVersion`."""
    return b'{"kind":"%b","apiVersion":"%b",%b' % (
        resource.kind.value.encode(),
        resource.api_version.encode(),
        body[1:],
    )


def timestamp(moment: datetime) -> str:
    """A time as Kubernetes writes it: UTC, whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _ordered(shelf: _Shelf) -> Sequence[tuple[Key, bytes]]:
    if shelf.ordered is None:
        shelf.ordered = sorted(shelf.objects.items())
    return shelf.ordered


def _cut(items: Sequence[bytes], version: int, offset: int, limit: int) -> Page:
    end = offset + limit if limit else len(items)
    return Page(version, items[offset:end], offset, max(0, len(items) - end))


def _identity(stored: Manifest) -> Manifest:
    # With the old resourceVersion, an object that is applied unchanged compares as equal.
    kept = ("uid", "creationTimestamp", "deletionTimestamp", "resourceVersion")
    return {name: stored["metadata"][name] for name in kept if name in stored["metadata"]}


def _manifest(resource: Resource, stored: Manifest) -> Manifest:
    return {"kind": resource.kind.value, "apiVersion": resource.api_version, **stored}


def _check_scope(resource: Resource, key: Key) -> None:
    if resource.namespaced != bool(key[0]):
        needs = "needs a" if resource.namespaced else "has no"
        raise ValueError(f"a {resource.kind.value} {needs} namespace: {key[1]}")
