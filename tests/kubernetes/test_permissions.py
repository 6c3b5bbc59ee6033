"""Is the shipped ClusterRole enough, and no more? And what is said where something is refused?"""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import yaml

from controlplane.harness import ControlPlane
from kubernetes.api import CLASSES, VOLUMES, a_class, a_volume, talking_to
from kubernetes.heard import BRISK, watching
from truetally.model.observations import SourceState, Trouble
from truetally.model.refs import KUBERNETES_KINDS, Kind
from truetally.sources.kubernetes.kinds import RESOURCES

pytestmark = pytest.mark.controlplane

MANIFEST = Path(__file__).parents[2] / "deploy" / "kubernetes" / "clusterrole.yaml"
SNAPSHOT_CRDS = sorted((Path(__file__).parent / "snapshot_crds").glob("*.yaml"))
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/truetally/serviceaccounts",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
}
ROLE = f"{RBAC}/clusterroles/truetally"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shipped(cluster) -> ControlPlane:
    """The shared cluster with the manifest applied, and the snapshot kinds installed."""
    async with talking_to(cluster) as api:
        for manifest in yaml.safe_load_all(MANIFEST.read_text()):
            await api.post(PATHS[manifest["kind"]], manifest)
        for crd in SNAPSHOT_CRDS:
            await api.post(CRDS, yaml.safe_load(crd.read_text()))
    return cluster


async def a_token(cluster: ControlPlane) -> str:
    async with talking_to(cluster) as api:
        path = "/api/v1/namespaces/truetally/serviceaccounts/truetally/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        return (await api.post(path, request))["status"]["token"]


@pytest.fixture
async def token(shipped) -> str:
    return await a_token(shipped)


@pytest.fixture
def kubeconfig(shipped, token, tmp_path) -> Path:
    return shipped.write_kubeconfig(tmp_path / "kubeconfig", token)


async def test_the_shipped_role_is_enough_for_every_kind(shipped, kubeconfig):
    async with talking_to(shipped) as api, watching(kubeconfig) as (source, heard):
        await heard.complete()
        name = f"enough-{secrets.token_hex(3)}"
        await api.post(CLASSES, a_class(name))
        await heard.until(lambda: heard.seen(Kind.STORAGE_CLASS, name))
        assert source.status().state is SourceState.CONNECTED
    assert not [one for kind in KUBERNETES_KINDS for one in heard.lost(kind)]


async def test_the_shipped_role_grants_exactly_what_is_watched():
    (role,) = (each for each in yaml.safe_load_all(MANIFEST.read_text()) if each["kind"] == "ClusterRole")
    granted = {
        (group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == {(resource.group, resource.plural) for resource in RESOURCES}
    assert all(rule["verbs"] == ["get", "list", "watch"] for rule in role["rules"])


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/api/v1/secrets", None),
        ("GET", "/api/v1/namespaces/truetally/secrets", None),
        ("GET", "/api/v1/configmaps", None),
        ("POST", VOLUMES, a_volume("forbidden")),
        ("DELETE", f"{VOLUMES}/forbidden", None),
        ("DELETE", "/api/v1/namespaces/default/persistentvolumeclaims/forbidden", None),
        ("POST", CLASSES, a_class("forbidden")),
        ("DELETE", VOLUMES, None),
        ("GET", "/api/v1/nodes/any/proxy/metrics", None),
        ("POST", "/api/v1/namespaces/truetally/serviceaccounts/truetally/token", {}),
    ],
)
async def test_the_shipped_role_lets_nobody_write_or_read_secrets(shipped, token, method, path, body):
    async with talking_to(shipped, token) as api:
        assert await api.status(method, path, body) == 403


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.plural)
async def test_without_any_one_of_its_grants_one_kind_is_lost_and_the_others_go_on(
    shipped, tmp_path, resource
):
    async with talking_to(shipped) as api:
        whole = await api.get(ROLE)
        lacking = {**whole, "rules": [_without(rule, resource.plural) for rule in whole["rules"]]}
        lacking["metadata"] = {"name": "truetally"}
        await api.put(ROLE, lacking)
        try:
            kubeconfig = shipped.write_kubeconfig(tmp_path / "kubeconfig", await a_token(shipped))
            async with watching(kubeconfig) as (source, heard):
                await heard.until(lambda: heard.lost(resource.kind, Trouble.DENIED))
                await heard.complete(KUBERNETES_KINDS - {resource.kind})
                assert source.status().state is SourceState.CONNECTED
                assert source.status().detail
                lists = len(heard.lists(resource.kind))
                await api.put(ROLE, {**lacking, "rules": whole["rules"]})
                await heard.until(lambda: len(heard.lists(resource.kind)) > lists)
        finally:
            await api.put(ROLE, {**lacking, "rules": whole["rules"]})
    reason = heard.lost(resource.kind)[0].reason
    assert "list" in reason
    assert resource.plural in reason
    assert "clusterrole.yaml" in reason


async def test_a_grant_that_lacks_only_the_watch_is_told_as_that(shipped, tmp_path):
    async with talking_to(shipped) as api:
        whole = await api.get(ROLE)
        lacking = {**whole, "metadata": {"name": "truetally"}}
        lacking["rules"] = [{**rule, "verbs": ["get", "list"]} for rule in whole["rules"]]
        await api.put(ROLE, lacking)
        try:
            kubeconfig = shipped.write_kubeconfig(tmp_path / "kubeconfig", await a_token(shipped))
            async with watching(kubeconfig) as (_, heard):
                await heard.until(lambda: heard.lost(Kind.POD, Trouble.DENIED))
        finally:
            await api.put(ROLE, {**lacking, "rules": whole["rules"]})
    assert "grant the verb watch on pods" in heard.lost(Kind.POD)[0].reason


def _without(rule: dict, plural: str) -> dict:
    return {**rule, "resources": [each for each in rule["resources"] if each != plural] or ["nothing"]}


async def test_a_refused_token_loses_every_kind_until_the_kubeconfig_has_a_better_one(own_cluster, tmp_path):
    path = own_cluster.write_kubeconfig(tmp_path / "kubeconfig", "mistyped")
    async with watching(path) as (source, heard):
        await heard.until(lambda: all(heard.lost(kind, Trouble.CREDENTIALS) for kind in KUBERNETES_KINDS))
        assert source.status().state is SourceState.REFUSED
        assert "mistyped" not in repr(heard.all) + source.status().detail
        own_cluster.write_kubeconfig(path, own_cluster.ADMIN)
        await heard.complete()
        await heard.until(lambda: source.status().state is SourceState.CONNECTED)


async def test_a_token_that_is_revoked_while_we_watch_loses_every_kind(shipped, token, tmp_path):
    path = shipped.write_kubeconfig(tmp_path / "kubeconfig", token)
    pace = msgspec.structs.replace(BRISK, watch_for=timedelta(seconds=1))
    async with talking_to(shipped) as api, watching(path, pace) as (_, heard):
        await heard.complete()
        account = "/api/v1/namespaces/truetally/serviceaccounts"
        await api.delete(f"{account}/truetally")  # its tokens die with it
        await heard.until(lambda: heard.lost(Kind.POD, Trouble.CREDENTIALS), within=60)
        await api.post(account, {"metadata": {"name": "truetally"}})
        shipped.write_kubeconfig(path, await a_token(shipped))
        lists = len(heard.lists(Kind.POD))
        await heard.until(lambda: len(heard.lists(Kind.POD)) > lists)
