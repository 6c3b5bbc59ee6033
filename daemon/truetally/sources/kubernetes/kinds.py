"""The kinds that are watched in a cluster, where their API is, and what reading them needs."""

from __future__ import annotations

import msgspec

from truetally.model.refs import Kind


class Resource(msgspec.Struct, frozen=True):
    """Where a kind is served.

    Attributes:
        group: the API group; empty for the core.
        plural: the resource's name, as RBAC rules write it.
        optional: whether a cluster may lack it (a CRD that is not installed).
    """

    kind: Kind
    group: str
    plural: str
    optional: bool = False

    @property
    def path(self) -> str:
        """The path of the list over all namespaces."""
        return f"/apis/{self.group}/v1/{self.plural}" if self.group else f"/api/v1/{self.plural}"

    def grant(self, verb: str) -> str:
        """What to grant when a verb is denied."""
        where = f"{self.plural}.{self.group}" if self.group else self.plural
        return f"grant the verb {verb} on {where} (deploy/kubernetes/clusterrole.yaml has all that is needed)"


_STORAGE, _SNAPSHOT = "storage.k8s.io", "snapshot.storage.k8s.io"

RESOURCES: tuple[Resource, ...] = (
    Resource(Kind.PERSISTENT_VOLUME, "", "persistentvolumes"),
    Resource(Kind.PERSISTENT_VOLUME_CLAIM, "", "persistentvolumeclaims"),
    Resource(Kind.NODE, "", "nodes"),
    Resource(Kind.POD, "", "pods"),
    Resource(Kind.NAMESPACE, "", "namespaces"),
    Resource(Kind.EVENT, "", "events"),
    Resource(Kind.STORAGE_CLASS, _STORAGE, "storageclasses"),
    Resource(Kind.VOLUME_ATTACHMENT, _STORAGE, "volumeattachments"),
    Resource(Kind.CSI_DRIVER, _STORAGE, "csidrivers"),
    Resource(Kind.CSI_NODE, _STORAGE, "csinodes"),
    Resource(Kind.VOLUME_SNAPSHOT, _SNAPSHOT, "volumesnapshots", optional=True),
    Resource(Kind.VOLUME_SNAPSHOT_CONTENT, _SNAPSHOT, "volumesnapshotcontents", optional=True),
    Resource(Kind.VOLUME_SNAPSHOT_CLASS, _SNAPSHOT, "volumesnapshotclasses", optional=True),
)
