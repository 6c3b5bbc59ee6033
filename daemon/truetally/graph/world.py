"""The world as rules and the API may ask it: the graph, the settings, and what time it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

import msgspec

from truetally.graph.graph import Graph, Node, value_of
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Finding
from truetally.model.refs import KUBERNETES_KINDS, TRUENAS_KINDS, Kind, Ref
from truetally.settings import DriverSettings, Exemption, Settings


class Gap(msgspec.Struct, frozen=True):
    """A kind whose absence cannot be judged: why, and whether it merely has not been listed yet."""

    reason: str
    starting: bool = False


def _nothing_told(_rule: str, _subject: Ref) -> Finding | None:
    return None


class World:
    """A view of the graph at one moment, and of what has been told of it.

    Attributes:
        now: the wall clock, for ages of objects.
        ticks: monotonic seconds, for the order of evidence.
        told: the finding of a rule on a subject that people know of and that has not resolved: open or held.
            A rule asks it only for hysteresis: what has been told may take a little more to be taken back.
        memo: what several rules would otherwise work out again about the same subject.
    """

    def __init__(
        self,
        graph: Graph,
        settings: Settings,
        now: datetime,
        ticks: float,
        told: Callable[[str, Ref], Finding | None] = _nothing_told,
    ) -> None:
        self.graph = graph
        self.settings = settings
        self.now = now
        self.ticks = ticks
        self.told = told
        self.memo: dict[object, object] = {}
        self.clusters = tuple(c.name for c in settings.clusters)
        self.nas_names = tuple(n.name for n in settings.nas)
        self._nas_by_host = self._addresses()

    def _addresses(self) -> dict[str, str]:
        """Which NAS answers at a host: what the operator says goes before what the NAS themselves say.

        Two NAS may have the same address on networks of their own (a bridge for apps, the link between two
        controllers). A host that does not tell which one is meant leads to none.
        """
        said: dict[str, set[str]] = {}
        found: dict[str, set[str]] = {}
        for nas in self.settings.nas:
            for host in (urlsplit(nas.url).hostname or nas.url, *nas.addresses):
                said.setdefault(host.lower(), set()).add(nas.name)
            if (system := self.system(nas.name)) is not None:
                for host in filter(_tells_a_nas, (*system.addresses, system.hostname)):
                    found.setdefault(host.lower(), set()).add(nas.name)
        return {host: next(iter(names)) for host, names in (found | said).items() if len(names) == 1}

    def system(self, nas: str) -> truenas.System | None:
        """The NAS itself."""
        return value_of(self.graph.node(Ref(nas, Kind.SYSTEM, nas)), truenas.System)

    def nas_at(self, hosts: Iterable[str]) -> str | None:
        """The configured NAS that answers at one of the hosts; None for a foreign server."""
        return next((self._nas_by_host[h] for h in hosts if h in self._nas_by_host), None)

    # Objects

    def node(self, ref: Ref) -> Node | None:
        """The object with the time of its evidence."""
        return self.graph.node(ref)

    def volume(self, ref: Ref) -> k8s.PersistentVolume | None:
        """A PersistentVolume."""
        return value_of(self.graph.node(ref), k8s.PersistentVolume)

    def claim(self, ref: Ref) -> k8s.PersistentVolumeClaim | None:
        """A PersistentVolumeClaim."""
        return value_of(self.graph.node(ref), k8s.PersistentVolumeClaim)

    def dataset(self, nas: str, path: str) -> truenas.Dataset | None:
        """A dataset or zvol."""
        return value_of(self.graph.node(Ref(nas, Kind.DATASET, path)), truenas.Dataset)

    def snapshot(self, ref: Ref) -> truenas.Snapshot | None:
        """A ZFS snapshot."""
        return value_of(self.graph.node(ref), truenas.Snapshot)

    def pool(self, nas: str, name: str) -> truenas.Pool | None:
        """A pool."""
        return value_of(self.graph.node(Ref(nas, Kind.POOL, name)), truenas.Pool)

    def pool_is_there(self, nas: str, name: str) -> bool:
        """Whether a pool is imported and readable, so that a dataset missing from it is missing indeed.

        Its root dataset has to be in the very list that the other one is missing from: a pool that is
        exported between two lists would otherwise take all its datasets with it.
        """
        pool = self.pool(nas, name)
        return (
            pool is not None and pool.status in ("ONLINE", "DEGRADED") and self.dataset(nas, name) is not None
        )

    def use(self, nas: str, path: str) -> tuple[truenas.DatasetUse, float] | None:
        """What was last read of a dataset's use, and when that was asked."""
        node = self.graph.node(Ref(nas, Kind.DATASET_USE, path))
        use = value_of(node, truenas.DatasetUse)
        return (use, node.asked_at) if use is not None and node is not None else None

    def sharing(self, key: str, *kinds: Kind) -> list[Ref]:
        """The objects of some kinds that answer to a key, in a stable order."""
        refs = self.graph.sharing(key)
        return sorted(ref for ref in refs if ref.kind in kinds) if refs else []

    # Completeness

    def gaps(self, needs: AbstractSet[Kind], subject: Ref, nas: str | None) -> tuple[Gap, ...]:
        """Why absence cannot be judged now for a subject: one gap for each kind that is not complete.

        A subject on a NAS could belong to any cluster, so all clusters must be complete; a subject in a
        cluster needs its own.
        """
        sources = (subject.source,) if subject.source in self.clusters else self.clusters
        incomplete = {source: needs & self._incomplete(source) for source in filter(None, (*sources, nas))}
        if self.clusters and not any(incomplete.values()):
            return ()
        gaps = []
        for kind in sorted(needs):
            for source in sources if kind in KUBERNETES_KINDS else filter(None, (nas,)):
                if kind in incomplete[source]:
                    gaps.append(self._gap(source, kind))  # noqa: PERF401
        if not self.clusters and not KUBERNETES_KINDS.isdisjoint(needs):
            gaps.append(Gap("no cluster is configured"))
        return tuple(gaps)

    def _incomplete(self, source: str) -> frozenset[Kind]:
        """The kinds of a source whose absence cannot be judged, worked out once."""
        known = self.memo.get(("incomplete", source))
        if not isinstance(known, frozenset):
            kinds = KUBERNETES_KINDS if source in self.clusters else TRUENAS_KINDS
            known = frozenset(kind for kind in kinds if not self.graph.proves_absence(source, kind))
            self.memo["incomplete", source] = known
        return known

    def _gap(self, source: str, kind: Kind) -> Gap:
        state = self.graph.completeness(source, kind)
        if state.trouble is not None:
            return Gap(f"{kind.value} at {source} cannot be read: {state.reason}")
        if state.doubted_since is not None:
            return Gap(f"the list of {kind.value} at {source} suddenly shrank by half, and is doubted")
        return Gap(f"{kind.value} at {source} has not been listed in full yet", starting=True)

    def listed_since(self, kinds: Iterable[Kind], sources: Iterable[str], ticks: float) -> bool:
        """Whether all kinds were asked for in full at all sources after that time."""
        kinds = tuple(kinds)
        for source in sources:
            for kind in kinds:
                listed_at = self.graph.completeness(source, kind).listed_at
                if listed_at is None or listed_at < ticks:
                    return False
        return True

    # Configuration

    def drivers_of_parent(self, nas: str, parent: str) -> list[DriverSettings]:
        """The configured drivers that make their volumes under a dataset."""
        return [d for d in self.settings.drivers if d.nas == nas and d.parent == parent]

    def is_our_driver(self, cluster: str, driver: str) -> bool:
        """Whether a CSI driver name belongs to democratic-csi: configured, or it has made a volume."""
        if any(d.cluster == cluster and d.driver == driver for d in self.settings.drivers):
            return True
        if "democratic-csi" in driver:
            return True
        return self.graph.has_provisioned(cluster, driver)

    def exemption(self, rule: str, subject: Ref) -> Exemption | None:
        """The first configured exemption that covers a finding and has not expired."""
        for exemption in self.settings.exemptions:
            if exemption.until is not None and exemption.until < self.now.date():
                continue
            if _covers(exemption, rule, subject):
                return exemption
        return None


def _tells_a_nas(host: str) -> bool:
    """Whether a host that a NAS knows itself by can mean this NAS to others."""
    return (
        bool(host)
        and host != "localhost"
        and not host.lower().startswith(("127.", "::1", "169.254.", "fe80:"))
    )


def _covers(exemption: Exemption, rule: str, subject: Ref) -> bool:
    if exemption.rule not in (None, rule) or exemption.source not in (None, subject.source):
        return False
    return fnmatchcase(subject.name, exemption.name)
