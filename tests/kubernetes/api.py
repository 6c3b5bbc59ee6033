from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from controlplane.harness import ControlPlane


class Api:
    """Plain requests to a cluster, as its administrator or somebody else."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def status(self, method: str, path: str, body: Any = None) -> int:
        async with self._session.request(method, path, json=body) as answer:
            await answer.read()
            return answer.status

    async def get(self, path: str, **query: str) -> Any:
        return await self._ask("GET", path, params=query)

    async def post(self, path: str, body: Any) -> Any:
        return await self._ask("POST", path, json=body)

    async def put(self, path: str, body: Any) -> Any:
        return await self._ask("PUT", path, json=body)

    async def patch(self, path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/merge-patch+json"}
        return await self._ask("PATCH", path, json=body, headers=headers)

    async def delete(self, path: str) -> Any:
        return await self._ask("DELETE", path)

    async def _ask(self, method: str, path: str, **how: Any) -> Any:
        async with self._session.request(method, path, **how) as answer:
            body = await answer.json()
            assert answer.status < 300, body
            return body


@asynccontextmanager
async def talking_to(cluster: ControlPlane, token: str = ControlPlane.ADMIN) -> AsyncIterator[Api]:
    trust = ssl.create_default_context(cafile=str(cluster.certificate))
    headers = {"Authorization": f"Bearer {token}"}
    connector = aiohttp.TCPConnector(ssl=trust, limit=20)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(
        cluster.url, headers=headers, connector=connector, timeout=timeout
    ) as session:
        yield Api(session)


def a_volume(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "org.democratic-csi.nfs", "volumeHandle": name},
            **spec,
        },
    }


def a_class(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "provisioner": "org.democratic-csi.nfs"}


VOLUMES = "/api/v1/persistentvolumes"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
