"""Do truetally's own reflectors get along with the lab's cluster?"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from truetally.clock import SystemClock
from truetally.lab.cluster import objects
from truetally.model.observations import Gone, Listed, Lost, Seen
from truetally.model.refs import KUBERNETES_KINDS, Kind, Ref
from truetally.settings import ClusterSettings
from truetally.sources.kubernetes.reflector import Pace
from truetally.sources.kubernetes.source import ClusterSource

SOON = timedelta(milliseconds=50)


class Heard:
    """What the source has emitted, and a way to wait for more of it."""

    def __init__(self):
        self.observations = []
        self._more = asyncio.Event()

    async def emit(self, batch):
        self.observations.extend(batch)
        self._more.set()

    async def until(self, holds):
        async with asyncio.timeout(15):
            while not holds(self.observations):
                self._more.clear()
                await self._more.wait()

    def listed(self, kind):
        return [o for o in self.observations if isinstance(o, Listed) and o.kind is kind]


@pytest.fixture
async def heard(cluster, tmp_path):
    cluster.apply(objects.claim("default", "data", "nfs"))
    path = tmp_path / "kubeconfig"
    cluster.write_kubeconfig(path)
    heard = Heard()
    pace = Pace(first_retry=SOON, last_retry=SOON, lost_after=SOON, ask_again=SOON)
    source = ClusterSource(ClusterSettings(name="lab", kubeconfig=path), heard.emit, SystemClock(), pace)
    task = asyncio.create_task(source.run())
    await heard.until(lambda seen: {o.kind for o in seen if isinstance(o, Listed)} == KUBERNETES_KINDS)
    yield heard
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_every_kind_is_complete_and_the_absent_ones_are_known_to_be_absent(heard):
    absent = {o.kind for o in heard.observations if isinstance(o, Listed) and o.absent}
    assert absent == {Kind.VOLUME_SNAPSHOT, Kind.VOLUME_SNAPSHOT_CONTENT, Kind.VOLUME_SNAPSHOT_CLASS}
    assert heard.listed(Kind.PERSISTENT_VOLUME_CLAIM)[0].names == {"default/data"}


async def test_changes_and_deletions_arrive(cluster, heard):
    claim = cluster.get(Kind.PERSISTENT_VOLUME_CLAIM, "data", "default")
    volume = cluster.apply(objects.volume(claim, objects.nfs_attributes("10.0.0.10", "/mnt/tank/a")))
    cluster.delete(Kind.PERSISTENT_VOLUME_CLAIM, "data", "default")
    seen = Ref("lab", Kind.PERSISTENT_VOLUME, volume["metadata"]["name"])
    gone = Ref("lab", Kind.PERSISTENT_VOLUME_CLAIM, "default/data")
    await heard.until(lambda all_: any(isinstance(o, Seen) and o.ref == seen for o in all_))
    await heard.until(lambda all_: any(isinstance(o, Gone) and o.ref == gone for o in all_))


async def test_after_a_compaction_all_is_listed_again_and_nothing_is_missed(cluster, heard):
    cluster.forget_history()
    cluster.end_watches()
    cluster.delete(Kind.PERSISTENT_VOLUME_CLAIM, "data", "default")
    await heard.until(lambda _: heard.listed(Kind.PERSISTENT_VOLUME_CLAIM)[-1].names == frozenset())


async def test_ended_watches_are_taken_up_where_they_ended(cluster, heard):
    before = cluster.served["list", Kind.POD]
    cluster.end_watches()
    cluster.apply(objects.pod("default", "app", ["data"]))
    ref = Ref("lab", Kind.POD, "default/app")
    await heard.until(lambda all_: any(isinstance(o, Seen) and o.ref == ref for o in all_))
    assert cluster.served["list", Kind.POD] == before


async def test_a_stopped_cluster_is_lost_and_comes_back(cluster, heard):
    port = cluster.port
    await cluster.stop()
    await heard.until(lambda all_: any(isinstance(o, Lost) and o.kind is Kind.POD for o in all_))
    lists = len(heard.listed(Kind.POD))
    await cluster.start(port)
    cluster.apply(objects.pod("default", "app", ["data"]))
    ref = Ref("lab", Kind.POD, "default/app")
    await heard.until(lambda all_: any(isinstance(o, Seen) and o.ref == ref for o in all_))
    await heard.until(lambda _: len(heard.listed(Kind.POD)) > lists)


async def test_snapshot_kinds_appear_when_their_crds_do(cluster, heard):
    cluster.install_snapshot_crds()
    await heard.until(lambda _: not heard.listed(Kind.VOLUME_SNAPSHOT)[-1].absent)
