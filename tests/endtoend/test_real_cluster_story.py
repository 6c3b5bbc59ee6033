"""Is an orphan found on a real cluster, with nothing but the rights of the shipped ServiceAccount?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from stages import a_stage, finding, findings, messages, ready

from controlplane.harness import ControlPlane
from kubernetes.api import CLASSES, VOLUMES, Api, talking_to
from truetally.lab.cluster import objects
from truetally.lab.stage import Stage
from truetally.lab.world import DRIVER, GIB

pytestmark = pytest.mark.controlplane

TESTS = Path(__file__).parents[1]
RBAC = "/apis/rbac.authorization.k8s.io/v1"
CLAIMS = "/api/v1/namespaces/default/persistentvolumeclaims"
PATHS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/truetally/serviceaccounts",
    "ClusterRole": f"{RBAC}/clusterroles",
    "ClusterRoleBinding": f"{RBAC}/clusterrolebindings",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}


@pytest.fixture
async def api(controlled_cluster: ControlPlane) -> AsyncIterator[Api]:
    files = [TESTS.parent / "deploy/kubernetes/clusterrole.yaml"]
    files += sorted((TESTS / "kubernetes/snapshot_crds").glob("*.yaml"))
    async with talking_to(controlled_cluster) as api:
        for file in files:
            for manifest in yaml.safe_load_all(file.read_text()):
                await api.post(PATHS[manifest["kind"]], manifest)
        await api.post(CLASSES, objects.storage_class("truenas-nfs", DRIVER))
        yield api


async def a_token(api: Api) -> str:
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    made = await api.post(f"{PATHS['ServiceAccount']}/truetally/token", request)
    return str(made["status"]["token"])


async def provision(api: Api, stage: Stage, name: str) -> dict[str, Any]:
    """As the external-provisioner does: the claim's uid names the dataset, then the volume comes."""
    claim = await api.post(CLAIMS, objects.claim("default", name, "truenas-nfs", driver=DRIVER, size="1Gi"))
    uid = claim["metadata"]["uid"]
    handle, attributes = stage.world.driver.create_volume(f"pvc-{uid}", GIB)
    volume: dict[str, Any] = await api.post(
        VOLUMES, objects.volume(claim, attributes, driver=DRIVER, handle=handle)
    )

    async def bound() -> bool:
        return bool((await api.get(f"{CLAIMS}/{name}"))["status"]["phase"] == "Bound")

    await stage.until(f"{name} is bound", bound, 20.0)
    return volume


async def destroy(api: Api, path: str) -> None:
    """A forced deletion: without finalizers nobody is asked."""
    await api.delete(path)
    try:
        await api.patch(path, {"metadata": {"finalizers": None}})
    except AssertionError as error:
        if "NotFound" not in str(error):
            raise


async def test_an_orphan_on_a_real_cluster_is_found_told_and_resolved(controlled_cluster, api, tmp_path):
    async with a_stage(tmp_path, volumes=0, start=False) as stage:
        controlled_cluster.write_kubeconfig(tmp_path / "kubeconfig", await a_token(api))
        kept = await provision(api, stage, "kept")
        lost = await provision(api, stage, "lost")
        await stage.start_daemon()
        await ready(stage)
        status = await stage.ask("status")
        assert status["volumes"] == 2
        assert {(gap["kind"], gap["trouble"]) for s in status["sources"] for gap in s["incomplete"]} == {
            ("SmbClient", "untold")
        }

        await destroy(api, f"{CLAIMS}/lost")
        await destroy(api, f"{VOLUMES}/{lost['metadata']['name']}")
        found = await finding(stage, "dataset-without-volume")
        assert found["subject"]["name"].endswith(lost["metadata"]["name"])
        await messages(stage, 1)
        names = [f["subject"]["name"] for f in await findings(stage)]
        assert not any(kept["metadata"]["name"] in name for name in names)

        stage.world.driver.delete_volume(lost["metadata"]["name"])
        await finding(stage, "dataset-without-volume", "resolved")
