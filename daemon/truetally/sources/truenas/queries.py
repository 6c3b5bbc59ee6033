"""By which query each kind of object is read, and what our user needs for it, version by version.

The roles are the least ones, any one of which suffices; READONLY_ADMIN has all that only read, and
FULL_ADMIN everything. They stand in the middleware's role managers (25.04+). Before, an API key has a
list of methods of its own instead, and no roles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import msgspec

from truetally.model.observations import Value
from truetally.model.refs import Kind
from truetally.sources.truenas import decode
from truetally.sources.truenas.generations import Engine, Generation
from truetally.sources.truenas.hints import followed

Version = tuple[int, int]


class Every(StrEnum):
    """How often a kind is read: FAST what volumes stand on, SLOW the rest, SELDOM what costs the NAS much."""

    FAST = "fast"
    SLOW = "slow"
    SELDOM = "seldom"


class Absence(StrEnum):
    """What it means that a version has no query for a kind.

    ABSENT: it has no such objects, so their list is empty and complete.
    UNTOLD: it has them and does not tell them, so nothing is known of them.
    """

    ABSENT = "absent"
    UNTOLD = "untold"


class Way(msgspec.Struct, frozen=True):
    """How versions from `since` on are asked."""

    since: Version
    method: str
    roles: tuple[str, ...]
    params: tuple[Any, ...] = ([], {})


class Missing(msgspec.Struct, frozen=True):
    """Versions from `since` on cannot be asked."""

    since: Version
    absence: Absence
    reason: str


class Query(msgspec.Struct, frozen=True):
    """How a kind is read.

    Attributes:
        entry: the wire struct of one entry.
        value: what an entry means.
        name: what its object is called in a `Ref`.
        by_id: whether one object can be asked for by its `id`, which is its name.
        more: further lists of which the kind consists.
    """

    kind: Kind
    every: Every
    entry: type
    value: Callable[[Any], Value]
    name: Callable[[Any], str]
    ways: tuple[Way | Missing, ...]
    by_id: bool = False
    more: tuple[Query, ...] = ()

    def way(self, generation: Generation) -> Way | Missing:
        """How this generation is asked."""
        found: Way | Missing = self.ways[0]
        for each in self.ways:
            if each.since <= generation.since:
                found = each
        return found

    def parts(self) -> tuple[Query, ...]:
        """All the lists of which the kind consists."""
        return (self, *self.more)


_FIRST: Version = (22, 12)
_NVME: Version = (25, 10)


def _id(entry: Any) -> str:
    return str(entry.id)


def _listed(
    kind: Kind, every: Every, method: str, role: str, entry: type, value: Callable[[Any], Value]
) -> Query:
    return Query(kind, every, entry, value, _id, (Way(_FIRST, method, (role,)),), by_id=True)


def _nvme(
    kind: Kind,
    every: Every,
    method: str,
    entry: type,
    value: Callable[[Any], Value],
    name: Callable[[Any], str] = _id,
    options: dict[str, Any] | None = None,
) -> Query:
    ways = (
        Missing(_FIRST, Absence.ABSENT, "TrueNAS before 25.10 has no NVMe-oF"),
        Way(_NVME, method, ("SHARING_NVME_TARGET_READ",), ([], options or {})),
    )
    return Query(kind, every, entry, value, name, ways, by_id=name is _id)


_QUERIES = (
    Query(
        Kind.POOL,
        Every.FAST,
        decode.PoolEntry,
        decode.pool,
        lambda e: e.name,
        (Way(_FIRST, "pool.query", ("POOL_READ",)),),
    ),
    _listed(
        Kind.NFS_SHARE, Every.FAST, "sharing.nfs.query", "SHARING_NFS_READ", decode.NfsEntry, decode.nfs_share
    ),
    _listed(
        Kind.SMB_SHARE, Every.FAST, "sharing.smb.query", "SHARING_SMB_READ", decode.SmbEntry, decode.smb_share
    ),
    _listed(
        Kind.ISCSI_PORTAL,
        Every.SLOW,
        "iscsi.portal.query",
        "SHARING_ISCSI_PORTAL_READ",
        decode.PortalEntry,
        decode.portal,
    ),
    _listed(
        Kind.ISCSI_INITIATOR,
        Every.SLOW,
        "iscsi.initiator.query",
        "SHARING_ISCSI_INITIATOR_READ",
        decode.InitiatorEntry,
        decode.initiator,
    ),
    _listed(
        Kind.ISCSI_TARGET,
        Every.FAST,
        "iscsi.target.query",
        "SHARING_ISCSI_TARGET_READ",
        decode.TargetEntry,
        decode.target,
    ),
    _listed(
        Kind.ISCSI_EXTENT,
        Every.FAST,
        "iscsi.extent.query",
        "SHARING_ISCSI_EXTENT_READ",
        decode.ExtentEntry,
        decode.extent,
    ),
    _listed(
        Kind.ISCSI_TARGET_EXTENT,
        Every.FAST,
        "iscsi.targetextent.query",
        "SHARING_ISCSI_TARGETEXTENT_READ",
        decode.TargetExtentEntry,
        decode.target_extent,
    ),
    Query(
        Kind.ISCSI_SESSION,
        Every.FAST,
        decode.SessionEntry,
        decode.session,
        lambda e: f"{e.initiator}>{e.target}",
        (Way(_FIRST, "iscsi.global.sessions", ("SHARING_ISCSI_GLOBAL_READ",)),),
    ),
    _nvme(
        Kind.NVME_SUBSYSTEM,
        Every.FAST,
        "nvmet.subsys.query",
        decode.SubsystemEntry,
        decode.subsystem,
        # Without it the ids of hosts and ports are left out.
        options={"extra": {"verbose": True}},
    ),
    _nvme(
        Kind.NVME_NAMESPACE,
        Every.FAST,
        "nvmet.namespace.query",
        decode.NamespaceEntry,
        decode.namespace,
    ),
    _nvme(Kind.NVME_PORT, Every.SLOW, "nvmet.port.query", decode.PortEntry, decode.port),
    _nvme(Kind.NVME_HOST, Every.SLOW, "nvmet.host.query", decode.HostEntry, decode.host),
    _nvme(
        Kind.NVME_SESSION,
        Every.FAST,
        "nvmet.global.sessions",
        decode.NvmeSessionEntry,
        decode.nvme_session,
        lambda e: f"{e.hostnqn}>{e.subsys_id}" + ("" if e.ctrl is None else f"#{e.ctrl}"),
    ),
    Query(
        Kind.NFS_CLIENT,
        Every.FAST,
        decode.Nfs3Entry,
        decode.nfs3_client,
        lambda e: f"{e.ip}>{e.export}",
        (Way(_FIRST, "nfs.get_nfs3_clients", ("SHARING_NFS_WRITE",)),),
        more=(
            Query(
                Kind.NFS_CLIENT,
                Every.FAST,
                decode.Nfs4Entry,
                decode.nfs4_client,
                lambda e: f"nfs4#{e.id}",
                (Way(_FIRST, "nfs.get_nfs4_clients", ("SHARING_NFS_WRITE",)),),
            ),
        ),
    ),
    Query(
        Kind.SMB_CLIENT,
        Every.FAST,
        decode.SmbStatusEntry,
        decode.smb_client,
        lambda e: f"{e.machine or ''}>{e.service}#{e.session_id or ''}",
        (
            Way(_FIRST, "smb.status", ("SHARING_SMB_WRITE",), ("SHARES", [], {})),
            Missing((25, 10), Absence.UNTOLD, "TrueNAS 25.10 does not tell who its SMB clients are"),
            Way((26, 0), "smb.status", ("SHARING_SMB_READ",), ("SHARES", [], {})),
        ),
    ),
    _listed(
        Kind.SNAPSHOT_TASK,
        Every.SLOW,
        "pool.snapshottask.query",
        "SNAPSHOT_TASK_READ",
        decode.SnapshotTaskEntry,
        decode.snapshot_task,
    ),
    _listed(
        Kind.REPLICATION_TASK,
        Every.SLOW,
        "replication.query",
        "REPLICATION_TASK_READ",
        decode.ReplicationEntry,
        decode.replication_task,
    ),
    Query(
        Kind.API_KEY,
        Every.SLOW,
        decode.ApiKeyEntry,
        decode.api_key,
        _id,
        (
            # Before, keys belong to nobody, so all of them are told; the keys themselves are left out.
            Way(_FIRST, "api_key.query", (), ([], {"select": ["id", "name"]})),
            Way((25, 4), "api_key.my_keys", ("API_KEY_READ", "READONLY_ADMIN"), ()),
        ),
    ),
    Query(
        Kind.SERVICE,
        Every.FAST,
        decode.ServiceEntry,
        decode.service,
        lambda e: e.service,
        (Way(_FIRST, "service.query", ("SERVICE_READ",)),),
    ),
    Query(
        Kind.ALERT,
        Every.SLOW,
        decode.AlertEntry,
        decode.alert,
        lambda e: e.uuid,
        (Way(_FIRST, "alert.list", ("ALERT_LIST_READ",), ()),),
    ),
)

QUERIES = {query.kind: query for query in _QUERIES}
"""The kinds that are read by one plain list each; datasets, snapshots and the system take more."""

_OTHERS = {Kind.DATASET: Every.FAST, Kind.SNAPSHOT: Every.SELDOM, Kind.SYSTEM: Every.SLOW}
EVERY = {query.kind: query.every for query in _QUERIES} | _OTHERS
"""How often each kind is read."""


def missing(kind: Kind, generation: Generation) -> Missing | None:
    """Why a generation cannot be asked for a kind; None if it can be."""
    query = QUERIES.get(kind)
    way = query.way(generation) if query is not None else None
    return way if isinstance(way, Missing) else None


# What our user needs


class Need(msgspec.Struct, frozen=True):
    """Something that has to be permitted.

    Attributes:
        purpose: the kind that is read by it, or what else it is for.
        method: what is called; for a subscription, the collection.
        roles: any one of these; empty if every user may, or where keys have lists instead.
        without: what is lost if it is not permitted; empty if the purpose is.
        subscription: whether it is subscribed to and not called.
    """

    purpose: str
    method: str
    roles: tuple[str, ...]
    without: str = ""
    subscription: bool = False

    @property
    def allowed(self) -> dict[str, str]:
        """The entry of an API key's list that permits it (up to 24.10)."""
        return {"method": "SUBSCRIBE" if self.subscription else "CALL", "resource": self.method}


_FOUND_LATER = "changes are found by the next reading only"
_TELL_OLDER = "pool.dataset.query is asked instead, which costs the NAS more"
_USE_UNKNOWN = "nothing is called orphaned, because it may be in use"


def needed(generation: Generation) -> list[Need]:
    """All that the observing user has to be permitted, once each, most important first."""
    return _for(generation, [*_reads(generation), *_use(generation), *_subscriptions(generation)])


def needed_to_remediate(generation: Generation) -> list[Need]:
    """What the second user has to be permitted besides, while a plan that a person approved is run."""
    snapshots = "zfs.snapshot" if generation.since < (25, 10) else "pool.snapshot"
    holding = ("SNAPSHOT_WRITE",) if generation.since >= (25, 10) else ("FULL_ADMIN",)
    found = [
        Need("destroy snapshots", f"{snapshots}.delete", ("SNAPSHOT_DELETE",)),
        Need("hold snapshots", f"{snapshots}.hold", holding),
        Need("destroy datasets", "pool.dataset.delete", ("DATASET_DELETE",)),
        Need("delete NFS shares", "sharing.nfs.delete", ("SHARING_NFS_WRITE",)),
        Need("delete SMB shares", "sharing.smb.delete", ("SHARING_SMB_WRITE",)),
        Need("unlink extents", "iscsi.targetextent.delete", ("SHARING_ISCSI_TARGETEXTENT_WRITE",)),
        Need("delete extents", "iscsi.extent.delete", ("SHARING_ISCSI_EXTENT_WRITE",)),
        Need("delete targets", "iscsi.target.delete", ("SHARING_ISCSI_TARGET_WRITE",)),
    ]
    if generation.since >= _NVME:
        found += [
            Need("delete namespaces", "nvmet.namespace.delete", ("SHARING_NVME_TARGET_WRITE",)),
            Need("delete subsystems", "nvmet.subsys.delete", ("SHARING_NVME_TARGET_WRITE",)),
        ]
    return _for(generation, found)


def _for(generation: Generation, needs: list[Need]) -> list[Need]:
    """The first mention of each method counts; without users there are no roles."""
    found: dict[tuple[str, bool], Need] = {}
    for each in needs:
        found.setdefault((each.method, each.subscription), each)
    if generation.has_users:
        return list(found.values())
    return [msgspec.structs.replace(each, roles=()) for each in found.values()]


def _reads(generation: Generation) -> Iterator[Need]:
    yield Need(Kind.SYSTEM.value, "system.version", ())
    for query in _QUERIES:
        for part in query.parts():
            if isinstance(way := part.way(generation), Way):
                yield Need(query.kind.value, way.method, way.roles)
    if generation.datasets is Engine.ZFS_RESOURCE:
        yield Need(Kind.DATASET.value, "zfs.resource.query", ("ZFS_RESOURCE_READ",), _TELL_OLDER)
    yield Need(Kind.DATASET.value, "pool.dataset.query", ("DATASET_READ",))
    yield Need(Kind.SNAPSHOT.value, generation.snapshots, ("SNAPSHOT_READ",))
    yield Need(Kind.SNAPSHOT.value, generation.snapshot_detail, ("SNAPSHOT_READ",))
    for method, roles, lost in system_reads(generation):
        yield Need(Kind.SYSTEM.value, method, roles, f"{lost} stays unknown")
    if generation.since >= _NVME:
        for method in ("nvmet.host_subsys.query", "nvmet.port_subsys.query"):
            yield Need(Kind.NVME_SUBSYSTEM.value, method, ("SHARING_NVME_TARGET_READ",))
    for method in ("reporting.netdata_graphs", "reporting.netdata_get_data"):
        yield Need(
            Kind.PERFORMANCE.value, method, ("REPORTING_READ",), "it is known while reporting.realtime tells"
        )


def system_reads(generation: Generation) -> list[tuple[str, tuple[str, ...], str]]:
    """What is read of the NAS itself besides its version: the method, the roles, and what it tells."""
    found: list[tuple[str, tuple[str, ...], str]] = [
        ("system.info", ("READONLY_ADMIN",), "the host name"),
        ("interface.query", ("NETWORK_INTERFACE_READ",), "what addresses it has"),
        ("iscsi.global.config", ("SHARING_ISCSI_GLOBAL_READ",), "the base name of iSCSI"),
        ("system.boot_id", (), "when it has booted"),
        ("failover.status", ("FAILOVER_READ",), "which controller it is"),
    ]
    if generation.has_users:
        found.append(("auth.me", (), "what our user may do"))
    if generation.since >= (25, 10):
        found.append(("update.status", ("SYSTEM_UPDATE_READ",), "whether there is an update"))
    return found


def _use(generation: Generation) -> Iterator[Need]:
    purpose = "who uses a dataset"
    for method in ("pool.dataset.attachments", "pool.dataset.processes"):
        yield Need(purpose, method, ("DATASET_READ",), _USE_UNKNOWN)
    yield Need(purpose, "nfs.client_count", ("SHARING_NFS_READ",), _USE_UNKNOWN)
    yield Need(purpose, "core.get_jobs", (), _USE_UNKNOWN)
    # Clients, sessions and what leads to them are among the kinds.


def _subscriptions(generation: Generation) -> Iterator[Need]:
    for each in followed(generation.since):
        yield Need(f"changes of {each.kind.value}", each.name, each.roles, _FOUND_LATER, subscription=True)
    yield Need(
        Kind.PERFORMANCE.value,
        "reporting.realtime",
        ("REPORTING_READ",),
        "performance stays unknown between readings",
        subscription=True,
    )
