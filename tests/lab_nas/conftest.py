"""A lab NAS with one pool, answering on a loopback port."""

import pytest

from lab_nas.rest_client import rest_of
from truetally.lab.nas import LabNas

VERSIONS = ("25.04", "25.10", "26.0")


async def _started(version):
    lab = LabNas(version)
    lab.zfs.create_pool("tank")
    lab.zfs.create("tank/k8s")
    await lab.start()
    return lab


@pytest.fixture(params=VERSIONS)
async def any_nas(request):
    lab = await _started(request.param)
    yield lab
    await lab.stop()


@pytest.fixture
async def nas():
    lab = await _started("25.10")
    yield lab
    await lab.stop()


@pytest.fixture
async def nas26():
    lab = await _started("26.0")
    yield lab
    await lab.stop()


@pytest.fixture
async def nas25_04():
    lab = await _started("25.04")
    yield lab
    await lab.stop()


@pytest.fixture
async def rest(nas):
    async with rest_of(nas) as client:
        yield client
