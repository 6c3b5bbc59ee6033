"""What is asked of a NAS, kind by kind: in full, object by object, and who uses a dataset.

Long lists come in pages, as few as the NAS allows: it builds the whole list for each of them
(`utils/filter_list.py`). A page begins after the last id of the one before, not at an offset:
what is deleted in between would shift the rest, and an object that exists would be missed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from truetally.csi.democratic_csi import dataset_of_device, dataset_of_mount
from truetally.errors import AccessDenied, SourceUnavailable
from truetally.model import truenas
from truetally.model.observations import Value
from truetally.model.refs import Kind
from truetally.sources.truenas import decode
from truetally.sources.truenas.generations import Engine
from truetally.sources.truenas.jsonrpc import CallFailed, Fault
from truetally.sources.truenas.session import Session

Named = tuple[str, Value]
Page = list[Named]

# 25.10 and newer refuse a limit above 10,000.
_PAGE = 10_000
_RESOURCE_PROPERTIES = [
    *("used", "available", "referenced", "usedbysnapshots"),
    *("quota", "refquota", "refreservation", "volsize"),
    *("creation", "origin", "readonly", "mountpoint", "keystatus"),
]
_DATASET_FIELDS = [*decode.DatasetEntry.__struct_fields__]
_DATASET_PROPERTIES = [*_RESOURCE_PROPERTIES, "encryption"]


async def _whole(
    session: Session,
    role: str,
    method: str,
    entry: type,
    value: Callable[[Any], Value],
    name: Callable[[Any], str],
) -> AsyncIterator[Page]:
    """A kind that is small enough for one answer, or that the method cannot page."""
    entries = await session.permitted(role, method, [], {}, type_=list[entry])  # type: ignore[valid-type]
    for at in range(0, len(entries), _PAGE):
        yield [(name(each), value(each)) for each in entries[at : at + _PAGE]]


async def pools(session: Session) -> AsyncIterator[Page]:
    """All pools."""
    async for page in _whole(
        session, "POOL_READ", "pool.query", decode.PoolEntry, decode.pool, lambda e: e.name
    ):
        yield page


async def datasets(session: Session) -> AsyncIterator[Page]:
    """All datasets and zvols, by the engine that costs this NAS least."""
    if session.generation.datasets is Engine.ZFS_RESOURCE:
        try:
            async for page in _resources(session):
                yield page
        except AccessDenied:
            pass  # a role with DATASET_READ alone has the older way
        else:
            return
    async for page in _pool_datasets(session, ()):
        yield page


async def _resources(session: Session) -> AsyncIterator[Page]:
    found = await session.permitted("POOL_READ", "pool.query", [], {}, type_=list[decode.PoolEntry])
    for pool in found:
        if pool.status not in ("ONLINE", "DEGRADED"):
            continue
        entries = await _resource_entries(session, [pool.name], children=True)
        for at in range(0, len(entries), _PAGE):
            yield [(e.name, decode.resource(e)) for e in entries[at : at + _PAGE]]


async def _resource_entries(
    session: Session, paths: Sequence[str], *, children: bool
) -> list[decode.ResourceEntry]:
    query = {
        "paths": list(paths),
        "properties": _RESOURCE_PROPERTIES,
        "get_user_properties": True,
        "get_children": children,
    }
    found: list[decode.ResourceEntry] = await session.permitted(
        "ZFS_RESOURCE_READ", "zfs.resource.query", query, type_=list[decode.ResourceEntry]
    )
    return found


async def _pool_datasets(session: Session, filters: Sequence[Any]) -> AsyncIterator[Page]:
    """Flat, and without the subtree that every ancestor otherwise repeats.

    Up to 25.04 `retrieve_children: false` searches the pools' roots only, so there the subtrees are left out
    by `select`; on 25.10 and newer it is what makes the walk flat.
    """
    extra: dict[str, Any] = {"properties": _DATASET_PROPERTIES}
    options: dict[str, Any] = {"extra": extra, "order_by": ["id"], "limit": _PAGE}
    if session.generation.datasets is Engine.POOL_DATASET:
        options["select"] = _DATASET_FIELDS
    else:
        extra["retrieve_children"] = False
    tells = session.generation.tells_origin
    async for entries in _pages(
        session, "DATASET_READ", "pool.dataset.query", filters, options, decode.DatasetEntry
    ):
        yield [(e.id, decode.dataset(e, tells_origin=tells)) for e in entries]


async def _pages(
    session: Session, role: str, method: str, filters: Sequence[Any], options: Mapping[str, Any], entry: type
) -> AsyncIterator[list[Any]]:
    last = ""
    while True:
        after = [*filters, ["id", ">", last]] if last or not filters else filters
        entries = await session.permitted(role, method, after, options, type_=list[entry])  # type: ignore[valid-type]
        yield entries
        if len(entries) < _PAGE:
            return
        last = entries[-1].id


async def snapshots(session: Session) -> AsyncIterator[Page]:
    """All snapshots, with few properties: their full list is what brings a NAS to its knees."""
    options = {
        "extra": {"properties": list(session.generation.snapshot_properties)},
        "order_by": ["id"],
        "limit": _PAGE,
    }
    async for entries in _pages(
        session, "SNAPSHOT_READ", session.generation.snapshots, (), options, decode.SnapshotEntry
    ):
        yield [(e.id, decode.snapshot(e)) for e in entries]


async def system(session: Session, name: str) -> AsyncIterator[Page]:
    """The NAS itself; what our role may not read stays empty."""
    version = str(await session.call("system.version"))
    hostname, basename = "", ""
    if isinstance(info := await _optional(session, "system.info"), Mapping):
        hostname = str(info.get("hostname") or "")
    found = decode.addresses(await _optional(session, "interface.query", [], {}))
    if isinstance(config := await _optional(session, "iscsi.global.config"), Mapping):
        basename = str(config.get("basename") or "")
    yield [(name, truenas.System(version, hostname, found, basename))]


async def _optional(session: Session, method: str, *params: Any) -> Any:
    try:
        return await session.call(method, *params)
    except CallFailed as error:
        if error.fault in (Fault.NOT_PERMITTED, Fault.NO_METHOD):
            return None
        raise


def listing(kind: Kind, session: Session, nas: str) -> AsyncIterator[Page]:
    """The full list of a kind, page by page."""
    if kind is Kind.SYSTEM:
        return system(session, nas)
    if kind in _PAGED:
        return _PAGED[kind](session)
    role, method, entry, value, name = _WHOLE[kind]
    return _whole(session, role, method, entry, value, name)


def _id(entry: Any) -> str:
    return str(entry.id)


_PAGED: Mapping[Kind, Callable[[Session], AsyncIterator[Page]]] = {
    Kind.POOL: pools,
    Kind.DATASET: datasets,
    Kind.SNAPSHOT: snapshots,
}

_WHOLE: Mapping[Kind, tuple[str, str, type, Callable[[Any], Value], Callable[[Any], str]]] = {
    Kind.NFS_SHARE: ("SHARING_NFS_READ", "sharing.nfs.query", decode.NfsEntry, decode.nfs_share, _id),
    Kind.SMB_SHARE: ("SHARING_SMB_READ", "sharing.smb.query", decode.SmbEntry, decode.smb_share, _id),
    Kind.ISCSI_TARGET: (
        "SHARING_ISCSI_TARGET_READ",
        "iscsi.target.query",
        decode.TargetEntry,
        decode.target,
        _id,
    ),
    Kind.ISCSI_EXTENT: (
        "SHARING_ISCSI_EXTENT_READ",
        "iscsi.extent.query",
        decode.ExtentEntry,
        decode.extent,
        _id,
    ),
    Kind.ISCSI_TARGET_EXTENT: (
        "SHARING_ISCSI_TARGETEXTENT_READ",
        "iscsi.targetextent.query",
        decode.TargetExtentEntry,
        decode.target_extent,
        _id,
    ),
    Kind.ISCSI_SESSION: (
        "SHARING_ISCSI_GLOBAL_READ",
        "iscsi.global.sessions",
        decode.SessionEntry,
        decode.session,
        lambda e: f"{e.initiator}>{e.target}",
    ),
    Kind.SERVICE: ("SERVICE_READ", "service.query", decode.ServiceEntry, decode.service, lambda e: e.service),
}


async def alerts(session: Session) -> AsyncIterator[Page]:
    """The alerts; this method takes no filters."""
    entries = await session.permitted("ALERT_LIST_READ", "alert.list", type_=list[decode.AlertEntry])
    yield [(e.uuid, decode.alert(e)) for e in entries]


# One object


async def read(kind: Kind, name: str, session: Session, nas: str) -> Value | None:
    """One object as it is now; None if the NAS says that it does not exist.

    Raises:
        AccessDenied, SourceUnavailable: it cannot be told.
    """
    match kind:
        case Kind.DATASET:
            return await _read_dataset(session, name)
        case Kind.SNAPSHOT:
            return await _read_snapshot(session, name)
        case Kind.DATASET_USE:
            return await use(session, name)
        case Kind.POOL:
            return await _found(
                session, "POOL_READ", "pool.query", [["name", "=", name]], decode.PoolEntry, decode.pool
            )
        case Kind.ALERT | Kind.SERVICE | Kind.SYSTEM | Kind.ISCSI_SESSION:
            async for page in alerts(session) if kind is Kind.ALERT else listing(kind, session, nas):
                for each, value in page:
                    if each == name:
                        return value
            return None
        case _:
            role, method, entry, decoded, _ = _WHOLE[kind]
            return await _found(session, role, method, [["id", "=", int(name)]], entry, decoded)


async def _found(
    session: Session,
    role: str,
    method: str,
    filters: Sequence[Any],
    entry: type,
    value: Callable[[Any], Value],
) -> Value | None:
    entries = await session.permitted(role, method, filters, {}, type_=list[entry])  # type: ignore[valid-type]
    return value(entries[0]) if entries else None


async def _read_dataset(session: Session, path: str) -> Value | None:
    if session.generation.datasets is Engine.ZFS_RESOURCE:
        try:
            entries = await _resource_entries(session, [path], children=False)
        except AccessDenied:
            pass
        except SourceUnavailable as error:
            # A path that does not exist is a validation error here, not an empty list.
            if not isinstance(error.__cause__, CallFailed) or error.__cause__.fault is not Fault.NOT_FOUND:
                raise
            return None
        else:
            return decode.resource(entries[0]) if entries else None
    async for page in _pool_datasets(session, [["id", "=", path]]):
        for _, value in page:
            return value
    return None


async def _read_snapshot(session: Session, path: str) -> Value | None:
    if session.generation.snapshot_detail == "zfs.resource.snapshot.query":
        query = {
            "paths": [path],
            "properties": list(session.generation.snapshot_properties),
            "get_user_properties": True,
            "get_holds": True,
        }
        try:
            resources = await session.permitted(
                "SNAPSHOT_READ",
                session.generation.snapshot_detail,
                query,
                type_=list[decode.SnapshotResource],
            )
        except SourceUnavailable as error:
            if not isinstance(error.__cause__, CallFailed) or error.__cause__.fault is not Fault.NOT_FOUND:
                raise
            return None
        return decode.snapshot_resource(resources[0]) if resources else None
    entries = await session.permitted(
        "SNAPSHOT_READ",
        session.generation.snapshot_detail,
        [["id", "=", path]],
        {"extra": {"holds": True}},
        type_=list[decode.SnapshotEntry],
    )
    tells = session.generation.tells_origin
    return decode.snapshot(entries[0], detailed=True, tells_origin=tells) if entries else None


# Who uses a dataset


async def use(session: Session, path: str) -> truenas.DatasetUse:
    """Everything that uses a dataset right now; what cannot be read is named, with the role to grant."""
    unknown: list[str] = []

    async def ask(what: str, reading: Callable[[], Awaitable[list[str]]]) -> tuple[str, ...]:
        try:
            return tuple(await reading())
        except AccessDenied as error:
            unknown.append(f"{what}: {error.grant}")
        except CallFailed as error:
            unknown.append(f"{what}: {error.reason}")
        except SourceUnavailable as error:
            # An answer that is an error leaves one thing unknown; no answer at all ends the reading.
            if not isinstance(error.__cause__, CallFailed):
                raise
            unknown.append(f"{what}: {error.reason}")
        return ()

    return truenas.DatasetUse(
        attachments=await ask("attachments", lambda: _attachments(session, path)),
        processes=await ask("processes", lambda: _processes(session, path)),
        clients=await ask("NFS and SMB clients", lambda: _clients(session, path)),
        sessions=await ask("iSCSI sessions", lambda: _sessions(session, path)),
        jobs=await ask("jobs", lambda: _jobs(session, path)),
        unknown=tuple(unknown),
    )


async def _attachments(session: Session, path: str) -> list[str]:
    found = await session.permitted("DATASET_READ", "pool.dataset.attachments", path)
    return [f"{each.get('type')}: {name}" for each in found for name in each.get("attachments") or ()]


async def _processes(session: Session, path: str) -> list[str]:
    found = await session.permitted("DATASET_READ", "pool.dataset.processes", path)
    return [str(each.get("service") or each.get("name")) for each in found]


async def _clients(session: Session, path: str) -> list[str]:
    """Who may be a client of a path. Only NFS version 3 tells the export of a client.

    A version 4 client counts unless all its open files lie elsewhere; without any share on the path
    nobody can be a client of it.
    """
    nfs = await session.permitted(
        "SHARING_NFS_READ", "sharing.nfs.query", [], {}, type_=list[decode.NfsEntry]
    )
    smb = await session.permitted(
        "SHARING_SMB_READ", "sharing.smb.query", [], {}, type_=list[decode.SmbEntry]
    )
    clients: list[str] = []
    if any(_covers(share.path, path) for share in nfs if share.enabled):
        clients += await _nfs_clients(session, path)
    names = {share.name.lower() for share in smb if share.enabled and _covers(share.path, path)}
    if names:
        clients += await _smb_clients(session, names)
    return clients


def _covers(share: str, path: str) -> bool:
    """Whether a share exports a dataset's mountpoint, one above it, or a directory inside it."""
    shared = dataset_of_mount(share)
    return shared == path or path.startswith(shared + "/") or shared.startswith(path + "/")


async def _nfs_clients(session: Session, path: str) -> list[str]:
    if await session.permitted("SHARING_NFS_READ", "nfs.client_count") == 0:
        return []
    three = await session.permitted("SHARING_NFS_WRITE", "nfs.get_nfs3_clients", [], {})
    four = await session.permitted("SHARING_NFS_WRITE", "nfs.get_nfs4_clients", [], {})
    found = [str(each.get("ip")) for each in three if _covers(str(each.get("export")), path)]
    return found + [str(each.get("id")) for each in four if _may_use(each, path)]


def _may_use(client: Mapping[str, Any], path: str) -> bool:
    """Whether an NFSv4 client may be using a path: it may, unless all its open files are elsewhere."""
    named = [
        str(state.get("filename") or "") for state in client.get("states") or () if isinstance(state, Mapping)
    ]
    if not named or not all(named):
        return True
    return any(not name.startswith("/mnt/") or _covers(name, path) for name in named)


async def _smb_clients(session: Session, names: set[str]) -> list[str]:
    """Who is connected to these SMB shares; 25.10 does not tell (`smb.status` is private there)."""
    try:
        shares = await session.call("smb.status", "SHARES", [], {})
    except CallFailed as error:
        if error.fault is Fault.NO_METHOD:
            raise CallFailed(error.fault, "this TrueNAS version does not tell its SMB clients") from error
        if error.fault is Fault.NOT_PERMITTED:
            # 26 lets readers ask; before, it took the right to change shares.
            role = "SHARING_SMB_READ" if session.generation.name == "26" else "SHARING_SMB_WRITE"
            raise CallFailed(error.fault, f"the role {role} is needed to read SMB clients") from error
        raise
    return [
        str(each.get("machine") or each.get("session_id") or "somebody")
        for each in shares
        if str(each.get("service", "")).lower() in names
    ]


async def _sessions(session: Session, path: str) -> list[str]:
    extents = await session.permitted(
        "SHARING_ISCSI_EXTENT_READ", "iscsi.extent.query", [], {}, type_=list[decode.ExtentEntry]
    )
    ours = {e.id for e in extents if e.type == "DISK" and dataset_of_device(e.disk or e.path or "") == path}
    if not ours:
        return []
    links = await session.permitted(
        "SHARING_ISCSI_TARGETEXTENT_READ",
        "iscsi.targetextent.query",
        [],
        {},
        type_=list[decode.TargetExtentEntry],
    )
    targets = await session.permitted(
        "SHARING_ISCSI_TARGET_READ", "iscsi.target.query", [], {}, type_=list[decode.TargetEntry]
    )
    linked = {link.target for link in links if link.extent in ours}
    names = {t.name.lower() for t in targets if t.id in linked}
    sessions = await session.permitted(
        "SHARING_ISCSI_GLOBAL_READ", "iscsi.global.sessions", [], {}, type_=list[decode.SessionEntry]
    )
    return [s.initiator for s in sessions if s.target.partition(":")[2].lower() in names]


class _Job(msgspec.Struct):
    method: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"null")


async def _jobs(session: Session, path: str) -> list[str]:
    """Running jobs that name the path; a role below FULL_ADMIN sees only its own (25.04+)."""
    running = [["state", "in", ["RUNNING", "WAITING"]]]
    jobs = await session.call("core.get_jobs", running, {}, type_=list[_Job])
    return [job.method for job in jobs if path.encode() in bytes(job.arguments)]
