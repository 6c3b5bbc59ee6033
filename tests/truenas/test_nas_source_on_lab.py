"""Does truetally see of the lab NAS exactly what the lab NAS has, on every version that it plays?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from scripted import Heard, are_complete, lost, nas_settings

from truetally.clock import SystemClock
from truetally.lab.nas import LabNas
from truetally.model.observations import Gone, Listed, Seen
from truetally.model.refs import TRUENAS_KINDS, Kind, Ref
from truetally.model.truenas import Origin
from truetally.sources.truenas.limiter import LoginPace
from truetally.sources.truenas.logins import Credential
from truetally.sources.truenas.source import NasSource, Pace

QUICK = Pace(debounce=timedelta(milliseconds=20), logins=LoginPace(apart=0.0, first_pause=0.01, most=1000))
VERSIONS = ["25.04", "25.10", "26.0"]
OLDER = ["22.12", "23.10", "24.04", "24.10"]
VOLUME = "tank/k8s/pvc-1"


@asynccontextmanager
async def watched(version: str, **config) -> AsyncIterator[tuple[LabNas, NasSource, Heard]]:
    nas = LabNas(version)
    nas.zfs.create_pool("tank")
    nas.ssh.create_dataset("tank/k8s")
    nas.ssh.create_dataset(VOLUME, user={"democratic-csi:managed_resource": "true"})
    nas.ssh.create_dataset(f"{VOLUME}/child")
    nas.ssh.snapshot(f"{VOLUME}@auto-1")
    await nas.start()
    # 25.04 tells its SMB clients only to who may change shares.
    key = nas.add_key(roles=("READONLY_ADMIN", "SHARING_SMB_WRITE"))
    heard = Heard()
    source = NasSource(
        nas_settings(int(nas.url.rpartition(":")[2]), **config),
        lambda: Credential("truetally", key),
        heard.emit,
        SystemClock(),
        QUICK,
    )
    task = asyncio.create_task(source.run())
    try:
        yield nas, source, heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await nas.stop()


async def complete(heard: Heard) -> None:
    await heard.until(lambda seen: are_complete(seen, TRUENAS_KINDS))


def known(heard: Heard, kind: Kind) -> dict[str, object]:
    return {o.ref.name: o.value for o in heard.of(Seen, kind)}


@pytest.mark.parametrize("version", [*OLDER, *VERSIONS])
async def test_every_kind_is_listed_and_nothing_is_denied(version):
    async with watched(version) as (_, source, heard):
        await complete(heard)
        assert lost(heard.all) == []
        assert {"tank", "tank/k8s", VOLUME, f"{VOLUME}/child"} <= set(known(heard, Kind.DATASET))
        assert set(known(heard, Kind.SNAPSHOT)) == {f"{VOLUME}@auto-1"}
        dataset = known(heard, Kind.DATASET)[VOLUME]
        assert (dataset.kind, dataset.mountpoint, dataset.locked) == ("FILESYSTEM", f"/mnt/{VOLUME}", False)
        assert dataset.created_at is not None
        assert dataset.used_bytes is not None
        assert version.rpartition(".")[0] in source.status().version


@pytest.mark.parametrize(
    ("version", "origin"), [("25.04", Origin.LOCAL), ("25.10", Origin.UNKNOWN), ("26.0", Origin.UNKNOWN)]
)
async def test_where_a_mark_comes_from_is_known_only_where_the_nas_tells_it(version, origin):
    async with watched(version) as (_, _, heard):
        await complete(heard)
        marks = known(heard, Kind.DATASET)[VOLUME].user_properties
        assert marks["democratic-csi:managed_resource"].origin is origin


async def test_an_inherited_mark_is_told_from_an_own_one_on_25_04():
    async with watched("25.04") as (_, _, heard):
        await complete(heard)
        marks = known(heard, Kind.DATASET)[f"{VOLUME}/child"].user_properties
        assert marks["democratic-csi:managed_resource"].origin is Origin.INHERITED


@pytest.mark.parametrize("version", VERSIONS)
async def test_what_is_read_again_is_seen_or_gone(version):
    async with watched(version) as (nas, source, heard):
        await complete(heard)
        nas.ssh.destroy(f"{VOLUME}/child")
        refs = [
            Ref("nas1", Kind.DATASET, VOLUME),
            Ref("nas1", Kind.DATASET, f"{VOLUME}/child"),
            Ref("nas1", Kind.SNAPSHOT, f"{VOLUME}@auto-1"),
            Ref("nas1", Kind.SNAPSHOT, f"{VOLUME}@never"),
            Ref("nas1", Kind.POOL, "tank"),
            Ref("nas1", Kind.NFS_SHARE, "999"),
            Ref("nas1", Kind.DATASET_USE, VOLUME),
        ]
        before = len(heard.all)
        await source.reread(frozenset(refs))
        told = [o for o in heard.all[before:] if isinstance(o, Seen | Gone) and o.ref in refs]
        answers = {o.ref: type(o) for o in told}
        assert answers == dict(zip(refs, [Seen, Gone, Seen, Gone, Seen, Gone, Seen], strict=True))


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_snapshot_that_is_read_again_tells_its_marks_and_holds(version):
    async with watched(version) as (nas, source, heard):
        nas.ssh.snapshot(f"{VOLUME}@snapshot-1", user={"democratic-csi:csi_snapshot_name": "snapshot-1"})
        await complete(heard)
        await source.reread(frozenset({Ref("nas1", Kind.SNAPSHOT, f"{VOLUME}@snapshot-1")}))
        snapshot = heard.of(Seen, Kind.SNAPSHOT)[-1].value
        assert snapshot.user_properties["democratic-csi:csi_snapshot_name"].value == "snapshot-1"
        assert snapshot.holds == ()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_change_through_the_api_is_seen_without_waiting_for_the_next_reading(version):
    async with watched(version) as (nas, _, heard):
        await complete(heard)
        nas.call("sharing.nfs.create", {"path": f"/mnt/{VOLUME}"})
        found = await heard.until(lambda _: heard.of(Seen, Kind.NFS_SHARE))
        assert found[0].value.path == f"/mnt/{VOLUME}"


async def test_a_change_over_ssh_is_seen_at_the_next_reading():
    async with watched("25.10", reconcile_every="200ms") as (nas, _, heard):
        await complete(heard)
        nas.ssh.create_dataset("tank/k8s/pvc-2")
        await heard.until(lambda _: "tank/k8s/pvc-2" in known(heard, Kind.DATASET))


async def test_after_a_restart_of_the_nas_everything_is_listed_again():
    async with watched("25.10") as (nas, _, heard):
        await complete(heard)
        await nas.stop()
        await heard.until(lost)
        before = len(heard.all)
        await nas.start(port=int(nas.url.rpartition(":")[2]))
        await heard.until(lambda seen: are_complete(seen[before:], TRUENAS_KINDS))


async def test_a_list_that_is_cut_in_the_middle_is_no_list():
    async with watched("25.10") as (nas, source, heard):
        await complete(heard)
        before = len(heard.of(Listed, Kind.DATASET))
        nas.faults.cut("zfs.resource.query")
        with pytest.raises(Exception, match="connection"):
            await source.relist(frozenset({Kind.DATASET}))
        assert len(heard.of(Listed, Kind.DATASET)) == before or lost(heard.all)
        await heard.until(lost)


async def test_a_login_that_the_nas_forgets_is_made_again():
    async with watched("25.10") as (nas, source, heard):
        await complete(heard)
        nas.lose_logins()
        await source.relist(frozenset({Kind.POOL}))
        assert lost(heard.all) == []
