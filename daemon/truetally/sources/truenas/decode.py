"""From TrueNAS's entries to values.

Numbers are taken from `rawvalue`, never from the `value` that is for people. The wire
structs declare only what is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from truetally.csi.democratic_csi import dataset_of_device, is_kept
from truetally.model import truenas
from truetally.model.truenas import Origin, UserProperty
from truetally.sources.truenas.jsonrpc import moment


class _Property(msgspec.Struct):
    rawvalue: str | None = None
    value: Any = None
    source: str | None = None


class _Resource(msgspec.Struct):
    raw: str = ""
    source: Any = None


class PoolEntry(msgspec.Struct):
    """An entry of `pool.query`."""

    name: str
    status: str = "UNKNOWN"
    healthy: bool = False
    size: int | None = None
    allocated: int | None = None
    free: int | None = None
    fragmentation: str | None = None


class DatasetEntry(msgspec.Struct):
    """An entry of `pool.dataset.query`."""

    id: str
    pool: str
    type: str
    locked: bool | None = None
    mountpoint: str | None = None
    user_properties: dict[str, _Property] = {}
    used: _Property | None = None
    referenced: _Property | None = None
    available: _Property | None = None
    usedbysnapshots: _Property | None = None
    quota: _Property | None = None
    refquota: _Property | None = None
    refreservation: _Property | None = None
    volsize: _Property | None = None
    creation: _Property | None = None
    origin: _Property | None = None
    readonly: _Property | None = None


class ResourceEntry(msgspec.Struct):
    """An entry of `zfs.resource.query` (25.10+), which never tells where a user property comes from."""

    name: str
    pool: str
    type: str
    properties: dict[str, _Resource] | None = None
    user_properties: dict[str, str] | None = None


class SnapshotEntry(msgspec.Struct):
    """An entry of `pool.snapshot.query` or `zfs.snapshot.query`."""

    id: str
    dataset: str = ""
    snapshot_name: str = ""
    createtxg: str | int | None = None
    properties: dict[str, _Property] | None = None
    holds: dict[str, Any] | None = None
    user_properties: dict[str, Any] | None = None


class SnapshotResource(msgspec.Struct):
    """An entry of `zfs.resource.snapshot.query` (26+)."""

    name: str
    dataset: str
    snapshot_name: str
    createtxg: int | None = None
    properties: dict[str, _Resource] | None = None
    user_properties: dict[str, Any] | None = None
    holds: list[str] | None = None


class NfsEntry(msgspec.Struct):
    """An entry of `sharing.nfs.query`."""

    id: int
    path: str
    enabled: bool = True
    locked: bool | None = None
    comment: str | None = None
    hosts: list[str] = []
    networks: list[str] = []


class SmbEntry(msgspec.Struct):
    """An entry of `sharing.smb.query`."""

    id: int
    name: str
    path: str = ""
    enabled: bool = True
    locked: bool | None = None
    comment: str | None = None


class TargetEntry(msgspec.Struct):
    """An entry of `iscsi.target.query`."""

    id: int
    name: str
    alias: str | None = None


class ExtentEntry(msgspec.Struct):
    """An entry of `iscsi.extent.query`."""

    id: int
    name: str
    type: str = "DISK"
    disk: str | None = None
    path: str | None = None
    enabled: bool = True
    locked: bool | None = None
    comment: str | None = None


class TargetExtentEntry(msgspec.Struct):
    """An entry of `iscsi.targetextent.query`."""

    id: int
    target: int
    extent: int
    lunid: int | None = None


class SessionEntry(msgspec.Struct):
    """An entry of `iscsi.global.sessions`."""

    initiator: str
    target: str
    initiator_addr: str | None = None


class ServiceEntry(msgspec.Struct):
    """An entry of `service.query`."""

    service: str
    enable: bool = False
    state: str = "UNKNOWN"


class AlertEntry(msgspec.Struct):
    """An entry of `alert.list`."""

    uuid: str
    klass: str
    level: str
    formatted: str | None = None
    text: str = ""
    datetime: Any = None
    dismissed: bool = False


def pool(entry: PoolEntry) -> truenas.Pool:
    """A pool."""
    fragmentation = (entry.fragmentation or "").rstrip("%")
    return truenas.Pool(
        entry.name,
        entry.status,
        entry.healthy,
        entry.size,
        entry.allocated,
        entry.free,
        int(fragmentation) if fragmentation.isdecimal() else None,
    )


def dataset(entry: DatasetEntry, *, tells_origin: bool) -> truenas.Dataset:
    """A dataset of `pool.dataset.query`."""
    quota = _size(entry.refquota) or _size(entry.quota)
    return truenas.Dataset(
        path=entry.id,
        pool=entry.pool,
        kind=entry.type,
        created_at=_creation(entry.creation),
        used_bytes=_size(entry.used),
        referenced_bytes=_size(entry.referenced),
        available_bytes=_size(entry.available),
        snapshots_bytes=_size(entry.usedbysnapshots),
        quota_bytes=quota,
        reserved_bytes=_size(entry.refreservation),
        volsize_bytes=_size(entry.volsize),
        mountpoint=entry.mountpoint,
        origin=_text(entry.origin),
        locked=entry.locked,
        readonly=_text(entry.readonly).lower() == "on" if entry.readonly is not None else None,
        user_properties=_kept(
            (name, _text(p), _origin(p.source) if tells_origin else Origin.UNKNOWN)
            for name, p in entry.user_properties.items()
        ),
    )


def resource(entry: ResourceEntry) -> truenas.Dataset:
    """A dataset of `zfs.resource.query`."""
    raw = {name: p.raw for name, p in (entry.properties or {}).items()}
    mountpoint = raw.get("mountpoint", "")
    return truenas.Dataset(
        path=entry.name,
        pool=entry.pool,
        kind=entry.type,
        created_at=moment(raw.get("creation")),
        used_bytes=_number(raw.get("used")),
        referenced_bytes=_number(raw.get("referenced")),
        available_bytes=_number(raw.get("available")),
        snapshots_bytes=_number(raw.get("usedbysnapshots")),
        quota_bytes=_number(raw.get("refquota")) or _number(raw.get("quota")),
        reserved_bytes=_number(raw.get("refreservation")),
        volsize_bytes=_number(raw.get("volsize")),
        mountpoint=mountpoint if mountpoint.startswith("/") else None,
        origin=raw["origin"] if _set(raw.get("origin", "")) and raw["origin"] != "none" else "",
        locked=raw["keystatus"] == "unavailable" if _set(raw.get("keystatus", "")) else False,
        readonly=raw["readonly"] == "on" if "readonly" in raw else None,
        user_properties=_kept((k, v, Origin.UNKNOWN) for k, v in (entry.user_properties or {}).items()),
    )


# Most values repeat in every volume of a driver; one object serves them all.
@lru_cache(maxsize=256)
def _shared(value: str, origin: Origin) -> UserProperty:
    return UserProperty(value, origin)


def _kept(properties: Iterable[tuple[str, str, Origin]]) -> dict[str, UserProperty]:
    return {
        sys.intern(name): _shared(value, origin) if len(value) < 30 else UserProperty(value, origin)
        for name, value, origin in properties
        if _set(value) and is_kept(name)
    }


def snapshot(entry: SnapshotEntry, *, detailed: bool = False, tells_origin: bool = False) -> truenas.Snapshot:
    """A snapshot; `detailed` if all its properties were asked for."""
    dataset_, _, name = entry.id.partition("@")
    properties = entry.properties or {}
    clones = properties.get("clones")
    return truenas.Snapshot(
        dataset=dataset_,
        name=name,
        created_at=_creation(properties.get("creation")),
        used_bytes=_size(properties.get("used")),
        referenced_bytes=_size(properties.get("referenced")),
        createtxg=_number(str(entry.createtxg)) if entry.createtxg is not None else None,
        defer_destroy=_text(properties["defer_destroy"]).lower() == "on"
        if "defer_destroy" in properties
        else None,
        holds=tuple(sorted(entry.holds)) if entry.holds is not None else None,
        clones=tuple(filter(_set, _text(clones).split(","))) if clones is not None else None,
        user_properties=_snapshot_properties(entry, tells_origin) if detailed else None,
    )


def _snapshot_properties(entry: SnapshotEntry, tells_origin: bool) -> Mapping[str, UserProperty]:
    """Up to 25.10 they stand among the native ones, told apart by their colon."""
    found: dict[str, UserProperty] = {}
    for name, p in (entry.properties or {}).items():
        if ":" in name and _set(_text(p)):
            found[name] = UserProperty(_text(p), _origin(p.source) if tells_origin else Origin.UNKNOWN)
    for name, value in (entry.user_properties or {}).items():
        found.setdefault(name, _user_property(value, tells_origin))
    return found


def _user_property(value: Any, tells_origin: bool) -> UserProperty:
    """A plain string, or an object with `rawvalue`/`value`/`raw` and a source."""
    if not isinstance(value, Mapping):
        return UserProperty(str(value))
    text = value.get("rawvalue") or value.get("raw") or value.get("value") or ""
    source = value.get("source")
    name = source.get("type") if isinstance(source, Mapping) else source
    return UserProperty(str(text), _origin(name) if tells_origin else Origin.UNKNOWN)


def snapshot_resource(entry: SnapshotResource) -> truenas.Snapshot:
    """A snapshot of `zfs.resource.snapshot.query`, with all its user properties."""
    raw = {name: p.raw for name, p in (entry.properties or {}).items()}
    return truenas.Snapshot(
        dataset=entry.dataset,
        name=entry.snapshot_name,
        created_at=moment(raw.get("creation")),
        used_bytes=_number(raw.get("used")),
        referenced_bytes=_number(raw.get("referenced")),
        createtxg=entry.createtxg,
        defer_destroy=raw["defer_destroy"] == "on" if "defer_destroy" in raw else None,
        holds=tuple(sorted(entry.holds)) if entry.holds is not None else None,
        clones=tuple(filter(_set, raw["clones"].split(","))) if "clones" in raw else None,
        user_properties={k: _user_property(v, False) for k, v in (entry.user_properties or {}).items()},
    )


def nfs_share(entry: NfsEntry) -> truenas.NfsShare:
    """An NFS share."""
    return truenas.NfsShare(
        entry.id,
        entry.path,
        entry.enabled,
        entry.locked,
        entry.comment or "",
        tuple(entry.hosts),
        tuple(entry.networks),
    )


def smb_share(entry: SmbEntry) -> truenas.SmbShare:
    """An SMB share."""
    return truenas.SmbShare(
        entry.id, entry.name, entry.path, entry.enabled, entry.locked, entry.comment or ""
    )


def target(entry: TargetEntry) -> truenas.IscsiTarget:
    """An iSCSI target."""
    return truenas.IscsiTarget(entry.id, entry.name, entry.alias or "")


def extent(entry: ExtentEntry) -> truenas.IscsiExtent:
    """An iSCSI extent."""
    disk = dataset_of_device(entry.disk or entry.path or "") if entry.type == "DISK" else entry.path or ""
    return truenas.IscsiExtent(
        entry.id, entry.name, entry.type, disk, entry.enabled, entry.locked, entry.comment or ""
    )


def target_extent(entry: TargetExtentEntry) -> truenas.IscsiTargetExtent:
    """The link of a target to an extent."""
    return truenas.IscsiTargetExtent(entry.id, entry.target, entry.extent, entry.lunid)


def session(entry: SessionEntry) -> truenas.IscsiSession:
    """A live iSCSI session."""
    return truenas.IscsiSession(entry.initiator, entry.initiator_addr or "", entry.target)


def service(entry: ServiceEntry) -> truenas.Service:
    """A service."""
    return truenas.Service(entry.service, entry.enable, entry.state)


def alert(entry: AlertEntry) -> truenas.Alert:
    """An alert of the NAS."""
    text = entry.formatted or entry.text
    return truenas.Alert(
        entry.uuid, entry.klass, entry.level, text[:500], moment(entry.datetime), entry.dismissed
    )


def addresses(interfaces: Any) -> tuple[str, ...]:
    """The addresses of `interface.query`'s entries: configured, live, and shared between controllers."""
    found: dict[str, None] = {}
    for interface in interfaces if isinstance(interfaces, list) else ():
        aliases = [*(interface.get("aliases") or ()), *(interface.get("failover_virtual_aliases") or ())]
        aliases += (interface.get("state") or {}).get("aliases") or ()
        for alias in aliases:
            if isinstance(alias, dict) and alias.get("type") in ("INET", "INET6"):
                found[str(alias.get("address"))] = None
    return tuple(found)


def _text(value: _Property | None) -> str:
    if value is None:
        return ""
    text = value.rawvalue if value.rawvalue is not None else value.value
    return "" if text is None else str(text)


def _set(text: str) -> bool:
    """democratic-csi counts an absent, empty or `-` property as unset (`utils/zfs.js`)."""
    return text not in ("", "-")


def _origin(source: Any) -> Origin:
    try:
        return Origin(str(source).upper())
    except ValueError:
        return Origin.UNKNOWN


def _size(value: _Property | None) -> int | None:
    return _number(_text(value)) if value is not None else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _creation(value: _Property | None) -> datetime | None:
    return moment(_text(value)) if value is not None else None
