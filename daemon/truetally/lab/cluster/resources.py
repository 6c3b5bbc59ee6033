"""Where each kind lives in the Kubernetes API: its group, its version and its plural.

Written down apart from the tables of `truetally.sources`: a lab that shared them
would agree with a mistake in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from truetally.model.refs import Kind

SNAPSHOT_GROUP = "snapshot.storage.k8s.io"


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind as the API serves it."""

    kind: Kind
    group: str
    plural: str
    namespaced: bool = False
    version: str = "v1"

    @property
    def api_version(self) -> str:
        """`v1` of the core group, `group/v1` of the others."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def custom(self) -> bool:
        """Whether a CustomResourceDefinition brings it, so that a cluster may lack it."""
        return self.group == SNAPSHOT_GROUP


RESOURCES: dict[Kind, Resource] = {
    resource.kind: resource
    for resource in (
        Resource(Kind.PERSISTENT_VOLUME, "", "persistentvolumes"),
        Resource(Kind.PERSISTENT_VOLUME_CLAIM, "", "persistentvolumeclaims", namespaced=True),
        Resource(Kind.NODE, "", "nodes"),
        Resource(Kind.POD, "", "pods", namespaced=True),
        Resource(Kind.NAMESPACE, "", "namespaces"),
        Resource(Kind.EVENT, "", "events", namespaced=True),
        Resource(Kind.STORAGE_CLASS, "storage.k8s.io", "storageclasses"),
        Resource(Kind.VOLUME_ATTACHMENT, "storage.k8s.io", "volumeattachments"),
        Resource(Kind.CSI_DRIVER, "storage.k8s.io", "csidrivers"),
        Resource(Kind.CSI_NODE, "storage.k8s.io", "csinodes"),
        Resource(Kind.VOLUME_SNAPSHOT, SNAPSHOT_GROUP, "volumesnapshots", namespaced=True),
        Resource(Kind.VOLUME_SNAPSHOT_CONTENT, SNAPSHOT_GROUP, "volumesnapshotcontents"),
        Resource(Kind.VOLUME_SNAPSHOT_CLASS, SNAPSHOT_GROUP, "volumesnapshotclasses"),
    )
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL names: a collection, or one object of it."""

    resource: Resource
    namespace: str | None
    name: str | None


def target(path: str, served: Iterable[Resource]) -> Target | None:
    """The collection or object behind an URL path, or None if this cluster serves no such thing."""
    match path.strip("/").split("/"):
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            return None
    collections = {r.plural: r for r in served if (r.group, r.version) == (group, version)}
    for namespace, plural, name in _readings(rest):
        resource = collections.get(plural)
        if resource and (namespace is None or resource.namespaced):
            return Target(resource, namespace, name)
    return None


def _readings(rest: Sequence[str]) -> Iterator[tuple[str | None, str, str | None]]:
    # `namespaces/a` is an object, `namespaces/a/pods` a collection inside of one.
    match rest:
        case ["namespaces", namespace, plural]:
            yield namespace, plural, None
        case ["namespaces", namespace, plural, name]:
            yield namespace, plural, name
        case [plural]:
            yield None, plural, None
        case [plural, name]:
            yield None, plural, name


def discovery(path: str, served: Sequence[Resource]) -> dict[str, Any] | None:
    """The discovery document at this path, or None if it is not one."""
    match path.strip("/").split("/"):
        case ["version"]:
            return {"major": "1", "minor": "34", "gitVersion": "v1.34.4+truetally-lab", "platform": "lab"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            groups = sorted({r.group for r in served if r.group})
            return {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(g) for g in groups],
            }
        case ["apis", group] if any(r.group == group for r in served):
            return {"kind": "APIGroup", "apiVersion": "v1", **_group(group)}
        case ["api", version]:
            return _resource_list("", version, served)
        case ["apis", group, version]:
            return _resource_list(group, version, served)
    return None


def _group(name: str) -> dict[str, Any]:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resource_list(group: str, version: str, served: Sequence[Resource]) -> dict[str, Any] | None:
    resources = [r for r in served if (r.group, r.version) == (group, version)]
    if not resources:
        return None
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": resources[0].api_version,
        "resources": [
            {
                "name": r.plural,
                "singularName": r.kind.value.lower(),
                "namespaced": r.namespaced,
                "kind": r.kind.value,
                "verbs": ["get", "list", "watch"],
            }
            for r in resources
        ],
    }
