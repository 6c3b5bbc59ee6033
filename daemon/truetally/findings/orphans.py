"""Orphaned datasets: a volume's dataset that nothing in any watched cluster wants.

Ten conditions have to hold together (domain notes on democratic-csi, §4.4). Whoever
wants to know why a dataset is or isn't an orphan gets all of them: `conditions()` is
what `truetally explain` prints, and what the verdict is made from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from enum import StrEnum

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.findings.ownership import IGNORE, Ownership, exemption_mark, ownership
from truetally.findings.rule import Clear, Evidence, Judgement, Order, Reread, Rule
from truetally.findings.storage_first import REFERRING, USE_IS_VALID, use_of
from truetally.findings.volumes import ignored, nas_of_volume
from truetally.graph import chains
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model.findings import Fact, Severity
from truetally.model.memories import MemoryKind
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Dataset, DatasetUse, Origin
from truetally.settings import DriverSettings

_STORAGE = frozenset(
    {
        Kind.POOL,
        Kind.DATASET,
        Kind.SNAPSHOT,
        Kind.NFS_SHARE,
        Kind.SMB_SHARE,
        Kind.ISCSI_TARGET,
        Kind.ISCSI_EXTENT,
        Kind.ISCSI_TARGET_EXTENT,
        Kind.ISCSI_SESSION,
        # A version without NVMe-oF has complete and empty lists of these.
        Kind.NVME_SUBSYSTEM,
        Kind.NVME_NAMESPACE,
        Kind.NVME_SESSION,
    }
)
# What says who uses a zvol; read again before its dataset is accused.
_CONNECTED = frozenset({Kind.ISCSI_SESSION, Kind.NVME_SUBSYSTEM, Kind.NVME_NAMESPACE, Kind.NVME_SESSION})
_SHARED_STORAGE = _STORAGE - {Kind.SNAPSHOT}


class Verdict(StrEnum):
    """What a dataset is, as far as the evidence goes."""

    NO_VOLUME = "no volume of democratic-csi"
    ORPHAN = "orphaned"
    RETAINED = "retained"
    UNKNOWN_OWNER = "unknown owner"
    REFERENCED = "referenced"
    IN_FLIGHT = "in flight"
    IN_USE = "in use"
    UNREADABLE = "unreadable"
    EXEMPT = "exempt"


class Condition(msgspec.Struct, frozen=True):
    """One of the conditions of an orphan: whether it holds (None: cannot be told), and why."""

    number: int
    holds: bool | None
    text: str
    otherwise: Verdict


def _proven(_world: World, _ref: Ref, _dataset: Dataset, owner: Ownership) -> Condition:
    return Condition(2, owner.proven, owner.text, Verdict.UNKNOWN_OWNER)


def _exclusive(_world: World, _ref: Ref, _dataset: Dataset, owner: Ownership) -> Condition:
    text = (
        owner.text if owner.proven or not owner.exclusive else "nothing in its parent is marked as another's"
    )
    return Condition(3, owner.exclusive, text, Verdict.UNKNOWN_OWNER)


def _marked(_world: World, _ref: Ref, dataset: Dataset, _owner: Ownership) -> Condition:
    if not csi.is_managed(dataset):
        return Condition(4, False, "it does not carry democratic-csi's mark itself", Verdict.NO_VOLUME)
    if csi.own(dataset, csi.SNAPSHOT_NAME):
        return Condition(4, False, "it is a detached snapshot, and no volume", Verdict.NO_VOLUME)
    mark = dataset.user_properties[csi.MANAGED]
    name = csi.own(dataset, csi.VOLUME_NAME)
    if mark.origin is Origin.UNKNOWN and name != dataset.leaf:
        # TrueNAS 25.10+ does not tell an inherited property from an own one: the name has to agree.
        text = (
            f"this TrueNAS hides where its mark comes from, and csi_volume_name {name!r} is not its own name"
        )
        return Condition(4, None, text, Verdict.UNKNOWN_OWNER)
    return Condition(4, True, f"democratic-csi made it for {name or dataset.leaf}", Verdict.NO_VOLUME)


def _unreferenced(world: World, ref: Ref, _dataset: Dataset, _owner: Ownership | None = None) -> Condition:
    references = chains.references(world, ref)
    if not references:
        text = "nothing in any watched cluster refers to it"
        return Condition(5, True, text, Verdict.REFERENCED)
    first = references[0]
    more = f", and {len(references) - 1} more" if len(references) > 1 else ""
    return Condition(5, False, f"{first.ref} refers to it ({first.how}){more}", Verdict.REFERENCED)


def _independent(world: World, ref: Ref, dataset: Dataset, _owner: Ownership) -> Condition:
    depending: list[Iterable[tuple[Ref, str]]] = [
        ((r, "is a clone of its snapshot") for r in chains.clones_of(world, ref.source, ref.name)),
        ((r, "was made from its content") for r in chains.made_from(world, dataset)),
        ((r, "is a child of it") for r in chains.children_of(world, ref.source, ref.name)),
    ]
    for each in depending:
        for other, how in each:
            return Condition(6, False, f"{other} {how}", Verdict.REFERENCED)
    for snapshot in chains.snapshots_of(world, ref.source, ref.name):
        value = world.snapshot(snapshot)
        if value is not None and value.holds:
            text = f"its snapshot {value.name} is held ({', '.join(value.holds)})"
            return Condition(6, False, text, Verdict.IN_USE)
    return Condition(6, True, "nothing depends on it", Verdict.REFERENCED)


def _old_enough(world: World, _ref: Ref, dataset: Dataset, _owner: Ownership) -> Condition:
    grace = world.settings.rules.grace
    if dataset.created_at is None:
        return Condition(7, None, "its age is unknown", Verdict.IN_FLIGHT)
    if world.now - dataset.created_at < grace:
        return Condition(7, False, f"it is younger than the grace of {_span(grace)}", Verdict.IN_FLIGHT)
    return Condition(7, True, f"it is older than the grace of {_span(grace)}", Verdict.IN_FLIGHT)


def _no_session(world: World, ref: Ref, dataset: Dataset, _owner: Ownership) -> Condition:
    for user in _users(world, ref, dataset):
        return Condition(8, False, user, Verdict.IN_USE)
    use = use_of(world, ref.source, ref.name)
    if use is None:
        return Condition(8, True, "no session is on it; its use is read before it is accused", Verdict.IN_USE)
    if busy := in_use(use, *_own_attachments(world, ref, dataset)):
        return Condition(8, False, busy, Verdict.IN_USE)
    if use.unknown:
        return Condition(8, None, f"its use cannot be read: {'; '.join(use.unknown)}", Verdict.UNKNOWN_OWNER)
    return Condition(8, True, "nobody uses it: no client, session, process, task or job", Verdict.IN_USE)


def _users(world: World, ref: Ref, dataset: Dataset) -> Iterator[str]:
    """Who uses the dataset, as the NAS's lists tell: sessions, foreign namespaces, tasks and clients."""
    nas, path = ref.source, ref.name
    for session in chains.live_sessions(world, nas, path):
        yield f"an {session} is on it"
    for namespace, subsystem in chains.namespaces_at(world, nas, path):
        if subsystem is None or not csi.is_own_namespace(dataset, namespace, subsystem):
            name = subsystem.name if subsystem is not None else f"of id {namespace.subsystem}"
            yield f"NVMe-oF subsystem {name}, which is not its own, has it as a namespace"
    for task in chains.tasks_of(world, nas, path):
        what = "snapshot" if task.kind is Kind.SNAPSHOT_TASK else "replication"
        yield f"{what} task {task.name} names it"
    if dataset.kind != "VOLUME":
        for client in chains.clients_of(world, nas, csi.dataset_of_mount(dataset.mountpoint or path)):
            yield f"{client} uses it"


# What each driver itself attaches to its volumes; anything else that TrueNAS lists is another use.
_OWN_ATTACHMENTS = {
    "-nfs": "nfs share",
    "-smb": "smb share",
    "-iscsi": "iscsi extent",
    "-nvmeof": "nvme-of namespace",
}


def _own_attachments(world: World, ref: Ref, dataset: Dataset) -> tuple[str, int | None]:
    """What TrueNAS may list as attached without its being another use, and how many of it at most.

    TrueNAS names a namespace by the zvol alone, and not by its subsystem: only as many as are known to be the
    zvol's own are none of another's.
    """
    driver = csi.own(dataset, csi.PROVISIONER_DRIVER)
    own = next((own for ending, own in _OWN_ATTACHMENTS.items() if driver.endswith(ending)), "")
    if not driver.endswith("-nvmeof"):
        return own, None
    namespaces = chains.namespaces_at(world, ref.source, ref.name)
    return own, sum(1 for n, s in namespaces if s is not None and csi.is_own_namespace(dataset, n, s))


def in_use(use: DatasetUse, own_attachment: str, at_most: int | None = None) -> str:
    """What uses a dataset besides the share, extent or namespace of its own driver; empty if nothing does."""
    users = (
        (use.sessions, "session of"),
        (use.clients, "client"),
        (use.processes, "process"),
        (use.jobs, "job"),
        (use.holds, "hold"),
    )
    for names, what in users:
        if names:
            return f"{what} {names[0]} uses it"
    is_own = [bool(own_attachment) and a.lower().startswith(own_attachment) for a in use.attachments]
    for attachment, own in zip(use.attachments, is_own, strict=True):
        if not own or (at_most is not None and sum(is_own) > at_most):
            return f"TrueNAS uses it for {attachment}"
    return ""


def _readable(world: World, ref: Ref, dataset: Dataset, _owner: Ownership) -> Condition:
    pool = world.pool(ref.source, dataset.pool)
    if pool is None or pool.status not in ("ONLINE", "DEGRADED"):
        status = pool.status if pool is not None else "not imported"
        return Condition(9, None, f"pool {dataset.pool} is {status}", Verdict.UNREADABLE)
    if dataset.locked:
        return Condition(9, None, "it is locked", Verdict.UNREADABLE)
    received = any(p.origin is Origin.RECEIVED for p in dataset.user_properties.values())
    if dataset.readonly or received:
        return Condition(9, False, "it looks like a replica (read-only or received)", Verdict.UNKNOWN_OWNER)
    return Condition(
        9, True, f"pool {dataset.pool} is {pool.status}, and it is no replica", Verdict.UNREADABLE
    )


def _not_exempt(_world: World, _ref: Ref, dataset: Dataset, _owner: Ownership) -> Condition:
    if mark := exemption_mark(dataset):
        return Condition(10, False, f"it is exempted by its property {IGNORE}={mark}", Verdict.EXEMPT)
    return Condition(10, True, "nobody has exempted it", Verdict.EXEMPT)


def _not_retained(world: World, _ref: Ref, dataset: Dataset, owner: Ownership) -> Condition:
    if owner.driver is not None and owner.driver.retains_deleted:
        text = f"driver {owner.driver.driver} keeps what is deleted (retains_deleted)"
        return Condition(10, False, text, Verdict.RETAINED)
    remembered = world.graph.remembered(MemoryKind.VOLUME, csi.own(dataset, csi.VOLUME_NAME))
    if remembered is not None and remembered.retained:
        return Condition(10, False, "its PersistentVolume had reclaim policy Retain", Verdict.RETAINED)
    if owner.driver is not None and _keeps_everything(world, owner.driver):
        text = f"every StorageClass of {owner.driver.driver} has reclaim policy Retain"
        return Condition(10, False, text, Verdict.RETAINED)
    return Condition(10, True, "it is not known to be kept on purpose", Verdict.RETAINED)


def _keeps_everything(world: World, driver: DriverSettings) -> bool:
    """A volume that was deleted before truetally first looked was kept, if the driver's classes keep all."""
    nodes = world.graph.nodes(driver.cluster, Kind.STORAGE_CLASS).values()
    classes = [c for n in nodes if (c := value_of(n, k8s.StorageClass)) and c.provisioner == driver.driver]
    return bool(classes) and all(c.reclaim_policy == "Retain" for c in classes)


ConditionOf = Callable[[World, Ref, Dataset, Ownership], Condition]

# In the order of the domain notes. Condition 1, that both sides were read completely, is kept by the rule
# framework for every rule; the tenth has two halves.
CONDITIONS: tuple[ConditionOf, ...] = (
    _proven,
    _exclusive,
    _marked,
    _unreferenced,
    _independent,
    _old_enough,
    _no_session,
    _readable,
    _not_exempt,
    _not_retained,
)


def conditions(world: World, ref: Ref, asked: Iterable[ConditionOf] = CONDITIONS) -> tuple[Condition, ...]:
    """The conditions of an orphan for one dataset, numbered as in the domain notes."""
    dataset = world.dataset(ref.source, ref.name)
    if dataset is None:
        return ()
    owner = ownership(world, ref.source, dataset)
    return tuple(each(world, ref, dataset, owner) for each in asked)


def verdict(found: tuple[Condition, ...]) -> Verdict:
    """What the conditions make of a dataset: a sign that it is wanted outweighs not knowing its owner."""
    failing = [c for c in found if c.holds is not True]
    if not failing:
        return Verdict.ORPHAN
    return min((c.otherwise for c in failing), key=_WEIGHT.__getitem__)


_WEIGHT = {
    each: weight
    for weight, each in enumerate(
        (
            Verdict.NO_VOLUME,
            Verdict.EXEMPT,
            Verdict.UNREADABLE,
            Verdict.REFERENCED,
            Verdict.IN_USE,
            Verdict.IN_FLIGHT,
            Verdict.UNKNOWN_OWNER,
            Verdict.RETAINED,
            Verdict.ORPHAN,
        )
    )
}


def _span(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def judge_dataset(
    wanted: Verdict, ref: Ref, world: World, asked: tuple[ConditionOf, ...] = CONDITIONS
) -> Judgement:
    """Evidence if the conditions that are asked make this of a volume's dataset."""
    dataset = world.dataset(ref.source, ref.name)
    if dataset is None:
        return Clear("the dataset is gone")
    if not csi.is_managed(dataset):
        return Clear("it is no volume of democratic-csi")
    found, is_ = _assessed(world, ref, dataset, asked)
    if is_ is not wanted:
        failing = next((c for c in found if c.holds is not True and c.otherwise is is_), None)
        again_at = None
        if is_ is Verdict.IN_FLIGHT and dataset.created_at is not None:
            again_at = dataset.created_at + world.settings.rules.grace
        elif failing is not None and failing.number == 8:
            again_at = world.now + USE_IS_VALID
        return Clear(failing.text if failing else "it is orphaned", again_at)
    return Evidence(_summary(wanted, ref), _facts(ref, dataset, found, world))


def _assessed(
    world: World, ref: Ref, dataset: Dataset, asked: tuple[ConditionOf, ...]
) -> tuple[tuple[Condition, ...], Verdict]:
    """The conditions and the verdict, once for all rules; a referenced dataset needs only one."""
    known = world.memo.get(("orphan", ref, asked))
    if isinstance(known, tuple):
        return known
    reference = _unreferenced(world, ref, dataset) if _unreferenced in asked else None
    found = (reference,) if reference and not reference.holds else conditions(world, ref, asked)
    assessed = found, verdict(found)
    world.memo["orphan", ref, asked] = assessed
    return assessed


def _summary(what: Verdict, ref: Ref) -> str:
    match what:
        case Verdict.ORPHAN:
            return f"Nothing in any watched cluster uses dataset {ref.name}"
        case Verdict.RETAINED:
            return f"Dataset {ref.name} was kept on purpose when its volume was deleted"
        case _:
            return f"No watched cluster uses dataset {ref.name}, and its owner is not known"


_SHARES = (Kind.NFS_SHARE, Kind.SMB_SHARE, Kind.ISCSI_EXTENT, Kind.NVME_NAMESPACE)


def _facts(ref: Ref, dataset: Dataset, found: tuple[Condition, ...], world: World) -> dict[str, Fact]:
    return {
        "csi_volume_name": csi.own(dataset, csi.VOLUME_NAME),
        "used_bytes": dataset.used_bytes,
        "created_at": dataset.created_at.isoformat() if dataset.created_at else None,
        "type": dataset.kind,
        "snapshots": len(chains.snapshots_of(world, ref.source, ref.name)),
        "shares": tuple(str(r) for r in world.sharing(f"p:{ref.name}", *_SHARES) if r.source == ref.source),
        "because": tuple(dict.fromkeys(c.text for c in found)),
    }


def _reread(ref: Ref, world: World) -> Reread:
    objects = {
        ref,
        Ref(ref.source, Kind.DATASET_USE, ref.name),
        Ref(ref.source, Kind.POOL, ref.name.partition("/")[0]),
    }
    return Reread(
        Order.STORAGE_FIRST,
        nas=ref.source,
        objects=frozenset(objects),
        nas_kinds=_CONNECTED,
        cluster_kinds=REFERRING,
    )


def _confirmed(ref: Ref, world: World, since: float) -> str:
    """The dataset and its use are newer than the suspicion, and every cluster was read after them."""
    node = world.node(ref)
    if node is None or node.asked_at < since:
        return "the dataset has not been read again"
    known = world.use(ref.source, ref.name)
    if known is None or known[1] < since:
        return "the dataset's use has not been read"
    if not world.listed_since(REFERRING, world.clusters, max(node.asked_at, known[1])):
        return "the clusters have not been read after the NAS"
    return ""


def _grace(world: World) -> timedelta:
    return world.settings.rules.grace


DATASET_WITHOUT_VOLUME = Rule(
    id="dataset-without-volume",
    title="Dataset without PersistentVolume",
    fix=(
        "Look at what the dataset holds. Then either import it as a volume again, keep it by setting the ZFS "
        f"property {IGNORE}=<why>, or remove its share, extent or namespace and destroy it without -r."
    ),
    severity=Severity.WARNING,
    subject=Kind.DATASET,
    needs=REFERRING | _STORAGE,
    judge=lambda ref, world: judge_dataset(Verdict.ORPHAN, ref, world),
    pending=_grace,
    reread=_reread,
    confirmed=_confirmed,
)

DATASET_OWNER_UNKNOWN = Rule(
    id="dataset-owner-unknown",
    title="Dataset of democratic-csi whose owner is not known",
    fix=(
        "If only a watched cluster uses this parent dataset, say so under `drivers` in the configuration; "
        "if another cluster does, watch that one too, or give each deployment its own instance_id and parent."
    ),
    severity=Severity.INFO,
    subject=Kind.DATASET,
    needs=REFERRING | _STORAGE,
    judge=lambda ref, world: judge_dataset(Verdict.UNKNOWN_OWNER, ref, world),
    pending=_grace,
)

DATASET_RETAINED = Rule(
    id="dataset-retained",
    title="Dataset kept on purpose after its volume was deleted",
    fix="Destroy it when its data is no longer wanted, or import it as a volume again.",
    severity=Severity.INFO,
    subject=Kind.DATASET,
    needs=REFERRING | _STORAGE,
    judge=lambda ref, world: judge_dataset(Verdict.RETAINED, ref, world),
    pending=_grace,
)


def _judge_volume(ref: Ref, world: World) -> Judgement:
    volume = world.volume(ref)
    if volume is None:
        return Clear("the volume is gone")
    if ignored(volume.annotations):
        return Clear("it is exempted by its annotation truetally.io/ignore")
    if not csi.is_provisioned(volume):
        return Clear("democratic-csi did not make it, so truetally does not know where it must be")
    if volume.deleted_at is not None or volume.phase in ("Released", "Failed", "Pending"):
        return Clear(f"it is {'being deleted' if volume.deleted_at else volume.phase}")
    found = chains.backing(world, ref)
    if found is None or found.nas is None:
        return Clear("its data is on no configured NAS")
    if found.dataset is not None:
        return Clear(f"its dataset is {found.dataset.name} ({found.how})")
    return _missing(ref, volume, found, world)


def _missing(ref: Ref, volume: k8s.PersistentVolume, found: chains.Backing, world: World) -> Judgement:
    if found.backend.protocol is csi.Protocol.OTHER:
        return Clear(f"truetally does not follow {found.backend.protocol.value} yet")
    if found.elsewhere:
        return Clear(f"{found.elsewhere[0]} carries its name: it may have been moved")
    parent = world.dataset(found.nas or "", found.path.rpartition("/")[0])
    if parent is not None and csi.is_managed(parent):
        return Clear(f"its path is a directory inside dataset {parent.path}")
    if not found.path and not _parents_of(volume, found.nas, world):
        return Clear(f"{found.how}, and truetally does not know in which dataset it must be")
    nas = found.nas or ""
    pools = {p.partition("/")[0] for p in ([found.path] if found.path else _parents_of(volume, nas, world))}
    for pool in pools:
        if not world.pool_is_there(nas, pool):
            return Clear(f"pool {pool} is not there to be looked at")
    facts: dict[str, Fact] = {
        "nas": nas,
        "expected_at": found.path or "anywhere below " + ", ".join(_parents_of(volume, nas, world)),
        "claim": f"{volume.claim.namespace}/{volume.claim.name}" if volume.claim else None,
        "protocol": found.backend.protocol.value,
        "because": (found.how, "no dataset on the NAS carries its name or handle"),
    }
    claim = f" of claim {volume.claim.namespace}/{volume.claim.name}" if volume.claim else ""
    return Evidence(f"The dataset behind volume {ref.name}{claim} is gone from {nas}", facts)


def _parents_of(volume: k8s.PersistentVolume, nas: str | None, world: World) -> list[str]:
    driver = volume.csi.driver if volume.csi else ""
    return [d.parent for d in world.settings.drivers if d.nas == nas and d.driver == driver]


def _reread_volume(ref: Ref, world: World) -> Reread:
    found = chains.backing(world, ref)
    return Reread(
        Order.CLUSTER_FIRST,
        nas=found.nas if found is not None else None,
        nas_kinds=_SHARED_STORAGE,
        cluster_kinds=frozenset({Kind.PERSISTENT_VOLUME, Kind.PERSISTENT_VOLUME_CLAIM}),
        cluster=ref.source,
    )


def _confirmed_volume(ref: Ref, world: World, since: float) -> str:
    node = world.node(ref)
    if node is None or node.asked_at < since:
        return "the volume has not been read again"
    nas = nas_of_volume(ref, world)
    if nas is None or not world.listed_since(_SHARED_STORAGE, (nas,), node.asked_at):
        return "the NAS has not been read after the cluster"
    return ""


VOLUME_WITHOUT_DATASET = Rule(
    id="volume-without-dataset",
    title="PersistentVolume whose dataset is gone",
    fix=(
        "Stop what uses the claim before it writes into nothing. Restore the dataset from a snapshot or "
        "replica to the same path, or delete claim and volume if the data is not wanted any more."
    ),
    severity=Severity.CRITICAL,
    subject=Kind.PERSISTENT_VOLUME,
    needs=frozenset({Kind.PERSISTENT_VOLUME, Kind.PERSISTENT_VOLUME_CLAIM}) | _SHARED_STORAGE,
    judge=_judge_volume,
    pending=lambda world: min(world.settings.rules.grace, timedelta(minutes=5)),
    nas_of=nas_of_volume,
    reread=_reread_volume,
    confirmed=_confirmed_volume,
)
