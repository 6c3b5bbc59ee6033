from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from truetally.lab.cluster import LabCluster

NOW = datetime(2026, 11, 24, 6, 25, 30, tzinfo=UTC)


@pytest.fixture
async def cluster() -> AsyncIterator[LabCluster]:
    lab = LabCluster(lambda: NOW, bookmark_every=timedelta(milliseconds=50))
    await lab.start()
    yield lab
    await lab.stop()


@pytest.fixture
async def api(cluster: LabCluster) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": "Bearer lab-token"}
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(cluster.url, headers=headers, timeout=timeout) as session:
        yield session
