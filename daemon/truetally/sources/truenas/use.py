"""Who uses a dataset right now; read before something is said of it, never kept for long.

Whatever cannot be read is named, with what to grant, and leaves the use unknown.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec

from truetally.csi.democratic_csi import dataset_of_device, dataset_of_mount, targets_of_iqn
from truetally.errors import AccessDenied, SourceUnavailable
from truetally.model import truenas
from truetally.sources.truenas import decode
from truetally.sources.truenas.calls import CallFailed, Fault
from truetally.sources.truenas.session import Session

# Up to so many snapshots are asked for their holds one by one.
_SINGLY = 20


class Lists:
    """The lists that say who uses what, each asked for once; good for one reading of several datasets."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._asked: dict[str, asyncio.Task[Any]] = {}

    async def read(self, role: str, method: str, type_: Any, *params: Any) -> Any:
        """The answer of a method, whoever asks first.

        Raises:
            AccessDenied, SourceUnavailable: as `Session.permitted()`.
        """
        if method not in self._asked:
            asking = self.session.permitted(role, method, *(params or ([], {})), type_=type_)
            self._asked[method] = asyncio.ensure_future(asking)
        return await self._asked[method]


async def use(lists: Lists, path: str) -> truenas.DatasetUse:
    """Everything that uses a dataset right now; what cannot be read is named, with the role to grant."""
    unknown: list[str] = []

    async def ask(what: str, reading: Callable[[], Awaitable[list[str]]]) -> tuple[str, ...]:
        try:
            return tuple(await reading())
        except AccessDenied as error:
            unknown.append(f"{what}: {error.grant}")
        except CallFailed as error:
            unknown.append(f"{what}: {error.reason}")
        except (AttributeError, TypeError, ValueError):
            unknown.append(f"{what}: the answer of the NAS cannot be understood")
        except SourceUnavailable as error:
            # An answer that is an error leaves one thing unknown; no answer at all ends the reading.
            if not isinstance(error.__cause__, CallFailed):
                raise
            unknown.append(f"{what}: {error.reason}")
        return ()

    session = lists.session
    return truenas.DatasetUse(
        attachments=await ask("attachments", lambda: _attachments(session, path)),
        processes=await ask("processes", lambda: _processes(session, path)),
        clients=await ask("NFS and SMB clients", lambda: _clients(lists, path)),
        sessions=(
            *await ask("iSCSI sessions", lambda: _sessions(lists, path)),
            *await ask("NVMe-oF sessions", lambda: _nvme_sessions(lists, path)),
        ),
        jobs=await ask("jobs", lambda: _jobs(session, path)),
        holds=await ask("holds", lambda: _holds(session, path)),
        unknown=tuple(unknown),
    )


async def _attachments(session: Session, path: str) -> list[str]:
    found = await session.permitted("DATASET_READ", "pool.dataset.attachments", path)
    return [f"{each.get('type')}: {name}" for each in found for name in each.get("attachments") or ()]


async def _processes(session: Session, path: str) -> list[str]:
    found = await session.permitted("DATASET_READ", "pool.dataset.processes", path)
    return [str(each.get("service") or each.get("name")) for each in found]


async def _clients(lists: Lists, path: str) -> list[str]:
    """Who may be a client of a path. Only NFS version 3 tells the export of a client.

    A version 4 client counts unless all its open files lie elsewhere; without any share on the path
    nobody can be a client of it.
    """
    nfs = await lists.read("SHARING_NFS_READ", "sharing.nfs.query", list[decode.NfsEntry])
    smb = await lists.read("SHARING_SMB_READ", "sharing.smb.query", list[decode.SmbEntry])
    clients: list[str] = []
    if any(_covers(share.path, path) for share in nfs if share.enabled):
        clients += await _nfs_clients(lists, path)
    names = {share.name.lower() for share in smb if share.enabled and _covers(share.path, path)}
    if names:
        clients += await _smb_clients(lists.session, names)
    return clients


def _covers(share: str, path: str) -> bool:
    """Whether a share exports a dataset's mountpoint, one above it, or a directory inside it."""
    shared = dataset_of_mount(share)
    return shared == path or path.startswith(shared + "/") or shared.startswith(path + "/")


async def _nfs_clients(lists: Lists, path: str) -> list[str]:
    if await lists.session.permitted("SHARING_NFS_READ", "nfs.client_count") == 0:
        return []
    three = await lists.read("SHARING_NFS_WRITE", "nfs.get_nfs3_clients", Any)
    four = await lists.read("SHARING_NFS_WRITE", "nfs.get_nfs4_clients", Any)
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
            role = "SHARING_SMB_READ" if session.generation.since >= (26, 0) else "SHARING_SMB_WRITE"
            raise CallFailed(error.fault, f"the role {role} is needed to read SMB clients") from error
        raise
    return [
        str(each.get("machine") or each.get("session_id") or "somebody")
        for each in shares
        if str(each.get("service", "")).lower() in names
    ]


async def _sessions(lists: Lists, path: str) -> list[str]:
    extents = await lists.read("SHARING_ISCSI_EXTENT_READ", "iscsi.extent.query", list[decode.ExtentEntry])
    ours = {e.id for e in extents if e.type == "DISK" and dataset_of_device(e.disk or e.path or "") == path}
    if not ours:
        return []
    links = await lists.read(
        "SHARING_ISCSI_TARGETEXTENT_READ", "iscsi.targetextent.query", list[decode.TargetExtentEntry]
    )
    targets = await lists.read("SHARING_ISCSI_TARGET_READ", "iscsi.target.query", list[decode.TargetEntry])
    linked = {link.target for link in links if link.extent in ours}
    names = {t.name.lower() for t in targets if t.id in linked}
    sessions = await lists.read(
        "SHARING_ISCSI_GLOBAL_READ", "iscsi.global.sessions", list[decode.SessionEntry]
    )
    return [s.initiator for s in sessions if not names.isdisjoint(targets_of_iqn(s.target))]


async def _nvme_sessions(lists: Lists, path: str) -> list[str]:
    """Hosts that are connected to a subsystem with a namespace on the zvol (25.10+)."""
    if lists.session.generation.since < (25, 10):
        return []
    role = "SHARING_NVME_TARGET_READ"
    entries = await lists.read(role, "nvmet.namespace.query", list[decode.NamespaceEntry])
    namespaces = [decode.namespace(each) for each in entries]
    ours = {each.subsystem for each in namespaces if each.type == "ZVOL" and each.device == path}
    if not ours:
        return []
    sessions = await lists.read(role, "nvmet.global.sessions", list[decode.NvmeSessionEntry])
    return [each.hostnqn for each in sessions if each.subsys_id in ours]


async def _holds(session: Session, path: str) -> list[str]:
    """The holds on the dataset's snapshots. Up to 25.10 holds are cheap to read snapshot by snapshot only;
    of many snapshots their number of holds is read, which takes a walk."""
    if session.generation.since >= (26, 0):
        query = {"paths": [path], "properties": None, "get_holds": True}
        try:
            found = await session.permitted(
                "SNAPSHOT_READ", "zfs.resource.snapshot.query", query, type_=list[decode.SnapshotResource]
            )
        except SourceUnavailable as error:
            # Where no dataset is, no snapshot is held; what exported it may be asked about all the same.
            if isinstance(error.__cause__, CallFailed) and error.__cause__.fault is Fault.NOT_FOUND:
                return []
            raise
        return [f"{tag} on {each.name}" for each in found for tag in each.holds or ()]
    asked = ("SNAPSHOT_READ", session.generation.snapshots)
    filters = [["dataset", "=", path]]
    names = await session.permitted(*asked, filters, {"select": ["name"]}, type_=list[decode.NameEntry])
    if len(names) > _SINGLY:
        options = {"extra": {"properties": ["userrefs"]}}
        entries = await session.permitted(*asked, filters, options, type_=list[decode.SnapshotEntry])
        return [f"a hold on {each.id}" for each in entries if decode.is_held(each)]
    holds = []
    tags = {"extra": {"holds": True, "properties": ["userrefs"]}}
    for name in names:
        entries = await session.permitted(
            *asked, [["id", "=", name.name]], tags, type_=list[decode.SnapshotEntry]
        )
        holds += [f"{tag} on {each.id}" for each in entries for tag in each.holds or ()]
    return holds


# A task's job names its number and not what it reads.
_OF_TASKS = ("replication.", "pool.snapshottask.", "cloudsync.", "cloud_backup.", "rsynctask.")
_DEVICE = re.compile(r"^(/mnt/|/dev/zvol/|zvol/)")


class _Job(msgspec.Struct):
    method: str = ""
    arguments: msgspec.Raw = msgspec.Raw(b"null")


async def _jobs(session: Session, path: str) -> list[str]:
    """Running jobs that name the path, what is in it or what it is in, and those of tasks, which name none.

    A role below FULL_ADMIN sees only its own jobs (25.04+).
    """
    running = [["state", "in", ["RUNNING", "WAITING"]]]
    jobs = await session.call("core.get_jobs", running, {}, type_=list[_Job])
    return [job.method for job in jobs if _concerns(job, path)]


def _concerns(job: _Job, path: str) -> bool:
    named = [_DEVICE.sub("", text) for text in _texts(msgspec.json.decode(job.arguments))]
    # A pool is named by scrubs and imports, which concern no dataset of it alone.
    datasets = [text.rstrip("/") for text in named if "/" in text]
    if any(d == path or path.startswith(d + "/") or d.startswith((path + "/", path + "@")) for d in datasets):
        return True
    return not datasets and job.method.startswith(_OF_TASKS)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
