"""A bare client for REST v2.0: it sends what a test says and hands back what comes."""

import json
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from truetally.lab.nas import LabNas


class Rest:
    """A client that sends what a test says."""

    def __init__(self, session, base):
        self._session, self._base = session, base

    async def status_and_body(self, method, path, body=None, **query):
        url = URL(f"{self._base}/api/v2.0/{path}", encoded=True)
        if query:
            url = url.with_query({key.replace("extra_", "extra."): value for key, value in query.items()})
        async with self._session.request(method, url, json=body) as response:
            text = await response.text()
            try:
                return response.status, json.loads(text)
            except ValueError:
                return response.status, text

    async def get(self, path, **query):
        return await self._ok("GET", path, None, **query)

    async def post(self, path, body=None):
        return await self._ok("POST", path, body)

    async def put(self, path, body):
        return await self._ok("PUT", path, body)

    async def delete(self, path, body=None):
        return await self._ok("DELETE", path, body)

    async def refused(self, method, path, body=None):
        status, told = await self.status_and_body(method, path, body)
        assert status == 422, told
        return told

    async def _ok(self, method, path, body, **query):
        status, told = await self.status_and_body(method, path, body, **query)
        assert status == 200, told
        return told


@asynccontextmanager
async def rest_of(nas, *, headers=None, roles=("FULL_ADMIN",)):
    if headers is None:
        headers = {"Authorization": f"Bearer {nas.add_key('root', roles)}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        yield Rest(session, nas.url.replace("ws", "http", 1))


@asynccontextmanager
async def started(version):
    lab = LabNas(version)
    lab.zfs.create_pool("tank")
    lab.zfs.create("tank/k8s")
    await lab.start()
    try:
        yield lab
    finally:
        await lab.stop()


async def one_of_everything(nas):
    for name in ("z", "y", "n"):
        nas.zfs.create(f"tank/k8s/{name}", volsize=1 << 30)
    nas.call("pool.dataset.create", {"name": "tank/k8s/a"})
    nas.call("pool.snapshot.create", {"dataset": "tank/k8s/a", "name": "s"})
    nas.call("sharing.nfs.create", {"path": "/mnt/tank/k8s/a", "networks": ["10.0.0.0/24"]})
    nas.call("sharing.smb.create", {"name": "a", "path": "/mnt/tank/k8s/a"})
    nas.call("iscsi.target.create", {"name": "z"})
    for name in ("z", "y"):
        nas.call("iscsi.extent.create", {"name": name, "disk": f"zvol/tank/k8s/{name}"})
    nas.call("iscsi.targetextent.create", {"target": 1, "extent": 1})
    nas.call("nvmet.port.create", {"addr_trtype": "TCP", "addr_traddr": "0.0.0.0"})
    nas.call("nvmet.subsys.create", {"name": "n"})
    device = {"device_type": "ZVOL", "device_path": "zvol/tank/k8s/n", "subsys_id": 1}
    nas.call("nvmet.namespace.create", device)
    nas.call("nvmet.port_subsys.create", {"port_id": 1, "subsys_id": 1})
