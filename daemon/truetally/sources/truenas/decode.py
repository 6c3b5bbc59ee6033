"""From TrueNAS's entries to values.

Numbers are taken from `rawvalue`, never from the `value` that is for people. The wire
structs declare only what is kept. What the facts we have do not tell is called inferred.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec

from truetally.csi.democratic_csi import dataset_of_device, is_kept
from truetally.model import truenas
from truetally.model.truenas import Origin, UserProperty
from truetally.sources.truenas.calls import members, moment

# 2^64 - 1 has twenty digits.
_LONGEST_NUMBER = 20


class _Property(msgspec.Struct):
    rawvalue: str | None = None
    value: Any = None
    source: str | None = None


class _Resource(msgspec.Struct):
    raw: str = ""
    source: Any = None


class _Errors(msgspec.Struct):
    read_errors: int | None = None
    write_errors: int | None = None
    checksum_errors: int | None = None


class _Vdev(msgspec.Struct):
    type: str | None = None
    name: str | None = None
    path: str | None = None
    guid: str | int | None = None
    status: str | None = None
    stats: _Errors | None = None
    children: list[_Vdev] = []
    disk: str | None = None
    device: str | None = None
    unavail_disk: Any = None


class _Scan(msgspec.Struct):
    function: str | None = None
    state: str | None = None
    start_time: Any = None
    end_time: Any = None
    percentage: float | None = None
    errors: int | None = None


class PoolEntry(msgspec.Struct):
    """An entry of `pool.query`."""

    name: str
    status: str = "UNKNOWN"
    healthy: bool = False
    size: int | None = None
    allocated: int | None = None
    free: int | None = None
    fragmentation: str | None = None
    status_detail: str | None = None
    scan: _Scan | None = None
    topology: dict[str, list[_Vdev] | None] | None = None


class PoolIdentity(msgspec.Struct):
    """What tells a pool from every other: ZFS's own number of it."""

    guid: str = ""


class DatasetEntry(msgspec.Struct):
    """An entry of `pool.dataset.query`."""

    id: str
    pool: str
    type: str
    locked: bool | None = None
    encrypted: bool | None = None
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
    logicalused: _Property | None = None
    volblocksize: _Property | None = None
    snapshots_changed: _Property | None = None


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


class NameEntry(msgspec.Struct):
    """An entry of a query that selects the name alone."""

    name: str


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


class _Listener(msgspec.Struct):
    ip: str
    port: int | None = None


class PortalEntry(msgspec.Struct):
    """An entry of `iscsi.portal.query`."""

    id: int
    listen: list[_Listener] = []
    tag: int | None = None
    comment: str | None = None


class InitiatorEntry(msgspec.Struct):
    """An entry of `iscsi.initiator.query`."""

    id: int
    initiators: list[str] = []
    comment: str | None = None


class _Group(msgspec.Struct):
    portal: int | None = None
    initiator: int | None = None


class TargetEntry(msgspec.Struct):
    """An entry of `iscsi.target.query`."""

    id: int
    name: str
    alias: str | None = None
    groups: list[_Group] = []


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


class SubsystemEntry(msgspec.Struct):
    """An entry of `nvmet.subsys.query`."""

    id: int
    name: str
    subnqn: str | None = None
    allow_any_host: bool = False
    hosts: list[int] | None = None
    ports: list[int] | None = None


class _Id(msgspec.Struct):
    id: int


class SubsystemLink(msgspec.Struct):
    """An entry of `nvmet.host_subsys.query` or `nvmet.port_subsys.query`."""

    subsys: _Id
    host: _Id | None = None
    port: _Id | None = None


class NamespaceEntry(msgspec.Struct):
    """An entry of `nvmet.namespace.query`."""

    id: int
    subsys: _Id
    nsid: int | None = None
    device_type: str = "ZVOL"
    device_path: str = ""
    enabled: bool = True
    locked: bool | None = None


class PortEntry(msgspec.Struct):
    """An entry of `nvmet.port.query`."""

    id: int
    addr_trtype: str = ""
    addr_traddr: str = ""
    addr_trsvcid: int | str | None = None
    enabled: bool = True


class HostEntry(msgspec.Struct):
    """An entry of `nvmet.host.query`; its secrets are not read."""

    id: int
    hostnqn: str


class NvmeSessionEntry(msgspec.Struct):
    """An entry of `nvmet.global.sessions`."""

    hostnqn: str
    subsys_id: int
    host_traddr: str | None = None
    port_id: int | None = None
    ctrl: int | None = None


class Nfs3Entry(msgspec.Struct):
    """An entry of `nfs.get_nfs3_clients`."""

    ip: str
    export: str = ""


class Nfs4Entry(msgspec.Struct):
    """An entry of `nfs.get_nfs4_clients`."""

    id: str | int
    info: dict[str, Any] = {}
    states: list[Any] = []


class SmbStatusEntry(msgspec.Struct):
    """An entry of `smb.status` at the level SHARES."""

    service: str = ""
    machine: str | None = None
    session_id: str | int | None = None


class _Schedule(msgspec.Struct):
    minute: str | int | None = None
    hour: str | int | None = None
    dom: str | int | None = None
    month: str | int | None = None
    dow: str | int | None = None


class SnapshotTaskEntry(msgspec.Struct):
    """An entry of `pool.snapshottask.query`."""

    id: int
    dataset: str
    recursive: bool = False
    enabled: bool = True
    naming_schema: str = ""
    schedule: _Schedule | None = None
    lifetime_value: int | None = None
    lifetime_unit: str | None = None
    exclude: list[str] = []
    state: Any = None


class ReplicationEntry(msgspec.Struct):
    """An entry of `replication.query`; its credentials and keys are not read."""

    id: int
    name: str
    direction: str
    transport: str = ""
    source_datasets: list[str] = []
    target_dataset: str = ""
    recursive: bool = False
    enabled: bool = True
    state: Any = None
    hold_pending_snapshots: bool | None = None


class ApiKeyEntry(msgspec.Struct):
    """An entry of `api_key.my_keys` or `api_key.query`; the key itself and its hashes are not read."""

    id: int
    name: str
    username: str | None = None
    expires_at: Any = None
    revoked: bool = False


class GraphEntry(msgspec.Struct):
    """An entry of `reporting.netdata_graphs`."""

    name: str
    vertical_label: str | None = None
    identifiers: list[str] | None = None


class GraphData(msgspec.Struct):
    """An entry of `reporting.netdata_get_data`: rows of a time and the values of the other columns."""

    name: str
    identifier: str | None = None
    data: Any = None
    legend: list[str] = []


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
        _number(fragmentation),
        entry.status_detail or "",
        _scan(entry.scan),
        tuple(_devices(entry.topology or {})),
    )


def _scan(entry: _Scan | None) -> truenas.Scan | None:
    """A pool that was never scrubbed has a scan of nothing but nulls."""
    if entry is None or not entry.function or not entry.state:
        return None
    return truenas.Scan(
        entry.function,
        entry.state,
        moment(entry.start_time),
        moment(entry.end_time),
        entry.percentage,
        entry.errors or 0,
    )


def _devices(topology: Mapping[str, Sequence[_Vdev] | None]) -> Iterator[truenas.Device]:
    for role, vdevs in topology.items():
        for vdev in vdevs or ():
            yield from _below(role, vdev)


def _below(role: str, vdev: _Vdev) -> Iterator[truenas.Device]:
    errors = vdev.stats or _Errors()
    yield truenas.Device(
        role,
        vdev.type or "",
        vdev.disk or vdev.device or vdev.name or (vdev.path or "").rpartition("/")[2] or str(vdev.guid or ""),
        vdev.status or "",
        errors.read_errors or 0,
        errors.write_errors or 0,
        errors.checksum_errors or 0,
    )
    for child in vdev.children:
        yield from _below(role, child)


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
        encrypted=entry.encrypted,
        logical_used_bytes=_size(entry.logicalused),
        volblocksize_bytes=_size(entry.volblocksize),
        snapshots_changed=_size(entry.snapshots_changed),
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
        encrypted=raw["encryption"] != "off" if _set(raw.get("encryption", "")) else None,
        logical_used_bytes=_number(raw.get("logicalused")),
        volblocksize_bytes=_number(raw.get("volblocksize")),
        snapshots_changed=_number(raw.get("snapshots_changed")),
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
        holds=_holds(entry),
        clones=tuple(filter(_set, _text(clones).split(","))) if clones is not None else None,
        user_properties=_snapshot_properties(entry, tells_origin) if detailed else None,
    )


def _holds(entry: SnapshotEntry) -> tuple[str, ...] | None:
    """The tags, or where only their number is told (ZFS's `userrefs`) a word for them."""
    if entry.holds:
        return tuple(sorted(entry.holds))
    if is_held(entry):
        return ("a hold",)
    told = entry.holds is not None or "userrefs" in (entry.properties or {})
    return () if told else None


def is_held(entry: SnapshotEntry) -> bool:
    """Whether a snapshot has holds, by their number."""
    return bool(_size((entry.properties or {}).get("userrefs")))


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


def portal(entry: PortalEntry) -> truenas.IscsiPortal:
    """An iSCSI portal; where no port is told it is the one for all of the NAS (3260 unless changed)."""
    listen = tuple(_address(each.ip, each.port) for each in entry.listen)
    return truenas.IscsiPortal(entry.id, entry.tag, listen, entry.comment or "")


def _address(ip: str, port: int | None) -> str:
    return f"[{ip}]:{port or 3260}" if ":" in ip else f"{ip}:{port or 3260}"


def initiator(entry: InitiatorEntry) -> truenas.IscsiInitiator:
    """A group of initiators."""
    return truenas.IscsiInitiator(entry.id, tuple(entry.initiators), entry.comment or "")


def target(entry: TargetEntry) -> truenas.IscsiTarget:
    """An iSCSI target."""
    portals = dict.fromkeys(each.portal for each in entry.groups if each.portal is not None)
    groups = dict.fromkeys(each.initiator for each in entry.groups if each.initiator is not None)
    return truenas.IscsiTarget(entry.id, entry.name, entry.alias or "", tuple(portals), tuple(groups))


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


def subsystem(entry: SubsystemEntry, links: Iterable[SubsystemLink] = ()) -> truenas.NvmeSubsystem:
    """An NVMe-oF subsystem; the links count where the entry itself does not tell its hosts and ports."""
    ours = [each for each in links if each.subsys.id == entry.id]
    hosts = entry.hosts if entry.hosts is not None else [each.host.id for each in ours if each.host]
    ports = entry.ports if entry.ports is not None else [each.port.id for each in ours if each.port]
    return truenas.NvmeSubsystem(
        entry.id,
        entry.name,
        entry.subnqn or "",
        entry.allow_any_host,
        tuple(sorted(ports)),
        tuple(sorted(hosts)),
    )


def namespace(entry: NamespaceEntry) -> truenas.NvmeNamespace:
    """An NVMe-oF namespace."""
    path = entry.device_path
    return truenas.NvmeNamespace(
        entry.id,
        entry.nsid,
        entry.subsys.id,
        entry.device_type,
        dataset_of_device(path) if entry.device_type == "ZVOL" else path,
        entry.enabled,
        entry.locked,
    )


def port(entry: PortEntry) -> truenas.NvmePort:
    """An NVMe-oF port."""
    service_ = "" if entry.addr_trsvcid is None else str(entry.addr_trsvcid)
    return truenas.NvmePort(entry.id, entry.addr_trtype, entry.addr_traddr, service_, entry.enabled)


def host(entry: HostEntry) -> truenas.NvmeHost:
    """An NVMe-oF host."""
    return truenas.NvmeHost(entry.id, entry.hostnqn)


def nvme_session(entry: NvmeSessionEntry) -> truenas.NvmeSession:
    """A live NVMe-oF connection."""
    return truenas.NvmeSession(
        entry.hostnqn, entry.host_traddr or "", entry.subsys_id, entry.port_id, entry.ctrl
    )


def nfs3_client(entry: Nfs3Entry) -> truenas.NfsClient:
    """A client that has mounted an export by NFS version 3."""
    return truenas.NfsClient(entry.ip, 3, entry.export)


def nfs4_client(entry: Nfs4Entry) -> truenas.NfsClient:
    """A client of NFS version 4 with the files that it has open.

    That a state may stand one level deeper, under its own id, is inferred.
    """
    states = [each for each in entry.states if isinstance(each, Mapping)]
    states += [inner for each in states for inner in each.values() if isinstance(inner, Mapping)]
    files = dict.fromkeys(str(each["filename"]) for each in states if each.get("filename"))
    return truenas.NfsClient(_host(str(entry.info.get("address") or "")), 4, files=tuple(files))


def _host(address: str) -> str:
    """The address without its port."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address


def smb_client(entry: SmbStatusEntry) -> truenas.SmbClient:
    """A client that is connected to an SMB share."""
    session_ = "" if entry.session_id is None else str(entry.session_id)
    return truenas.SmbClient(entry.machine or "", entry.service, session_)


def snapshot_task(entry: SnapshotTaskEntry) -> truenas.SnapshotTask:
    """A periodic snapshot task."""
    lifetime = f"{entry.lifetime_value} {entry.lifetime_unit}" if entry.lifetime_value else ""
    return truenas.SnapshotTask(
        entry.id,
        entry.dataset,
        entry.recursive,
        entry.enabled,
        entry.naming_schema,
        _cron(entry.schedule),
        lifetime,
        tuple(entry.exclude),
        _state(entry.state),
    )


def _cron(schedule: _Schedule | None) -> str:
    if schedule is None:
        return ""
    fields = (schedule.minute, schedule.hour, schedule.dom, schedule.month, schedule.dow)
    return " ".join("*" if each is None or each == "" else str(each) for each in fields)


def _state(state: Any) -> str:
    """A task's state comes as an object that also tells the last snapshot or error."""
    found = state.get("state") if isinstance(state, Mapping) else state
    return str(found or "")


def replication_task(entry: ReplicationEntry) -> truenas.ReplicationTask:
    """A replication task."""
    return truenas.ReplicationTask(
        entry.id,
        entry.name,
        entry.direction,
        tuple(entry.source_datasets),
        entry.target_dataset,
        entry.recursive,
        entry.enabled,
        entry.transport,
        _state(entry.state),
        entry.hold_pending_snapshots,
    )


def api_key(entry: ApiKeyEntry) -> truenas.ApiKey:
    """An API key."""
    return truenas.ApiKey(entry.id, entry.name, entry.username or "", moment(entry.expires_at), entry.revoked)


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
    for interface in filter(_is_object, interfaces if isinstance(interfaces, list) else ()):
        aliases = [interface.get("aliases"), interface.get("failover_virtual_aliases")]
        aliases.append(_object(interface, "state").get("aliases"))
        for alias in (each for some in aliases if isinstance(some, list) for each in some):
            if _is_object(alias) and alias.get("type") in ("INET", "INET6"):
                found[str(alias.get("address"))] = None
    return tuple(found)


def _is_object(value: Any) -> bool:
    return isinstance(value, Mapping)


def roles(me: Any) -> tuple[str, ...] | None:
    """The roles in the answer of `auth.me`; None where it tells none."""
    privilege = me.get("privilege") if isinstance(me, Mapping) else None
    if not isinstance(privilege, Mapping) or "roles" not in privilege:
        return None
    return tuple(sorted(str(each) for each in members(privilege["roles"])))


def update(status: Any) -> str:
    """`update.status` (25.10+) in a word: ERROR, AVAILABLE if there is a newer version, else NORMAL."""
    if not isinstance(status, Mapping):
        return ""
    inner = status.get("status")
    available = isinstance(inner, Mapping) and inner.get("new_version")
    code = str(status.get("code") or "")
    return "AVAILABLE" if available and code == "NORMAL" else code


# Performance


def performance(fields: Any) -> truenas.Performance:
    """What an event of `reporting.realtime` tells; what its version leaves out stays unknown.

    The disks come as one sum, under `disks` or (25.10's own schema) `disls`, or disk by disk. Up to 24.10
    the ARC's hits are one ratio, from 25.04 counters per second; that a ratio up to 1 is a part of one and
    not of a hundred is inferred.
    """
    if not isinstance(fields, Mapping):
        return truenas.Performance()
    zfs, memory = _object(fields, "zfs"), _object(fields, "memory")
    disks = _object(fields, "disks") or _object(fields, "disls")
    available = _figure(memory, "physical_memory_available")
    if available is None:
        available = _figure(_object(fields, "virtual_memory"), "available")
    size = _figure(memory, "arc_size")
    return truenas.Performance(
        disks=_disk_loads(disks),
        arc_size_bytes=_whole_number(size if size is not None else _figure(zfs, "arc_size")),
        arc_hit_percent=_arc_hits(zfs),
        memory_available_bytes=_whole_number(available),
        pools_used_bytes={
            str(name): int(used)
            for name, each in _object(fields, "pools").items()
            if isinstance(each, Mapping) and (used := _figure(each, "used")) is not None
        },
    )


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = fields.get(name)
    return found if isinstance(found, Mapping) else {}


def _figure(fields: Mapping[str, Any], name: str) -> float | None:
    found = fields.get(name)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def _whole_number(figure: float | None) -> int | None:
    return int(figure) if figure is not None else None


def _disk_loads(disks: Mapping[str, Any]) -> dict[str, truenas.DiskLoad]:
    single = {str(name): each for name, each in disks.items() if isinstance(each, Mapping)}
    if not single and disks:
        single = {"": disks}
    return {name: _disk_load(each) for name, each in single.items()}


def _disk_load(each: Mapping[str, Any]) -> truenas.DiskLoad:
    names = ("read_bytes", "write_bytes", "read_ops", "write_ops", "busy")
    return truenas.DiskLoad(*(float(_figure(each, name) or 0.0) for name in names))


def _arc_hits(zfs: Mapping[str, Any]) -> float | None:
    accesses = _figure(zfs, "demand_accesses_per_second")
    if accesses:
        kinds = ("data_hits", "data_io_hits", "metadata_hits", "metadata_io_hits")
        hits = sum(_figure(zfs, f"demand_{kind}_per_second") or 0 for kind in kinds)
        return min(100.0, 100.0 * hits / accesses)
    ratio = _figure(zfs, "cache_hit_ratio")
    return (100.0 * ratio if ratio <= 1 else float(ratio)) if ratio is not None else None


# What `vertical_label` calls a unit of size, by its beginning.
_UNITS = {"bytes": 1, "kibibytes": 1 << 10, "mebibytes": 1 << 20, "gibibytes": 1 << 30}


def netdata(graphs: Iterable[GraphEntry], answers: Iterable[GraphData]) -> truenas.Performance:
    """The latest sample of the graphs `disk`, `arcsize` and `memory`.

    Which columns they have is inferred: `reads` and `writes`, `available`, and one other than the time. A
    graph whose unit is not one of bytes is left out.
    """
    units = {graph.name: _unit(graph.vertical_label) for graph in graphs}
    disks: dict[str, truenas.DiskLoad] = {}
    arc = memory = None
    for answer in answers:
        unit, latest = units.get(answer.name), _latest(answer)
        if unit is None or not latest:
            continue
        if answer.name == "disk":
            read, written = latest.get("reads", 0.0), latest.get("writes", 0.0)
            disks[answer.identifier or ""] = truenas.DiskLoad(read * unit, abs(written) * unit)
        elif answer.name == "arcsize":
            arc = int(next(iter(latest.values())) * unit)
        elif answer.name == "memory" and "available" in latest:
            memory = int(latest["available"] * unit)
    return truenas.Performance(disks=disks, arc_size_bytes=arc, memory_available_bytes=memory)


def _unit(label: str | None) -> int | None:
    words = (label or "").lower()
    return next((size for name, size in _UNITS.items() if words.startswith(name)), None)


def _latest(answer: GraphData) -> dict[str, float]:
    """The columns of the last row that has figures; a row of nothing but nulls is still being measured."""
    for row in reversed(answer.data if isinstance(answer.data, list) else []):
        if not isinstance(row, list):
            continue
        named = zip(answer.legend, row, strict=False)
        found = {n: float(v) for n, v in named if n != "time" and isinstance(v, int | float)}
        if found:
            return found
    return {}


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
    """A number; what is longer than any that ZFS can have is none."""
    return int(text) if text is not None and text.isdecimal() and len(text) <= _LONGEST_NUMBER else None


def _creation(value: _Property | None) -> datetime | None:
    return moment(_text(value)) if value is not None else None
