"""Who hears what of a NAS: the roles of the events that no method is behind, and scans while they last."""

import asyncio
import json
import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lab_nas.nas_client import logged_in
from truetally.lab.nas import LabNas
from truetally.lab.nas.core import may_hear
from truetally.lab.nas.machine import ApiKey
from truetally.lab.nas.table import Caller
from truetally.sources.truenas.hints import followed

_CONTRACT = Path(
    os.environ.get("TRUETALLY_CONTRACT", Path(__file__).parents[2].parent / "shared" / "contract")
)
WITHIN = 10
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVERYWHERE = ("25.04", "25.10", "26.0")
# From the events' schemas of 25.10 and 26.0, and of the scans by truenas-api.md §2.
ROLES = {
    "zfs.pool.scan": ("POOL_SCRUB_READ", ("25.04", "25.10")),
    "pool.scan": ("POOL_SCRUB_READ", ("26.0",)),
    "reporting.realtime": ("REPORTING_READ", EVERYWHERE),
    "failover.status": ("FAILOVER_READ", EVERYWHERE),
    "system.reboot.info": ("SYSTEM_GENERAL_READ", EVERYWHERE),
    "update.status": ("SYSTEM_UPDATE_READ", ("25.10", "26.0")),
    "pool.query": ("POOL_READ", EVERYWHERE),
    "zpool.query": ("POOL_READ", ("26.0",)),
}
OTHERS = [role for role, _ in ROLES.values()]


def hears(version, collection, *roles):
    machine = LabNas(version).machine
    caller = Caller(machine, key=ApiKey(1, "a", "b", frozenset(roles), machine.now()))
    return may_hear(caller, collection)


@pytest.mark.parametrize("version", EVERYWHERE)
@pytest.mark.parametrize(("collection", "role", "versions"), [(k, *v) for k, v in ROLES.items()])
def test_a_collection_is_heard_with_its_role_where_there_is_one(version, collection, role, versions):
    assert hears(version, collection, role) == (version in versions)
    assert hears(version, collection, "READONLY_ADMIN") == (version in versions)
    # POOL_READ brings POOL_SCRUB_READ along, as SHARING_ISCSI_READ brings all roles of iSCSI.
    others = [each for each in OTHERS if not role.startswith(each.removesuffix("READ"))]
    assert not hears(version, collection, *others)
    assert hears(version, collection, "FULL_ADMIN")


@pytest.mark.parametrize("version", EVERYWHERE)
def test_the_roles_that_truetally_names_suffice_and_no_others(version):
    for each in followed(LabNas(version).machine.number):
        assert all(hears(version, each.name, role) for role in each.roles), each
        assert not hears(version, each.name, "AUDIT_READ"), each


@pytest.mark.skipif(
    not _CONTRACT.is_dir(), reason="NOT CHECKED against the middleware's events: set TRUETALLY_CONTRACT"
)
@pytest.mark.parametrize("version", EVERYWHERE)
def test_every_event_of_the_contract_is_heard_with_the_roles_that_it_names(version):
    files = sorted((_CONTRACT / version / "events").glob("*.json"))
    assert files
    for file in files:
        told = json.loads(file.read_text())
        assert all(hears(version, told["name"], role) for role in told["roles"]), told["name"]
        assert hears(version, told["name"], "AUDIT_READ") == (not told["roles"]), told["name"]


class Clock:
    def __init__(self):
        self.at = NOON

    def __call__(self):
        return self.at


@asynccontextmanager
async def scrubbed(version):
    clock = Clock()
    lab = LabNas(version, now=clock, scans_told_every=timedelta(milliseconds=1))
    lab.zfs.create_pool("tank")
    await lab.start()
    try:
        yield lab, clock
    finally:
        await lab.stop()


async def next_scan(client, accepted):
    async with asyncio.timeout(WITHIN):
        while True:
            told = (await client.receive())["params"]
            if accepted(told["fields"]["scan"]):
                return told["collection"], told["fields"]["scan"]


@pytest.mark.parametrize(
    ("version", "collection"), [("25.04", "zfs.pool.scan"), ("25.10", "zfs.pool.scan"), ("26.0", "pool.scan")]
)
async def test_how_far_a_scrub_is_comes_by_itself_until_it_has_ended(version, collection):
    async with scrubbed(version) as (lab, clock), logged_in(lab, ["POOL_SCRUB_READ"]) as client:
        await client.call("core.subscribe", collection)
        lab.zfs.start_scan("tank", takes=timedelta(hours=1))
        for minutes, percentage in ((0, 0), (15, 25), (30, 50)):
            clock.at = NOON + timedelta(minutes=minutes)
            name, scan = await next_scan(client, lambda s, p=percentage: s["percentage"] == p)
            assert (name, scan["state"]) == (collection, "SCANNING")
        clock.at = NOON + timedelta(hours=1)
        _, scan = await next_scan(client, lambda s: s["state"] != "SCANNING")
        assert scan["state"] == "FINISHED"
        client.events.clear()
        await client.call("core.ping")
        assert client.events == []


async def test_after_a_restart_scans_are_still_told_and_once_only():
    async with scrubbed("25.10") as (lab, clock):
        lab.zfs.start_scan("tank", takes=timedelta(hours=1))
        await lab.restart()
        assert [each.get_name() for each in asyncio.all_tasks()].count("lab NAS scans") == 1
        async with logged_in(lab) as client:
            await client.call("core.subscribe", "zfs.pool.scan")
            await next_scan(client, lambda s: s["state"] == "SCANNING")
            clock.at = NOON + timedelta(hours=1)
            await next_scan(client, lambda s: s["state"] == "FINISHED")
        await lab.stop()
        await asyncio.sleep(0)
        assert "lab NAS scans" not in [each.get_name() for each in asyncio.all_tasks()]
