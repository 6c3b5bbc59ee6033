"""One connection to a lab NAS, on both protocols: jobs, the order of replies, what a broken call leaves."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from truenas.scripted import nas_settings
from truetally.errors import SourceUnavailable
from truetally.lab.nas import LabNas
from truetally.lab.nas.jobs import FOREVER, jobs_of
from truetally.sources.truenas.calls import CallFailed, Fault
from truetally.sources.truenas.examination import logged_in
from truetally.sources.truenas.logins import Credential

BOTH = pytest.mark.parametrize("version", ["24.10", "25.10", "26.0"])


@asynccontextmanager
async def session_with(version: str, **config):
    nas = LabNas(version)
    nas.zfs.create_pool("tank")
    nas.ssh.create_dataset("tank/a")
    await nas.start()
    key = nas.add_key("root", ("FULL_ADMIN",))
    settings = nas_settings(nas.port, **config)
    try:
        async with logged_in(settings, settings.url, Credential("root", key)) as session:
            yield nas, session
    finally:
        await nas.stop()


@BOTH
async def test_a_job_is_waited_for(version):
    async with session_with(version) as (nas, session):
        jobs_of(nas.machine).seconds = 0.2
        result = await session.job("filesystem.setperm", {"path": "/mnt/tank/a", "mode": "0777"})
        assert result is None
        assert nas.machine.jobs[-1]["state"] == "SUCCESS"


@BOTH
async def test_a_job_that_fails_says_why(version):
    async with session_with(version) as (_, session):
        with pytest.raises(CallFailed) as failed:
            await session.job(
                "replication.run_onetime",
                {
                    "direction": "PUSH",
                    "transport": "LOCAL",
                    "source_datasets": ["tank/a"],
                    "target_dataset": "nopool/b",
                    "recursive": False,
                    "retention_policy": "NONE",
                    "name_regex": "x",
                },
            )
        assert failed.value.reason


@BOTH
async def test_a_job_that_does_not_end_is_not_waited_for_for_ever(version):
    async with session_with(version) as (nas, session):
        jobs_of(nas.machine).seconds = FOREVER
        with pytest.raises(SourceUnavailable, match="has not ended"):
            await session.job("filesystem.setperm", {"path": "/mnt/tank/a", "mode": "0777"}, within=0.3)


@BOTH
async def test_replies_find_their_calls_in_any_order(version):
    async with session_with(version) as (nas, session):
        nas.faults.hold("pool.query")
        pools, pong = await asyncio.gather(session.call("pool.query"), session.call("core.ping"))
        assert (pools[0]["name"], pong) == ("tank", "pong")


@BOTH
async def test_more_calls_than_a_connection_may_have_wait_their_turn(version):
    async with session_with(version) as (_, session):
        answers = await asyncio.gather(*(session.call("core.ping") for _ in range(60)))
        assert answers == ["pong"] * 60


@BOTH
async def test_an_answer_that_never_comes_costs_one_call_only(version):
    async with session_with(version, call_timeout="200ms") as (nas, session):
        nas.faults.drop("pool.query")
        with pytest.raises(SourceUnavailable, match="not answered in time"):
            await session.call("pool.query")
        assert session.alive
        assert await session.call("core.ping") == "pong"


@BOTH
@pytest.mark.parametrize(
    ("method", "params", "fault"),
    [
        ("pool.no_such_thing", (), Fault.NO_METHOD),
        ("pool.dataset.get_instance", ("tank/none",), Fault.NOT_FOUND),
        ("pool.query", ([["bad"]], {}), Fault.INVALID),
        ("pool.dataset.query", ([["id", "=", "tank/none"]], {"get": True}), Fault.NOT_FOUND),
    ],
)
async def test_refusals_mean_the_same_on_every_version(version, method, params, fault):
    async with session_with(version) as (_, session):
        with pytest.raises(CallFailed) as failed:
            await session.call(method, *params)
        assert failed.value.fault is fault
