"""What is changed over SSH is announced by nobody: is it seen at the next reading, and at what cost?"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from truenas.scripted import Heard, are_complete, nas_settings
from truenas.test_logins_on_lab import QUICK
from truetally.clock import SystemClock
from truetally.lab.nas import LabNas
from truetally.model.observations import Gone, Seen
from truetally.model.refs import TRUENAS_KINDS, Kind
from truetally.sources.truenas.logins import Credential
from truetally.sources.truenas.source import NasSource

EVERY = ("22.12", "23.10", "24.04", "24.10", "25.04", "25.10", "26.0")
A, B = "tank/k8s/pvc-a", "tank/k8s/pvc-b"


def _snapshots_method(version: str) -> str:
    return {"25.10": "pool.snapshot.query", "26.0": "pool.snapshot.query"}.get(version, "zfs.snapshot.query")


class Watching:
    def __init__(self, nas: LabNas, source: NasSource, heard: Heard) -> None:
        self.nas, self.source, self.heard = nas, source, heard

    def now(self, kind: Kind) -> dict[str, object]:
        """What there is by what was heard."""
        found: dict[str, object] = {}
        for one in self.heard.all:
            if isinstance(one, Seen) and one.ref.kind is kind:
                found[one.ref.name] = one.value
            elif isinstance(one, Gone) and one.ref.kind is kind:
                found.pop(one.ref.name, None)
            elif getattr(one, "kind", None) is kind and hasattr(one, "names"):
                found = {name: value for name, value in found.items() if name in one.names}
        return found

    async def until(self, holds) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(version: str, **config):
    nas = LabNas(version)
    nas.zfs.create_pool("tank")
    for path in (A, B):
        nas.ssh.create_dataset(path, parents=True)
        nas.ssh.snapshot(f"{path}@first")
    await nas.start()
    key, heard = nas.add_key(), Heard()
    settings = nas_settings(nas.port, reconcile_every="100ms", snapshots_every="1h", **config)
    source = NasSource(settings, lambda: Credential("truetally", key), heard.emit, SystemClock(), QUICK)
    task = asyncio.create_task(source.run())
    try:
        await heard.until(lambda seen: are_complete(seen, TRUENAS_KINDS))
        yield Watching(nas, source, heard)
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await nas.stop()


@pytest.mark.parametrize("version", EVERY)
async def test_datasets_come_change_and_go(version):
    async with watching(version) as it:
        it.nas.ssh.create_dataset("tank/k8s/new")
        await it.until(lambda: "tank/k8s/new" in it.now(Kind.DATASET))
        it.nas.ssh.set("tank/k8s/new", {"democratic-csi:provision_success": "true"})
        await it.until(lambda: it.now(Kind.DATASET)["tank/k8s/new"].user_properties)
        it.nas.ssh.rename("tank/k8s/new", "tank/k8s/newer")
        await it.until(lambda: "tank/k8s/newer" in it.now(Kind.DATASET))
        assert "tank/k8s/new" not in it.now(Kind.DATASET)
        it.nas.ssh.destroy("tank/k8s/newer")
        await it.until(lambda: "tank/k8s/newer" not in it.now(Kind.DATASET))


@pytest.mark.parametrize("version", EVERY)
async def test_snapshots_come_and_go_without_a_list_of_all(version):
    async with watching(version) as it:
        lists = _whole_lists(it, version)
        it.nas.ssh.snapshot(f"{A}@second")
        await it.until(lambda: f"{A}@second" in it.now(Kind.SNAPSHOT))
        assert it.now(Kind.SNAPSHOT)[f"{A}@second"].created_at is not None
        it.nas.ssh.destroy(f"{A}@first")
        await it.until(lambda: f"{A}@first" not in it.now(Kind.SNAPSHOT))
        assert set(it.now(Kind.SNAPSHOT)) == {f"{A}@second", f"{B}@first"}
        assert _whole_lists(it, version) == lists


def _whole_lists(it: Watching, version: str) -> int:
    return sum(
        1 for one in it.heard.all if getattr(one, "kind", None) is Kind.SNAPSHOT and hasattr(one, "names")
    )


@pytest.mark.parametrize("version", EVERY)
async def test_the_snapshots_of_a_dataset_go_with_it(version):
    async with watching(version) as it:
        it.nas.ssh.destroy(A, recursive=True)
        await it.until(lambda: f"{A}@first" not in it.now(Kind.SNAPSHOT))
        assert f"{B}@first" in it.now(Kind.SNAPSHOT)


@pytest.mark.parametrize("version", ["24.10", "25.10", "26.0"])
async def test_a_promotion_moves_snapshots(version):
    async with watching(version) as it:
        it.nas.ssh.clone(f"{A}@first", "tank/k8s/clone")
        await it.until(lambda: "tank/k8s/clone" in it.now(Kind.DATASET))
        it.nas.ssh.promote("tank/k8s/clone")
        await it.until(lambda: "tank/k8s/clone@first" in it.now(Kind.SNAPSHOT))
        await it.until(lambda: f"{A}@first" not in it.now(Kind.SNAPSHOT))


@pytest.mark.parametrize("version", ["22.12", "24.10", "25.10", "26.0"])
async def test_where_nothing_changes_no_snapshot_is_read(version):
    async with watching(version) as it:
        # What changed in the second of the first list is read until that second is surely over.
        calls, quiet = it.nas.faults.calls, 0
        before = Counter(calls)
        async with asyncio.timeout(10):
            while quiet < 5:
                shares = calls["sharing.nfs.query"]
                await it.until(lambda at=shares: calls["sharing.nfs.query"] > at)
                asked, before = calls - before, Counter(calls)
                read = asked[_snapshots_method(version)] + asked["zfs.resource.snapshot.query"]
                quiet = 0 if read else quiet + 1


@pytest.mark.parametrize("version", ["25.10", "26.0"])
async def test_what_the_nas_does_is_told(version):
    async with watching(version) as it:
        await it.until(lambda: it.now(Kind.PERFORMANCE))
        sample = it.now(Kind.PERFORMANCE)["nas1"]
        assert sample.arc_size_bytes
        assert sample.disks


@pytest.mark.parametrize("version", ["23.10", "25.10"])
async def test_a_nas_that_tells_nothing_by_itself_is_asked_what_it_does(version):
    async with watching(version) as it:
        assert await _performance_asked(it.source) is not None


async def _performance_asked(source: NasSource):
    from truetally.sources.truenas import inventory

    return await inventory.performance(source._connected_session())
