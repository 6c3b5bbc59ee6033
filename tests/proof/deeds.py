"""What happens in the world: each deed is one legal step of a driver, a controller, a person or a neighbour.

A deed that cannot be done now does nothing. Orders and leftovers of the driver's steps
are those of the domain notes on democratic-csi, §1.5 and §1.6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from random import Random

from proof.model import MARKER, POOL, CsiSnapshot, Deployment, Thing, Truth, Volume
from truetally.csi import democratic_csi as csi
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Origin

GIB = 1 << 30
PROVISIONED = {"pv.kubernetes.io/provisioned-by": "yes"}
NODES = ("node1", "node2")

Deed = Callable[[Truth], None]
WEIGHTED: list[tuple[Deed, int]] = []
# Deeds on a NAS of which Kubernetes shows nothing: not between the two readings of one confirmation.
ON_NAS_ALONE: set[Deed] = set()


def deed(weight: int = 2, on_nas_alone: bool = False) -> Callable[[Deed], Deed]:
    def note(function: Deed) -> Deed:
        WEIGHTED.append((function, weight))
        if on_nas_alone:
            ON_NAS_ALONE.add(function)
        return function

    return note


# The world at the beginning


def a_world(rng: Random) -> Truth:
    """Clusters, NAS and the democratic-csi deployments between them."""
    t = Truth(rng)
    t.clusters = ["prod", "stage"][: rng.choice((1, 1, 2))]
    t.nas = ["nas1", "nas2"][: rng.choice((1, 1, 2))]
    t.hides_origin = {nas for nas in t.nas if rng.random() < 0.4}
    for system in (*t.clusters, "neighbour", *t.nas):
        t.objects[system] = {}
    for cluster in (*t.clusters, "neighbour"):
        for node in NODES:
            t.put(Ref(cluster, Kind.NODE, node), k8s.Node(node, f"uid-{cluster}-{node}"))
    for n, nas in enumerate(t.nas, 1):
        t.put(Ref(nas, Kind.SYSTEM, nas), truenas.System("25.10.0", nas, (f"10.0.0.{n}",)))
        t.put(Ref(nas, Kind.POOL, POOL), truenas.Pool(POOL, "ONLINE", True))
        _container(t, nas, POOL)
    t.deployments = list(_deployments(t, rng))
    for each in t.deployments:
        for path in (each.parent.rpartition("/")[0], each.parent, each.snapshots_parent):
            _container(t, each.nas, path)
        if each.watched:
            for policy in each.policies:
                name = f"{each.csi_driver}-{policy.lower()}"
                t.put(
                    Ref(each.cluster, Kind.STORAGE_CLASS, name),
                    k8s.StorageClass(name, each.csi_driver, policy),
                )
    t.ticks += 7200.0
    return t


DRIVERS = (
    "freenas-api-nfs",
    "freenas-api-iscsi",
    "freenas-api-smb",
    "freenas-api-nvmeof",
    "freenas-nfs",
    "freenas-iscsi",
)


def _deployments(t: Truth, rng: Random) -> list[Deployment]:
    found: list[Deployment] = []
    marked = rng.random() < 0.25
    for cluster in t.clusters:
        driver = rng.choice(DRIVERS)
        protocol = driver.rpartition("-")[2]
        first = found[0] if found else None
        shared = first is not None and rng.random() < 0.4
        mine = Deployment(
            cluster=cluster,
            watched=True,
            nas=first.nas if first and shared else rng.choice(t.nas),
            csi_driver=f"org.democratic-csi.{protocol}",
            driver=first.driver if first and shared else driver,
            parent=first.parent if first and shared else f"{POOL}/{cluster}-{protocol}/vols",
            instance_id=rng.choice(("", f"id-{cluster}")),
            marker=cluster if marked else "",
            configured=rng.random() < 0.85,
            retains_deleted=rng.random() < 0.08,
            templated=rng.random() < 0.15,
            policies=rng.choice((("Delete",), ("Delete",), ("Delete",), ("Delete", "Retain"), ("Retain",))),
        )
        found.append(mine)
    ours = found[0]
    if rng.random() < 0.6:
        found.append(_told_apart(_neighbour(rng, ours, "neighbour"), found))
    if rng.random() < 0.25:
        found.append(_told_apart(_neighbour(rng, ours, ""), [d for d in found if d.watched]))
    return found


def _neighbour(rng: Random, ours: Deployment, cluster: str) -> Deployment:
    """Somebody whom truetally does not watch, beside us or in our own parent."""
    return replace(
        ours,
        cluster=cluster,
        watched=False,
        parent=ours.parent if rng.random() < 0.6 else f"{POOL}/{cluster or 'nomad'}/vols",
        instance_id=rng.choice(("", f"id-{cluster or 'nomad'}")),
        marker=rng.choice(("", cluster or "nomad")) if ours.marker else "",
        configured=False,
        retains_deleted=False,
        templated=False,
    )


def _told_apart(other: Deployment, watched: list[Deployment]) -> Deployment:
    """In a configured parent something has to tell a neighbour from us; else the configuration is false."""
    beside = [d for d in watched if (d.nas, d.parent) == (other.nas, other.parent)]
    taken = {d.instance_id for d in beside if not d.marker}
    if any(d.configured for d in beside) and other.instance_id in taken:
        return replace(other, instance_id="id-of-another")
    return other


def _container(t: Truth, nas: str, path: str) -> None:
    ref = Ref(nas, Kind.DATASET, path)
    if not t.exists(ref):
        t.put(
            ref, truenas.Dataset(path, POOL, "FILESYSTEM", t.now(), mountpoint=f"/mnt/{path}", locked=False)
        )


# Provisioning, step by step (§1.5)

PARTS = {
    "nfs": ("share",),
    "smb": ("share",),
    "iscsi": ("target", "extent", "link"),
    "nvmeof": ("subsystem", "namespace"),
}


def _begin(t: Truth, deployment: Deployment, origin: str = "", source_id: str = "") -> Volume:
    uid = t.uid()
    name = f"pvc-{uid}"
    leaf = f"k8s-vol-{t.number()}" if deployment.templated else name
    path = f"{deployment.parent}/{leaf}"
    ref = Ref(deployment.nas, Kind.DATASET, path)
    volume = Volume(
        deployment, uid, leaf, ref, t.rng.choice(deployment.policies), origin=origin, source_id=source_id
    )
    volume.asset = f"csi-{leaf}-x".lower()
    if deployment.cluster:
        claim = f"default/data-{t.number()}"
        volume.claim = Ref(deployment.cluster, Kind.PERSISTENT_VOLUME_CLAIM, claim)
        namespace, _, short = claim.partition("/")
        t.put(
            volume.claim,
            k8s.PersistentVolumeClaim(
                namespace,
                short,
                uid,
                t.now(),
                phase="Pending",
                storage_class=f"{deployment.csi_driver}-{volume.policy.lower()}",
                requested_bytes=GIB,
            ),
        )
        t.use(ref, volume.claim)
    detached = not origin and source_id
    make = ["bare", "mark"] if detached else ["dataset"]
    volume.todo = [*make, *PARTS[deployment.protocol], "success", "pv", "bind"]
    t.volumes.append(volume)
    return volume


def _marks(t: Truth, volume: Volume) -> dict[str, str]:
    mine = volume.deployment
    marks = {
        csi.MANAGED: "true",
        csi.VOLUME_NAME: volume.name,
        csi.PROVISIONER_DRIVER: mine.driver,
        csi.INSTANCE_ID: mine.instance_id,
        csi.SOURCE_ID: volume.source_id,
        MARKER: mine.marker,
    } | volume.marks
    return {k: v for k, v in marks.items() if v}


def _step(t: Truth, volume: Volume) -> None:
    step = volume.todo.pop(0)
    _STEPS[step](t, volume)


def _make_dataset(t: Truth, volume: Volume, marked: bool = True) -> None:
    mine = volume.deployment
    block = mine.protocol in ("iscsi", "nvmeof")
    origin, path = volume.origin, volume.ref.name
    if origin and not t.exists(Ref(mine.nas, Kind.SNAPSHOT, origin)):
        volume.todo = []
        return
    t.things[volume.ref] = Thing(mine, kept="exempt" if "truetally:ignore" in volume.marks else "")
    t.put(
        volume.ref,
        truenas.Dataset(
            path,
            POOL,
            "VOLUME" if block else "FILESYSTEM",
            t.now(),
            used_bytes=GIB,
            mountpoint=None if block else f"/mnt/{path}",
            origin=origin,
            locked=False,
            readonly=False,
            user_properties=t.properties(mine.nas, _marks(t, volume)) if marked else {},
        ),
    )
    if origin:
        snapshot = Ref(mine.nas, Kind.SNAPSHOT, origin)
        t.use(snapshot, volume.ref)
        t.use(Ref(mine.nas, Kind.DATASET, origin.partition("@")[0]), volume.ref)


def _mark(t: Truth, volume: Volume) -> None:
    if t.exists(volume.ref):
        t.change(volume.ref, user_properties=t.properties(volume.deployment.nas, _marks(t, volume)))


def _mark_more(t: Truth, volume: Volume, **values: str) -> None:
    volume.marks.update(values)
    value = t.get(volume.ref)
    if isinstance(value, truenas.Dataset):
        more = t.properties(volume.deployment.nas, values)
        t.change(volume.ref, user_properties={**value.user_properties, **more})


def _part(t: Truth, volume: Volume, kind: Kind, id: int, value: object) -> None:  # noqa: A002
    ref = Ref(volume.deployment.nas, kind, str(id))
    t.put(ref, value)  # type: ignore[arg-type]
    t.things[ref] = Thing(volume.deployment, of=volume.ref)
    volume.parts.append(ref)


def _make_share(t: Truth, volume: Volume) -> None:
    if not t.exists(volume.ref):
        return
    n = t.number()
    path = f"/mnt/{volume.ref.name}"
    if volume.deployment.protocol == "smb":
        _part(t, volume, Kind.SMB_SHARE, n, truenas.SmbShare(n, volume.asset, path))
    else:
        comment = f"democratic-csi ({volume.deployment.csi_driver}): {volume.ref.name}"
        _part(t, volume, Kind.NFS_SHARE, n, truenas.NfsShare(n, path, comment=comment))


def _id_of(volume: Volume, kind: Kind) -> int:
    return next((int(ref.name) for ref in reversed(volume.parts) if ref.kind is kind), 0)


def _make_target(t: Truth, volume: Volume) -> None:
    n = t.number()
    _part(t, volume, Kind.ISCSI_TARGET, n, truenas.IscsiTarget(n, volume.asset))


def _make_extent(t: Truth, volume: Volume) -> None:
    n = t.number()
    _part(t, volume, Kind.ISCSI_EXTENT, n, truenas.IscsiExtent(n, volume.asset, "DISK", volume.ref.name))


def _make_link(t: Truth, volume: Volume) -> None:
    target, extent = _id_of(volume, Kind.ISCSI_TARGET), _id_of(volume, Kind.ISCSI_EXTENT)
    if target and extent:
        n = t.number()
        _part(t, volume, Kind.ISCSI_TARGET_EXTENT, n, truenas.IscsiTargetExtent(n, target, extent, 0))
        _mark_more(t, volume, **{csi.ISCSI_NAME: volume.asset})


def _make_subsystem(t: Truth, volume: Volume) -> None:
    n = t.number()
    nqn = f"nqn.2011-06.com.truenas:uuid:1:{volume.asset}"
    _part(t, volume, Kind.NVME_SUBSYSTEM, n, truenas.NvmeSubsystem(n, volume.asset, nqn, any_host=True))
    _mark_more(t, volume, **{csi.NVMEOF_SUBSYSTEM: str(n)})


def _make_namespace(t: Truth, volume: Volume) -> None:
    n, subsystem = t.number(), _id_of(volume, Kind.NVME_SUBSYSTEM)
    if subsystem:
        _part(
            t, volume, Kind.NVME_NAMESPACE, n, truenas.NvmeNamespace(n, 1, subsystem, "ZVOL", volume.ref.name)
        )
        _mark_more(t, volume, **{csi.NVMEOF_NAMESPACE: str(n), csi.NVMEOF_NAME: volume.asset})


def _succeed(t: Truth, volume: Volume) -> None:
    _mark_more(t, volume, **{csi.SUCCESS: "true"})


def _attributes(t: Truth, volume: Volume) -> dict[str, str]:
    host = f"10.0.0.{t.nas.index(volume.deployment.nas) + 1}"
    match volume.deployment.protocol:
        case "nfs":
            return {"node_attach_driver": "nfs", "server": host, "share": f"/mnt/{volume.ref.name}"}
        case "smb":
            return {"node_attach_driver": "smb", "server": host, "share": volume.asset}
        case "iscsi":
            iqn = f"iqn.2005-10.org.freenas.ctl:{volume.asset}"
            return {"node_attach_driver": "iscsi", "portal": f"{host}:3260", "iqn": iqn, "lun": "0"}
        case _:
            nqn = f"nqn.2011-06.com.truenas:uuid:1:{volume.asset}"
            return {
                "node_attach_driver": "nvmeof",
                "transport": f"tcp://{host}:4420",
                "nqn": nqn,
                "nsid": "1",
            }


def _make_pv(t: Truth, volume: Volume) -> None:
    mine = volume.deployment
    if volume.claim is None or not t.exists(volume.claim):
        volume.todo = []
        return
    attributes = _attributes(t, volume) | {"provisioner_driver": mine.driver}
    if mine.instance_id:
        attributes["provisioner_driver_instance_id"] = mine.instance_id
    namespace, _, name = volume.claim.name.partition("/")
    volume.pv = t.put(
        Ref(mine.cluster, Kind.PERSISTENT_VOLUME, volume.name),
        k8s.PersistentVolume(
            volume.name,
            f"uid-of-{volume.name}",
            t.now(),
            phase="Bound",
            reclaim_policy=volume.policy,
            storage_class=f"{mine.csi_driver}-{volume.policy.lower()}",
            capacity_bytes=GIB,
            claim=k8s.ClaimRef(namespace, name, volume.uid),
            csi=k8s.CsiSource(mine.csi_driver, volume.leaf, "", attributes),
            annotations=PROVISIONED,
        ),
    )
    t.use(volume.ref, volume.pv)
    t.backs[volume.pv] = volume.ref


def _bind(t: Truth, volume: Volume) -> None:
    if volume.claim is not None and t.exists(volume.claim):
        t.change(volume.claim, phase="Bound", volume_name=volume.name, capacity_bytes=GIB)


# Removal, step by step (§1.6)


def _is_shared(t: Truth, volume: Volume) -> bool:
    """Whether all that leads to it is there: who mounts it cannot do without."""
    return len(volume.parts) == len(PARTS[volume.deployment.protocol]) and all(map(t.exists, volume.parts))


def _has_session(t: Truth, volume: Volume) -> bool:
    sessions = (Kind.ISCSI_SESSION, Kind.NVME_SESSION)
    return any(use.kind in sessions and t.exists(use) for use in t.uses.get(volume.ref, ()))


def _take_the_share(t: Truth, volume: Volume) -> None:
    """The driver leaves a target or a subsystem alone while a session is on it."""
    if _has_session(t, volume):
        volume.todo = []
        if volume.pv is not None and t.exists(volume.pv):
            t.change(volume.pv, phase="Failed", status_message="target is in use")
        return
    _unshare(t, volume)


def _unshare(t: Truth, volume: Volume) -> None:
    for use in t.uses.get(volume.ref, ()):
        if use.kind in _CONNECTIONS:
            t.drop(use)
    if volume.deployment.protocol == "smb" and volume.deployment.templated:
        # Nothing is left by which anybody could tell what a share's name once meant.
        for use in [u for u in t.uses.get(volume.ref, ()) if "by-hand" in u.name]:
            t.uses[volume.ref].pop(use)
    for ref in reversed(volume.parts):
        t.drop(ref)
    volume.parts = []


def _blockers(t: Truth, ref: Ref) -> bool:
    return any(use.kind is Kind.DATASET and t.exists(use) for use in t.uses.get(ref, ()))


def _destroy(t: Truth, volume: Volume) -> None:
    if volume.deployment.retains_deleted:
        # Only the configuration tells truetally of it.
        if volume.deployment.configured and volume.ref in t.things:
            t.things[volume.ref].kept = "retained: its driver keeps what is deleted"
        else:
            t.untold_policy.add(volume.ref)
        return
    if _blockers(t, volume.ref) or t.busy.get(volume.ref):
        volume.todo = []
        if volume.pv is not None and t.exists(volume.pv):
            t.change(volume.pv, phase="Failed", status_message="filesystem has dependent clones")
        return
    _erase(t, volume.ref)


def _erase(t: Truth, ref: Ref) -> None:
    """A dataset goes with its snapshots and children."""
    for other, value in list(t.objects[ref.source].items()):
        if (isinstance(value, truenas.Snapshot) and value.dataset == ref.name) or (
            isinstance(value, truenas.Dataset) and value.path.startswith(f"{ref.name}/")
        ):
            t.drop(other)
    t.drop(ref)


def _drop_pv(t: Truth, volume: Volume) -> None:
    if volume.pv is not None:
        _note_retention(t, volume)
        t.drop(volume.pv)


def _note_retention(t: Truth, volume: Volume) -> None:
    """A volume with the policy Retain is kept on purpose; who never saw it cannot know."""
    value = t.get(volume.pv) if volume.pv is not None else None
    if not isinstance(value, k8s.PersistentVolume) or value.reclaim_policy != "Retain":
        return
    thing = t.things.get(volume.ref)
    if thing is None:
        return
    all_retain = volume.deployment.configured and volume.deployment.policies == ("Retain",)
    if volume.name in t.retention_told or all_retain:
        thing.kept = "retained: its volume had the policy Retain"
    else:
        t.untold_policy.add(volume.ref)


_STEPS: dict[str, Callable[[Truth, Volume], None]] = {
    "dataset": _make_dataset,
    "bare": lambda t, volume: _make_dataset(t, volume, marked=False),
    "mark": _mark,
    "share": _make_share,
    "target": _make_target,
    "extent": _make_extent,
    "link": _make_link,
    "subsystem": _make_subsystem,
    "namespace": _make_namespace,
    "success": _succeed,
    "pv": _make_pv,
    "bind": _bind,
    "unshare": _take_the_share,
    "destroy": _destroy,
    "forget": _drop_pv,
}


# Choosing


def _pick(t: Truth, which: Callable[[Volume], bool]) -> Volume | None:
    found = [v for v in t.volumes if which(v)]
    return t.rng.choice(found) if found else None


def _whole(t: Truth) -> Volume | None:
    return _pick(t, lambda v: not v.todo and t.exists(v.ref))


def _bound(t: Truth) -> Volume | None:
    return _pick(t, lambda v: not v.todo and v.pv is not None and t.exists(v.pv) and t.exists(v.ref))


# Drivers and controllers


@deed(4)
def provision(t: Truth) -> None:
    """A claim, and the driver does all of it."""
    if len(t.volumes) < 9:
        volume = _begin(t, t.rng.choice(t.deployments))
        while volume.todo:
            _step(t, volume)


@deed(3)
def begin_to_provision(t: Truth) -> None:
    if len(t.volumes) < 9:
        volume = _begin(t, t.rng.choice(t.deployments))
        for _ in range(t.rng.randrange(len(volume.todo))):
            if volume.todo:
                _step(t, volume)


@deed(4)
def go_on(t: Truth) -> None:
    """The driver does its next step, or all that are left."""
    volume = _pick(t, lambda v: bool(v.todo))
    if volume is not None:
        _step(t, volume)
        while volume.todo and t.rng.random() < 0.5:
            _step(t, volume)


@deed(2)
def give_up_provisioning(t: Truth) -> None:
    """The claim is deleted while the driver has not finished, and nobody cleans up (states A to D)."""
    volume = _pick(t, lambda v: bool(v.todo) and v.pv is None)
    if volume is not None:
        t.drop(volume.claim)
        volume.todo = []
        copy = t.get(volume.ref)
        if isinstance(copy, truenas.Dataset) and not copy.origin and not copy.user_properties:
            # Half a copy that nobody wants needs what it was copied from no more.
            for users in t.uses.values():
                users.pop(volume.ref, None)


@deed(1)
def delete_claim_before_the_volume_is_known(t: Truth) -> None:
    """The driver finishes, but the claim is gone before there is a PersistentVolume (step 7)."""
    if len(t.volumes) < 9:
        volume = _begin(t, t.rng.choice(t.deployments))
        t.drop(volume.claim)
        while volume.todo:
            _step(t, volume)


@deed(4)
def delete(t: Truth) -> None:
    """The claim is deleted: the volume is released, and with Delete the driver begins to remove it."""
    volume = _bound(t)
    if volume is None or volume.pv is None:
        return
    detach_all(t, volume)
    t.drop(volume.claim)
    value = t.get(volume.pv)
    t.change(volume.pv, phase="Released", phase_changed_at=t.now())
    if isinstance(value, k8s.PersistentVolume) and value.reclaim_policy == "Delete":
        volume.todo = ["unshare", "destroy", "forget"]


@deed(2)
def remove_the_volume_by_force(t: Truth) -> None:
    """Somebody removes the finalizers of a PersistentVolume, whatever the driver is at."""
    volume = _pick(t, lambda v: v.pv is not None and t.exists(v.pv))
    if volume is None:
        return
    volume.todo = []
    if t.rng.random() < 0.7:
        detach_all(t, volume)
        t.drop(volume.claim)
    elif volume.claim is not None and t.exists(volume.claim):
        t.change(volume.claim, phase="Lost")
    _drop_pv(t, volume)


@deed(1)
def retain(t: Truth) -> None:
    volume = _bound(t)
    if volume is not None and volume.pv is not None and not volume.todo:
        volume.policy = "Retain"
        t.change(volume.pv, reclaim_policy="Retain")


@deed(2)
def expand(t: Truth) -> None:
    volume = _bound(t)
    if volume is not None and volume.pv is not None:
        t.change(volume.pv, capacity_bytes=2 * GIB)
        t.change(volume.ref, quota_bytes=2 * GIB)


# Pods, attachments, sessions


@deed(4)
def attach(t: Truth) -> None:
    volume = _bound(t)
    if volume is None or volume.pv is None or volume.claim is None or not t.exists(volume.claim):
        return
    mine, node = volume.deployment, t.rng.choice(NODES)
    claim = volume.claim.name.partition("/")[2]
    pod = f"pod-{t.number()}"
    where = Ref(mine.cluster, Kind.POD, f"default/{pod}")
    t.put(where, k8s.Pod("default", pod, f"uid-{pod}", "Running", node, claims=(claim,)))
    t.use(volume.ref, where)
    attachment = f"csi-{t.number()}"
    t.put(
        Ref(mine.cluster, Kind.VOLUME_ATTACHMENT, attachment),
        k8s.VolumeAttachment(attachment, t.now(), mine.csi_driver, node, volume.name, attached=True),
    )
    _connect(t, volume, node)


def _connect(t: Truth, volume: Volume, host: str) -> None:
    mine = volume.deployment
    match mine.protocol:
        case "nfs":
            ref = Ref(mine.nas, Kind.NFS_CLIENT, f"{host}>{volume.ref.name}")
            t.put(ref, truenas.NfsClient(host, 3, f"/mnt/{volume.ref.name}"))
        case "smb":
            ref = Ref(mine.nas, Kind.SMB_CLIENT, f"{host}>{volume.asset}")
            t.put(ref, truenas.SmbClient(host, volume.asset))
        case "iscsi":
            target = f"iqn.2005-10.org.freenas.ctl:{volume.asset}"
            ref = Ref(mine.nas, Kind.ISCSI_SESSION, f"{host}>{target}")
            t.put(ref, truenas.IscsiSession(f"iqn.{host}", host, target))
        case _:
            subsystem = _id_of(volume, Kind.NVME_SUBSYSTEM)
            ref = Ref(mine.nas, Kind.NVME_SESSION, f"{host}>{subsystem}")
            t.put(ref, truenas.NvmeSession(f"nqn.{host}", host, subsystem, 1, 1))
    if _is_shared(t, volume):
        t.use(volume.ref, ref)
    else:
        t.drop(ref)


_CONNECTIONS = (Kind.NFS_CLIENT, Kind.SMB_CLIENT, Kind.ISCSI_SESSION, Kind.NVME_SESSION)


def detach_all(t: Truth, volume: Volume) -> None:
    for use in list(t.uses.get(volume.ref, ())):
        if use.kind is Kind.POD or use.kind in _CONNECTIONS:
            t.drop(use)
    for ref in (
        t.of_kind(volume.deployment.cluster, Kind.VOLUME_ATTACHMENT) if volume.deployment.cluster else ()
    ):
        value = t.get(ref)
        if isinstance(value, k8s.VolumeAttachment) and value.volume_name == volume.name:
            t.drop(ref)


@deed(3)
def detach(t: Truth) -> None:
    volume = _whole(t)
    if volume is not None:
        detach_all(t, volume)


@deed(1)
def lose_a_node(t: Truth) -> None:
    """A node is gone, and with it sometimes its pods; its attachments stay."""
    cluster = t.rng.choice(t.clusters)
    node = t.rng.choice(NODES)
    t.drop(Ref(cluster, Kind.NODE, node))
    if t.rng.random() < 0.7:
        for ref in t.of_kind(cluster, Kind.POD):
            value = t.get(ref)
            if isinstance(value, k8s.Pod) and value.node == node:
                t.drop(ref)


@deed(1)
def bring_nodes_back(t: Truth) -> None:
    for cluster in t.clusters:
        for node in NODES:
            ref = Ref(cluster, Kind.NODE, node)
            if not t.exists(ref):
                t.put(ref, k8s.Node(node, f"uid-{cluster}-{node}"))


# Snapshots and clones


def _content(t: Truth, snapshot: CsiSnapshot, handle: str, policy: str, velero: bool) -> None:
    volume = snapshot.volume
    mine = volume.deployment
    name = f"snap-{t.number()}"
    if not mine.cluster:
        return
    if not velero:
        snapshot.vs = t.put(
            Ref(mine.cluster, Kind.VOLUME_SNAPSHOT, f"default/{name}"),
            k8s.VolumeSnapshot(
                "default",
                name,
                snapshot.uid,
                t.now(),
                source_claim=(volume.claim.name if volume.claim else "/").partition("/")[2],
                bound_content=f"snapcontent-{snapshot.uid}",
            ),
        )
    snapshot.content = t.put(
        Ref(mine.cluster, Kind.VOLUME_SNAPSHOT_CONTENT, f"snapcontent-{snapshot.uid}"),
        k8s.VolumeSnapshotContent(
            f"snapcontent-{snapshot.uid}",
            f"uid-of-{name}",
            t.now(),
            mine.csi_driver,
            deletion_policy=policy,
            source_volume_handle=volume.leaf,
            snapshot_handle=handle,
            snapshot_namespace="default",
            snapshot_name=name,
            snapshot_uid=snapshot.uid,
            labels={"velero.io/backup-name": "nightly"} if velero else {},
        ),
    )
    for ref in (snapshot.vs, snapshot.content):
        if ref is not None:
            t.use(snapshot.ref, ref)
            if ref.kind is Kind.VOLUME_SNAPSHOT_CONTENT:
                t.use(volume.ref, ref)
    t.backs[snapshot.content] = snapshot.ref


def _snapshot_marks(t: Truth, volume: Volume, uid: str) -> dict[str, truenas.UserProperty]:
    marks = {csi.MANAGED: "true", csi.SNAPSHOT_NAME: f"snapshot-{uid}"}
    return t.properties(volume.deployment.nas, marks)


@deed(3)
def take_snapshot(t: Truth) -> None:
    volume = _bound(t)
    if volume is None:
        return
    uid, nas = t.uid(), volume.deployment.nas
    name, path = f"snapshot-{uid}", volume.ref.name
    ref = Ref(nas, Kind.SNAPSHOT, f"{path}@{name}")
    marks = _snapshot_marks(t, volume, uid)
    t.put(
        ref,
        truenas.Snapshot(
            path, name, t.now(), holds=(), clones=(), defer_destroy=False, user_properties=marks
        ),
    )
    t.things[ref] = Thing(volume.deployment)
    snapshot = CsiSnapshot(volume, uid, ref, None, None)
    policy = t.rng.choice(("Delete", "Delete", "Retain"))
    _content(t, snapshot, f"{volume.leaf}@{name}", policy, velero=policy == "Retain" and t.rng.random() < 0.5)
    t.snapshots.append(snapshot)


@deed(2)
def take_detached_snapshot(t: Truth) -> None:
    volume = _bound(t)
    if volume is None:
        return
    mine, uid = volume.deployment, t.uid()
    container = f"{mine.snapshots_parent}/{volume.leaf}"
    _container(t, mine.nas, container)
    name, path = f"snapshot-{uid}", f"{container}/snapshot-{uid}"
    ref = Ref(mine.nas, Kind.DATASET, path)
    marks = _snapshot_marks(t, volume, uid)
    t.put(
        ref,
        truenas.Dataset(
            path, POOL, "FILESYSTEM", t.now(), locked=False, readonly=False, user_properties=marks
        ),
    )
    t.things[ref] = Thing(mine)
    snapshot = CsiSnapshot(volume, uid, ref, None, None)
    _content(t, snapshot, f"{volume.leaf}/{name}", "Delete", velero=False)
    t.snapshots.append(snapshot)


@deed(2)
def delete_snapshot(t: Truth) -> None:
    """The driver destroys it, deferred while a clone needs it; or fails, and it leaks."""
    if not t.snapshots:
        return
    snapshot = t.rng.choice(t.snapshots)
    t.snapshots.remove(snapshot)
    content = t.get(snapshot.content) if snapshot.content is not None else None
    t.drop(snapshot.vs)
    if isinstance(content, k8s.VolumeSnapshotContent) and content.deletion_policy == "Retain":
        if t.rng.random() < 0.5 and snapshot.content is not None:
            told = f"content {content.snapshot_handle}" in t.retention_told
            t.drop(snapshot.content)
            if told and snapshot.ref in t.things:
                t.things[snapshot.ref].kept = "retained: its content had the policy Retain"
            else:
                t.untold_policy.add(snapshot.ref)
        return
    t.drop(snapshot.content)
    if t.rng.random() < 0.35 or not t.exists(snapshot.ref):
        return
    if _blockers(t, snapshot.ref):
        if snapshot.ref.kind is Kind.SNAPSHOT:
            t.change(snapshot.ref, defer_destroy=True)
        return
    _erase(t, snapshot.ref)


@deed(2)
def clone(t: Truth) -> None:
    """A volume is cloned from another: a snapshot of its own stays as long as the clone lives."""
    source = _bound(t)
    if source is None or len(t.volumes) >= 9:
        return
    mine = source.deployment
    volume = _begin(t, mine, source_id=source.leaf)
    if t.rng.random() < 0.6:
        name = f"volume-source-for-volume-{volume.leaf}"
        ref = Ref(mine.nas, Kind.SNAPSHOT, f"{source.ref.name}@{name}")
        t.put(ref, truenas.Snapshot(source.ref.name, name, t.now(), holds=(), clones=(), user_properties={}))
        t.things[ref] = Thing(mine)
        for use in (volume.ref, volume.claim):
            if use is not None:
                t.use(ref, use)
        volume.origin = ref.name
        volume.todo = ["dataset", *[step for step in volume.todo if step not in ("bare", "mark")]]
    t.use(source.ref, volume.ref)
    for _ in range(t.rng.randrange(len(volume.todo) + 1)):
        if volume.todo:
            _step(t, volume)


@deed(2)
def restore(t: Truth) -> None:
    """A volume is made from an attached snapshot."""
    found = [s for s in t.snapshots if s.ref.kind is Kind.SNAPSHOT and t.exists(s.ref)]
    if not found or len(t.volumes) >= 9:
        return
    snapshot = t.rng.choice(found)
    handle = f"{snapshot.volume.leaf}@snapshot-{snapshot.uid}"
    volume = _begin(t, snapshot.volume.deployment, origin=snapshot.ref.name, source_id=handle)
    t.use(snapshot.volume.ref, volume.ref)
    t.use(snapshot.ref, volume.ref)
    while volume.todo and t.rng.random() < 0.9:
        _step(t, volume)


# People


@deed(3)
def adopt(t: Truth) -> None:
    """Somebody writes a PersistentVolume, or a pod, by hand that uses an existing volume under any name."""
    volume = _pick(t, lambda v: t.exists(v.ref) and _is_shared(t, v) and not v.todo)
    if volume is None:
        return
    cluster, n = t.rng.choice(t.clusters), t.number()
    name, mine = f"data-by-hand-{n}", volume.deployment
    attributes = _attributes(t, volume)
    host = f"10.0.0.{t.nas.index(mine.nas) + 1}"
    value = k8s.PersistentVolume(
        name, f"uid-{name}", t.now(), phase=t.rng.choice(("Bound", "Available")), reclaim_policy="Retain"
    )
    ways = ["static", "node-manual"]
    ways += {"nfs": ["in-tree", "csi-nfs", "pod"], "iscsi": ["in-tree"], "smb": ["csi-smb"]}.get(
        mine.protocol, []
    )
    match t.rng.choice(ways):
        case "static":
            source = k8s.CsiSource(mine.csi_driver, f"old-{n}", "", attributes)
        case "node-manual":
            manual = attributes | {"provisioner_driver": "node-manual"}
            source = k8s.CsiSource("org.democratic-csi.node-manual", f"manual-{n}", "", manual)
        case "csi-nfs":
            share = {"server": host, "share": f"/mnt/{mine.parent}", "subDir": volume.leaf}
            source = k8s.CsiSource("nfs.csi.k8s.io", f"{host}#{mine.parent}#{n}", "", share)
        case "csi-smb":
            source = k8s.CsiSource("smb.csi.k8s.io", f"smb-{n}", "", {"source": f"//{host}/{volume.asset}"})
        case "pod":
            pod = Ref(cluster, Kind.POD, f"default/{name}")
            inline = k8s.NfsSource(host, f"/mnt/{volume.ref.name}")
            t.use(
                volume.ref,
                t.put(pod, k8s.Pod("default", name, f"uid-{name}", "Running", "node1", nfs=(inline,))),
            )
            return
        case _:
            source = None
    if source is not None:
        value = k8s.PersistentVolume(**_fields(value), csi=source)
    elif mine.protocol == "nfs":
        value = k8s.PersistentVolume(**_fields(value), nfs=k8s.NfsSource(host, f"/mnt/{volume.ref.name}"))
    else:
        iscsi = k8s.IscsiSource((f"{host}:3260",), attributes["iqn"])
        value = k8s.PersistentVolume(**_fields(value), iscsi=iscsi)
    ref = t.put(Ref(cluster, Kind.PERSISTENT_VOLUME, name), value)
    t.use(volume.ref, ref)
    t.backs[ref] = volume.ref


def _fields(value: k8s.PersistentVolume) -> dict[str, object]:
    return {f: getattr(value, f) for f in ("name", "uid", "created_at", "phase", "reclaim_policy")}


@deed(2)
def hand_over(t: Truth) -> None:
    """A volume is adopted, and its first PersistentVolume taken away: only the one made by hand is left."""
    volume = _bound(t)
    if volume is None or volume.pv is None:
        return
    before = len(t.uses.get(volume.ref, ()))
    t.volumes, others = [volume], t.volumes
    adopt(t)
    t.volumes = others
    if len(t.uses.get(volume.ref, ())) > before:
        detach_all(t, volume)
        t.drop(volume.claim)
        _drop_pv(t, volume)


@deed(1)
def drop_what_was_made_by_hand(t: Truth) -> None:
    cluster = t.rng.choice(t.clusters)
    found = [ref for ref in t.objects[cluster] if "by-hand" in ref.name]
    if found:
        ref = t.rng.choice(found)
        if ref in t.backs:
            # Whether its Retain was meant for the data, nobody can tell.
            t.untold_policy.add(t.backs[ref])
        t.drop(ref)


@deed(1, on_nas_alone=True)
def destroy_by_hand(t: Truth) -> None:
    """Somebody destroys a dataset on the NAS: its volume has lost its data."""
    volume = _whole(t)
    if volume is not None and not _blockers(t, volume.ref) and not _has_session(t, volume):
        _erase(t, volume.ref)
        if not volume.deployment.over_ssh or t.rng.random() < 0.5:
            _unshare(t, volume)


@deed(1, on_nas_alone=True)
def receive_anew(t: Truth) -> None:
    """Somebody brings a dataset back from a backup, to import it in a while."""
    volume = _pick(t, lambda v: v.ref in t.things and not v.todo and not _blockers(t, v.ref))
    if volume is None or _has_session(t, volume):
        return
    _erase(t, volume.ref)
    for uses in t.uses.values():
        uses.pop(volume.ref, None)
    _make_dataset(t, replace(volume, origin="", source_id=""))
    if t.rng.random() < 0.3:
        t.change(volume.ref, created_at=None)


@deed(1, on_nas_alone=True)
def use_on_the_nas(t: Truth) -> None:
    """An app, a process or a person's job on the NAS uses a dataset."""
    volume = _whole(t)
    if volume is not None:
        t.busy.setdefault(volume.ref, set()).add(
            t.rng.choice(("app plex", "process rsync", "job replication"))
        )


@deed(1)
def leave_it_alone_on_the_nas(t: Truth) -> None:
    volume = _whole(t)
    if volume is not None:
        t.busy.pop(volume.ref, None)


@deed(1, on_nas_alone=True)
def connect_from_elsewhere(t: Truth) -> None:
    """A hypervisor, a desktop or a cluster that nobody watches has a session on a volume."""
    volume = _pick(t, lambda v: t.exists(v.ref) and _is_shared(t, v) and not v.todo)
    if volume is not None:
        _connect(t, volume, f"desktop{t.number()}")


@deed(1, on_nas_alone=True)
def name_in_a_task(t: Truth) -> None:
    volume = _whole(t)
    if volume is not None:
        n = t.number()
        task = truenas.SnapshotTask(n, volume.ref.name, False, True, "auto-%Y")
        t.use(volume.ref, t.put(Ref(volume.ref.source, Kind.SNAPSHOT_TASK, str(n)), task))


@deed(2, on_nas_alone=True)
def hold_or_periodic_snapshot(t: Truth) -> None:
    """A snapshot that a person or a task has made, held or not; it inherits the volume's marks."""
    volume = _whole(t)
    if volume is None:
        return
    held, n = t.rng.random() < 0.5, t.number()
    ref = Ref(volume.ref.source, Kind.SNAPSHOT, f"{volume.ref.name}@auto-{n}")
    marks = t.properties(volume.ref.source, {csi.MANAGED: "true"}, Origin.INHERITED)
    holds = ("keep",) if held else ()
    t.put(
        ref,
        truenas.Snapshot(
            volume.ref.name, f"auto-{n}", t.now(), holds=holds, clones=(), user_properties=marks
        ),
    )
    if held:
        t.use(volume.ref, ref)


@deed(1, on_nas_alone=True)
def exempt(t: Truth) -> None:
    volume = _whole(t)
    if volume is not None and volume.ref in t.things:
        _mark_more(t, volume, **{"truetally:ignore": "kept for the auditors"})
        t.things[volume.ref].kept = "exempt"


@deed(1, on_nas_alone=True)
def lock_or_freeze(t: Truth) -> None:
    volume = _whole(t)
    if volume is not None:
        t.change(volume.ref, **{t.rng.choice(("locked", "readonly")): True})


@deed(1, on_nas_alone=True)
def unlock(t: Truth) -> None:
    for volume in t.volumes:
        if t.exists(volume.ref):
            t.change(volume.ref, locked=False, readonly=False)


@deed(2, on_nas_alone=True)
def replicate(t: Truth) -> None:
    """A volume is copied with its properties: to another place, or beside itself under another name."""
    volume = _whole(t)
    if volume is None:
        return
    beside = t.rng.random() < 0.4
    nas = volume.ref.source if beside else t.rng.choice(t.nas)
    path = f"{volume.ref.name}-copy" if beside else f"{POOL}/backup/{volume.leaf}"
    value = t.get(volume.ref)
    if not isinstance(value, truenas.Dataset):
        return
    if not beside:
        _container(t, nas, f"{POOL}/backup")
    marks = {
        name: prop.value for name, prop in value.user_properties.items() if not name.startswith("truetally")
    }
    ref = Ref(nas, Kind.DATASET, path)
    t.put(
        ref,
        truenas.Dataset(
            path,
            POOL,
            value.kind,
            t.now() - timedelta(days=t.rng.randrange(2)),
            mountpoint=f"/mnt/{path}" if value.mountpoint else None,
            locked=False,
            readonly=t.rng.random() < 0.3,
            user_properties=t.properties(nas, marks, Origin.RECEIVED),
        ),
    )


@deed(1, on_nas_alone=True)
def make_a_directory_dataset(t: Truth) -> None:
    """Somebody makes a dataset inside a volume; it inherits the marks."""
    volume = _whole(t)
    value = t.get(volume.ref) if volume is not None else None
    if volume is None or not isinstance(value, truenas.Dataset):
        return
    path = f"{volume.ref.name}/inside{t.number()}"
    ref = Ref(volume.ref.source, Kind.DATASET, path)
    marks = {name: prop.value for name, prop in value.user_properties.items()}
    inherited = t.properties(ref.source, marks, Origin.INHERITED)
    t.put(ref, truenas.Dataset(path, POOL, "FILESYSTEM", t.now(), locked=False, user_properties=inherited))
    t.use(volume.ref, ref)


@deed(1, on_nas_alone=True)
def unshare_by_hand(t: Truth) -> None:
    """Somebody removes a share, target or subsystem of a volume."""
    volume = _pick(t, lambda v: t.exists(v.ref) and bool(v.parts) and not v.todo)
    if volume is not None and not any("by-hand" in use.name for use in t.uses.get(volume.ref, ())):
        detach_all(t, volume)
        _unshare(t, volume)


@deed(1, on_nas_alone=True)
def export_or_import_the_pool(t: Truth) -> None:
    nas = t.rng.choice(t.nas)
    pool = Ref(nas, Kind.POOL, POOL)
    if nas in t.exported:
        t.exported.discard(nas)
        t.change(pool, status="ONLINE")
    elif t.rng.random() < 0.4:
        t.exported.add(nas)
        t.change(pool, status="OFFLINE")
    for ref in t.objects[nas]:
        if ref.kind in (Kind.DATASET, Kind.SNAPSHOT):
            t.changed.append(ref)


@deed(8)
def nothing(t: Truth) -> None:
    """Time goes by."""
