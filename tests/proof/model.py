"""The truth: Kubernetes clusters and NAS as they really are, and whose each thing is.

Pure values. Truetally sees of it what `observation.py` tells; here it is known without
doubt who wants what: every object that makes a dataset wanted is noted as a use of it
when a deed makes it, whatever truetally would make of its name, path or attributes. So
the label of a thing never comes from the code that is being proven.

What can be told at all is the limit of what is asked: whoever names a parent under
`drivers` says that nobody else has volumes in it whom no instance id, no marker and no
other driver tells apart; and that a volume was to be kept is known to no one who never
saw that it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec

from truetally.csi import democratic_csi as csi
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.observations import Value
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Origin, UserProperty
from truetally.settings import Settings

GRACE = 3600.0
BEGAN = datetime(2026, 11, 24, 12, tzinfo=UTC)
MARKER = "k8s:cluster"
POOL = "tank"


@dataclass(frozen=True)
class Deployment:
    """One democratic-csi deployment; `cluster` is empty for one that serves Nomad."""

    cluster: str
    watched: bool
    nas: str
    csi_driver: str
    driver: str
    parent: str
    instance_id: str = ""
    marker: str = ""
    configured: bool = True
    retains_deleted: bool = False
    templated: bool = False
    policies: tuple[str, ...] = ("Delete",)

    @property
    def protocol(self) -> str:
        return self.driver.rpartition("-")[2]

    @property
    def over_ssh(self) -> bool:
        return "-api-" not in self.driver

    @property
    def snapshots_parent(self) -> str:
        return self.parent.replace("/vols", "/snaps")


@dataclass(eq=False)
class Thing:
    """Something on a NAS that a driver has made.

    Attributes:
        of: the dataset whose part it is (a share, an extent); it is wanted as long as that is.
        kept: why nobody may call it unused although nothing refers to it.
    """

    deployment: Deployment
    of: Ref | None = None
    kept: str = ""


@dataclass(eq=False)
class Volume:
    """A volume and how far its making or its removal has come."""

    deployment: Deployment
    uid: str
    leaf: str
    ref: Ref
    policy: str
    parts: list[Ref] = field(default_factory=list)
    claim: Ref | None = None
    pv: Ref | None = None
    todo: list[str] = field(default_factory=list)
    origin: str = ""
    source_id: str = ""
    asset: str = ""
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"pvc-{self.uid}"


@dataclass(eq=False)
class CsiSnapshot:
    """A VolumeSnapshot, its content and what is on the NAS."""

    volume: Volume
    uid: str
    ref: Ref
    vs: Ref | None
    content: Ref | None


class Truth:
    """All systems at once.

    Attributes:
        ticks: monotonic seconds.
        objects: by system, everything in it, whether truetally watches it or not.
        uses: what makes a storage object wanted, as long as it exists.
        busy: uses of a dataset that are no objects: processes, apps, jobs of a person.
        backs: the dataset that a PersistentVolume of a watched cluster needs.
        changed: what has changed since this was last taken.
    """

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.ticks = 100_000.0
        self.objects: dict[str, dict[Ref, Value]] = {}
        self.uses: dict[Ref, dict[Ref, None]] = {}
        self.busy: dict[Ref, set[str]] = {}
        self.things: dict[Ref, Thing] = {}
        self.backs: dict[Ref, Ref] = {}
        self.volumes: list[Volume] = []
        self.snapshots: list[CsiSnapshot] = []
        self.deployments: list[Deployment] = []
        self.clusters: list[str] = []
        self.nas: list[str] = []
        self.hides_origin: set[str] = set()
        self.exported: set[str] = set()
        self.untold_policy: set[Ref] = set()
        self.retention_told: set[str] = set()
        self.provisioners_told: set[tuple[str, str]] = set()
        self.changed: list[Ref] = []
        self.serial = 0

    # What is

    def now(self) -> datetime:
        return BEGAN + timedelta(seconds=self.ticks - 100_000.0)

    def number(self) -> int:
        self.serial += 1
        return self.serial

    def uid(self) -> str:
        n = self.number()
        return f"{self.rng.randrange(1 << 32):08x}-{n:04x}-4000-8000-{n:012x}"

    def get(self, ref: Ref) -> Value | None:
        return self.objects[ref.source].get(ref)

    def exists(self, ref: Ref) -> bool:
        return ref in self.objects[ref.source]

    def put(self, ref: Ref, value: Value) -> Ref:
        self.objects[ref.source][ref] = value
        self.changed.append(ref)
        return ref

    def change(self, ref: Ref, **changes: object) -> None:
        self.put(ref, msgspec.structs.replace(self.objects[ref.source][ref], **changes))

    def drop(self, ref: Ref | None) -> None:
        if ref is not None and self.objects[ref.source].pop(ref, None) is not None:
            self.changed.append(ref)

    def use(self, what: Ref, by: Ref) -> None:
        self.uses.setdefault(what, {})[by] = None

    def of_kind(self, source: str, kind: Kind) -> list[Ref]:
        return [ref for ref in self.objects[source] if ref.kind is kind]

    def visible(self, ref: Ref) -> Value | None:
        """What its system tells of it: of an exported pool's datasets nothing."""
        value = self.objects[ref.source].get(ref)
        if ref.source in self.exported and ref.kind in (Kind.DATASET, Kind.SNAPSHOT):
            return None
        return value

    def properties(
        self, nas: str, values: dict[str, str], origin: Origin = Origin.LOCAL
    ) -> dict[str, UserProperty]:
        told = Origin.UNKNOWN if nas in self.hides_origin else origin
        return {name: UserProperty(value, told) for name, value in values.items() if value}

    # Whose it is

    def why_wanted(self, ref: Ref) -> str:
        """Why nobody may call a storage object unused; empty for an orphan."""
        thing = self.things.get(ref)
        if thing is None:
            return "foreign: no driver made it"
        if not thing.deployment.watched:
            return f"foreign: made for {thing.deployment.cluster or 'Nomad'}"
        if thing.kept and self.exists(ref):
            return thing.kept
        for use in self.uses.get(ref, ()):
            if self.exists(use):
                return f"wanted by {use}"
        if (busy := self.busy.get(ref)) and self.exists(ref):
            return f"in use: {min(busy)}"
        value = self.objects[ref.source].get(ref)
        if isinstance(value, truenas.Dataset) and (why := self._why_dataset(ref, value)):
            return why
        if isinstance(value, truenas.Snapshot):
            if value.defer_destroy or value.holds or value.clones:
                return "held, cloned or destroyed already"
            if self.ticks - self._ticks_of(value.created_at) < GRACE:
                return "in flight: younger than the grace"
            if ref.source in self.exported:
                return "unknown: its pool is not imported"
        return self.why_wanted(thing.of) if thing.of is not None else ""

    def _why_dataset(self, ref: Ref, value: truenas.Dataset) -> str:
        if value.created_at is None:
            return "unknown: its age is not told"
        if self.ticks - self._ticks_of(value.created_at) < GRACE:
            return "in flight: younger than the grace"
        if value.locked or value.readonly:
            return "unknown: locked or a replica"
        if ref.source in self.exported:
            return "unknown: its pool is not imported"
        return ""

    def _ticks_of(self, at: datetime | None) -> float:
        return (at - BEGAN).total_seconds() + 100_000.0 if at is not None else self.ticks

    def may_be_kept(self, ref: Ref) -> bool:
        """Whether it was meant to be kept and truetally could not see that: either answer is right then."""
        return ref in self.untold_policy

    def provable(self, volume: Volume) -> bool:
        """Whether what there is to see proves the volume's dataset ours, if nothing wants it."""
        mine = volume.deployment
        value = self.get(volume.ref)
        if not isinstance(value, truenas.Dataset) or not csi.is_managed(value) or not mine.configured:
            return False
        if volume.ref.source in self.hides_origin and csi.own(value, csi.VOLUME_NAME) != value.leaf:
            return False
        mine_told = (mine.driver, mine.instance_id) in self.provisioners_told
        keeping = mine.retains_deleted or "Retain" in mine.policies
        # A neighbour in the parent makes its owner doubtful, and so does a driver never seen at work.
        if (
            keeping
            or not mine_told
            or any(d.watched and self._shares_parent(mine, d) for d in self.deployments)
        ):
            return False
        beside = {
            self.things[ref].deployment if ref in self.things else None
            for ref, other in self.objects[mine.nas].items()
            if isinstance(other, truenas.Dataset)
            if other.parent == mine.parent and csi.MANAGED in other.user_properties
        }
        return beside <= {mine}

    @staticmethod
    def _shares_parent(mine: Deployment, other: Deployment) -> bool:
        return other is not mine and (other.nas, other.parent) == (mine.nas, mine.parent)

    def orphans(self) -> list[Volume]:
        """The volumes whose datasets nothing wants."""
        return [v for v in self.volumes if self.exists(v.ref) and not self.why_wanted(v.ref)]

    # Kubernetes' side

    def why_whole(self, ref: Ref, rule: str) -> str:
        """Why a Kubernetes object must not be called broken or stale; empty if it is, or is gone."""
        value = self.objects[ref.source].get(ref)
        match value:
            case k8s.PersistentVolume():
                return self._why_volume(ref, rule)
            case k8s.PersistentVolumeClaim():
                volume = Ref(ref.source, Kind.PERSISTENT_VOLUME, value.volume_name)
                return "its volume exists" if value.phase != "Lost" and self.exists(volume) else ""
            case k8s.VolumeSnapshotContent() if rule == "content-unreferenced":
                named = f"{value.snapshot_namespace}/{value.snapshot_name}"
                there = self.exists(Ref(ref.source, Kind.VOLUME_SNAPSHOT, named))
                return "its VolumeSnapshot exists" if there else ""
            case k8s.VolumeSnapshotContent():
                taken = self.backs.get(ref)
                return "its snapshot exists" if taken is None or self.exists(taken) else ""
            case k8s.VolumeAttachment():
                return self._why_attached(ref.source, value)
        return ""

    def _why_volume(self, ref: Ref, rule: str) -> str:
        dataset = self.backs.get(ref)
        if dataset is None:
            return "its data is on no watched NAS"
        if rule == "volume-without-dataset":
            return "its dataset exists" if self.exists(dataset) else ""
        volume = next((v for v in self.volumes if v.ref == dataset), None)
        value = self.get(dataset)
        if volume is None or not isinstance(value, truenas.Dataset) or value.locked:
            return ""
        whole = bool(volume.parts) and all(map(self.exists, volume.parts))
        return "all that leads to its data is there" if whole else ""

    def _why_attached(self, cluster: str, attachment: k8s.VolumeAttachment) -> str:
        node = Ref(cluster, Kind.NODE, attachment.node)
        volume = Ref(cluster, Kind.PERSISTENT_VOLUME, attachment.volume_name)
        if self.exists(node) and self.exists(volume) and attachment.deleted_at is None:
            return "its node and its volume exist"
        dataset = self.backs.get(volume)
        for use in self.uses.get(dataset, ()) if dataset is not None else ():
            if use.kind in (Kind.ISCSI_SESSION, Kind.NVME_SESSION) and self.exists(use):
                return f"{use} is live"
        return ""


def settings_of(truth: Truth) -> Settings:
    """What the operator of this world has written down."""
    addresses = {nas: f"10.0.0.{n}" for n, nas in enumerate(truth.nas, 1)}
    return Settings.model_validate(
        {
            "clusters": [{"name": c, "kubeconfig": "/dev/null"} for c in truth.clusters],
            "nas": [
                {
                    "name": nas,
                    "url": f"wss://{nas}.example.com",
                    "username": "truetally",
                    "api_key": {"env": "KEY"},
                    "addresses": [addresses[nas]],
                }
                for nas in truth.nas
            ],
            "drivers": [_configured(d) for d in truth.deployments if d.watched and d.configured],
        }
    )


def _configured(deployment: Deployment) -> dict[str, object]:
    said: dict[str, object] = {
        "driver": deployment.csi_driver,
        "cluster": deployment.cluster,
        "nas": deployment.nas,
        "parent": deployment.parent,
        "snapshots_parent": deployment.snapshots_parent,
        "retains_deleted": deployment.retains_deleted,
    }
    if deployment.instance_id:
        said["instance_id"] = deployment.instance_id
    if deployment.marker:
        said |= {"marker_property": MARKER, "marker_value": deployment.marker}
    return said
