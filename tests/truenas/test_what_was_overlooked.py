"""Ways in which a NAS was once misread: each of these ended in something false, or in a daemon that died."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import aiohttp
import msgspec
import pytest
from aiohttp import web

from truenas.scripted import are_complete, lost, nas_settings, scripted_nas
from truenas.test_changes_over_ssh import A, watching
from truenas.test_logins_on_lab import QUICK, Watching, nas_of
from truetally.clock import SystemClock
from truetally.lab.nas import LabNas
from truetally.model.observations import Listed, Seen, SourceState, Trouble
from truetally.model.refs import TRUENAS_KINDS, Kind, Ref
from truetally.settings import NasSettings
from truetally.sources.truenas.logins import Credential
from truetally.sources.truenas.source import NasSource

VOLUME = "tank/k8s/pvc-1"


async def _use(nas: LabNas, roles=("READONLY_ADMIN", "SHARING_SMB_WRITE")):
    key = nas.add_key(roles=roles)
    async with Watching(nas, lambda: Credential("truetally", key)) as it:
        await it.connected()
        await it.source.reread(frozenset({Ref("nas1", Kind.DATASET_USE, VOLUME)}))
        return it.heard.of(Seen, Kind.DATASET_USE)[-1].value


@pytest.mark.parametrize("base", ["iqn.2005-10.org.freenas.ctl", "iqn.2010-01.com.acme:storage"])
async def test_a_session_is_seen_whatever_colons_the_base_name_has(base):
    async with nas_of("25.10") as nas:
        nas.machine.basename = base
        nas.ssh.create_dataset(VOLUME, volsize=1 << 30)
        portal = nas.call("iscsi.portal.create", {"listen": [{"ip": "0.0.0.0"}]})["id"]
        group = nas.call("iscsi.initiator.create", {"initiators": []})["id"]
        target = nas.call(
            "iscsi.target.create", {"name": "pvc-1", "groups": [{"portal": portal, "initiator": group}]}
        )["id"]
        extent = nas.call("iscsi.extent.create", {"name": "pvc-1", "disk": f"zvol/{VOLUME}"})["id"]
        nas.call("iscsi.targetextent.create", {"target": target, "extent": extent})
        nas.machine.connect_initiator("pvc-1", "iqn.1993-08.org.debian:node1")
        assert (await _use(nas)).sessions == ("iqn.1993-08.org.debian:node1",)


@pytest.mark.parametrize("version", ["22.12", "24.10", "25.04", "25.10", "26.0"])
@pytest.mark.parametrize("snapshots", [1, 30])
async def test_a_hold_on_a_snapshot_is_seen(version, snapshots):
    async with nas_of(version) as nas:
        nas.ssh.create_dataset(VOLUME)
        for number in range(snapshots):
            nas.ssh.snapshot(f"{VOLUME}@{number}")
        assert (await _use(nas)).holds == ()
        nas.zfs.hold(f"{VOLUME}@0", "backup")
        (held,) = (await _use(nas)).holds
        assert f"{VOLUME}@0" in held


@pytest.mark.parametrize(
    ("method", "arguments", "uses"),
    [
        ("pool.dataset.lock", [VOLUME, {}], True),
        ("pool.dataset.lock", ["tank/k8s", {}], True),
        ("filesystem.setperm", [{"path": f"/mnt/{VOLUME}/data"}], True),
        ("replication.run", [7], True),
        ("pool.dataset.lock", ["tank/k8s/pvc-10", {}], False),
        ("pool.scrub.scrub", ["tank", "START"], False),
        ("catalog.sync", [], False),
    ],
)
async def test_a_job_uses_what_it_names_what_is_in_it_and_what_a_task_may_name(method, arguments, uses):
    async with nas_of("24.10") as nas:
        nas.ssh.create_dataset(VOLUME)
        nas.machine.start_job(method, arguments)
        assert (await _use(nas, roles=["FULL_ADMIN"])).jobs == ((method,) if uses else ())


async def test_a_proxy_that_hides_the_versions_does_not_make_a_nas_old():
    async with nas_of("25.10") as nas:

        async def carry(request):
            front = web.WebSocketResponse()
            await front.prepare(request)
            async with aiohttp.ClientSession() as http, http.ws_connect(nas.url + request.path) as back:
                up = asyncio.create_task(_copy(front, back))
                await _copy(back, front)
                up.cancel()
            return front

        app = web.Application()
        app.router.add_get("/websocket", carry)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        key = nas.add_key()
        source = Watching(nas, lambda: Credential("truetally", key))
        settings = nas_settings(runner.addresses[0][1])
        source.source = NasSource(
            settings, lambda: Credential("truetally", key), source.heard.emit, SystemClock(), QUICK
        )
        async with source as it:
            trouble, reason = await it.refusal()
        await runner.cleanup()
    assert trouble is Trouble.UNREACHABLE
    assert "a proxy in between has to pass /api/" in reason
    assert not it.heard.of(Listed)


async def _copy(source, target) -> None:
    async for message in source:
        await target.send_str(message.data)


async def test_the_datasets_of_a_pool_that_cannot_be_read_are_not_called_gone():
    async with watching("25.10") as it:
        it.nas.zfs.pools["tank"].status = "SUSPENDED"
        await it.until(lambda: it.now(Kind.POOL)["tank"].status == "SUSPENDED")
        lists = len(it.heard.of(Listed, Kind.DATASET))
        await it.until(lambda: len(it.heard.of(Listed, Kind.DATASET)) > lists + 1)
        assert A in it.heard.of(Listed, Kind.DATASET)[-1].names


async def test_another_nas_at_the_second_address_is_not_taken_for_the_first():
    async with nas_of("25.10") as one, nas_of("25.10") as other:
        key = one.add_key()
        other.machine.keys = one.machine.keys
        other.zfs.pools["tank"].guid = 4711
        config = {"failover_urls": (f"ws://127.0.0.1:{other.port}",)}
        async with Watching(one, lambda: Credential("truetally", key), **config) as it:
            await it.connected()
            before = len(it.heard.all)
            await one.stop()
            await it.heard.until(
                lambda seen: any("none of the pools" in o.reason for o in lost(seen[before:])), within=10
            )
            assert not [o for o in it.heard.all[before:] if isinstance(o, Listed)]
            await one.start(port=one.port)
            await it.heard.until(lambda seen: are_complete(seen[before:], TRUENAS_KINDS))


FAR = {"$date": 10**17}


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("alert.list", [{"uuid": "1", "klass": "A", "level": "INFO", "datetime": FAR}]),
        ("interface.query", [None, {"state": "UP", "aliases": [None, {"type": "INET"}]}]),
        ("pool.query", [{"name": "tank", "status": "ONLINE", "fragmentation": "9" * 5000}]),
        (
            "pool.query",
            [{"name": "tank", "status": "ONLINE", "scan": {"end_time": FAR, "state": "FINISHED"}}],
        ),
        ("api_key.my_keys", [{"id": 1, "name": "k", "expires_at": FAR}]),
    ],
)
async def test_an_odd_value_does_not_end_the_daemon(method, answer):
    async with scripted_nas() as nas:
        nas.script[method] = answer
        async with _watching_scripted(nas) as it:
            await it.connected()


def _watching_scripted(nas) -> Watching:
    return Watching(nas, lambda: Credential("truetally", "1-" + "k" * 64))


async def test_a_subscription_that_is_not_answered_costs_only_its_hints():
    async with nas_of("25.10") as nas:
        key = nas.add_key()
        nas.faults.drop("core.subscribe", nth=4)
        async with Watching(nas, lambda: Credential("truetally", key), call_timeout="300ms") as it:
            await it.connected()
        assert nas.faults.calls["auth.login_ex"] == 1


async def test_a_controller_that_became_standby_is_left_at_the_next_login():
    async with nas_of("25.10") as one, nas_of("25.10") as other:
        key = one.add_key()
        other.machine.keys = one.machine.keys
        config = {"failover_urls": (f"ws://127.0.0.1:{other.port}",), "reconcile_every": "100ms"}
        async with Watching(one, lambda: Credential("truetally", key), **config) as it:
            await it.connected()
            before, logins = len(it.heard.all), one.faults.calls["auth.login_ex"]
            one.standby_of = [f"https://127.0.0.1:{other.port}"]
            one.lose_logins()
            await it.heard.until(lambda seen: are_complete(seen[before:], TRUENAS_KINDS))
            assert other.faults.calls["auth.login_ex"]
            assert one.faults.calls["auth.login_ex"] - logins <= 2


async def test_a_key_whose_end_is_put_off_is_tried_again_in_a_while():
    async with nas_of("25.10") as nas:
        key = nas.add_key()
        nas.expire_key(key)
        watching_ = Watching(nas, lambda: Credential("truetally", key))
        watching_.source._pace = msgspec.structs.replace(QUICK, retry_dead_key=timedelta(milliseconds=200))
        async with watching_ as it:
            await it.refusal()
            nas.machine.keys[int(key.partition("-")[0])].expires_at = datetime.now(UTC) + timedelta(days=1)
            await it.connected()


async def test_who_once_proved_to_know_the_key_is_never_sent_it():
    async with nas_of("26.0") as nas:
        key = nas.add_key()
        async with Watching(nas, lambda: Credential("truetally", key)) as it:
            await it.connected()
            # Somebody else answers there now, and says that it knows no SCRAM.
            await nas.stop()
            impostor = LabNas("25.10")
            await impostor.start(port=nas.port)
            try:
                await it.heard.until(
                    lambda seen: any("offers no SCRAM any more" in o.reason for o in lost(seen)), within=10
                )
                assert impostor.faults.calls["auth.login_ex"] == 0
            finally:
                await impostor.stop()


@pytest.mark.parametrize("version", ["24.10", "25.10"])
async def test_what_was_not_read_again_is_not_told_as_fresh(version):
    async with watching(version) as it:
        await it.until(lambda: f"{A}@first" in it.now(Kind.SNAPSHOT))
        told = len([o for o in it.heard.of(Seen, Kind.SNAPSHOT) if o.ref.name == f"{A}@first"])
        it.nas.ssh.snapshot(f"{A}@second")
        await it.until(lambda: f"{A}@second" in it.now(Kind.SNAPSHOT))
        again = [o for o in it.heard.of(Seen, Kind.SNAPSHOT) if o.ref.name == f"{A}@first"]
        assert len(again) == told


async def test_while_everything_is_listed_anew_it_is_not_called_unreachable():
    async with nas_of("25.10") as nas:
        key = nas.add_key()
        async with Watching(nas, lambda: Credential("truetally", key)) as it:
            await it.connected()
            nas.faults.latency_of["alert.list"] = 1.0
            nas.drop_connections()
            await it.heard.until(lost)
            async with asyncio.timeout(5):
                while it.source.status().state is not SourceState.STARTING:
                    await asyncio.sleep(0.01)
            assert "listing" in it.source.status().detail
            nas.faults.latency_of.clear()


@pytest.mark.parametrize("url", ["wss://a..b", f"wss://{'x' * 64}.example.com"])
def test_a_host_that_cannot_exist_is_refused_in_the_configuration(url):
    with pytest.raises(ValueError, match="host name that cannot exist"):
        NasSettings(name="n", url=url, username="u", api_key={"env": "K"})


def test_no_secret_is_in_a_credential_s_text():
    assert "SECRET" not in repr(Credential("u", "SECRET")) + str(Credential("u", "SECRET"))
