"""Every way to log in, on the version that has it, and what each refusal means."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from truenas.scripted import Heard, are_complete, lost, nas_settings
from truetally.clock import SystemClock
from truetally.lab.nas import LabNas
from truetally.model.observations import SourceState, Trouble
from truetally.model.refs import TRUENAS_KINDS, Kind
from truetally.settings import NasSettings, SecretReference
from truetally.sources.truenas.limiter import LoginPace
from truetally.sources.truenas.logins import Credential
from truetally.sources.truenas.source import NasSource, Pace

QUICK = Pace(
    debounce=timedelta(milliseconds=20),
    look_at_key=timedelta(milliseconds=20),
    logins=LoginPace(apart=0.0, first_pause=0.02, last_pause=0.1, refused_pause=0.1, most=1000),
)
EVERY = ("22.12", "23.10", "24.04", "24.10", "25.04", "25.10", "26.0")


@asynccontextmanager
async def nas_of(version: str, **options):
    nas = LabNas(version, **options)
    nas.zfs.create_pool("tank")
    await nas.start()
    try:
        yield nas
    finally:
        await nas.stop()


class Watching:
    def __init__(self, nas: LabNas, who, **config) -> None:
        self.heard = Heard()
        settings = nas_settings(nas.port, **config)
        if who().is_password:
            password = {"api_key": None, "password": SecretReference(env="PASSWORD")}
            settings = NasSettings.model_validate(settings.model_dump() | password)
        self.source = NasSource(settings, who, self.heard.emit, SystemClock(), QUICK)

    async def __aenter__(self):
        self._task = asyncio.create_task(self.source.run())
        return self

    async def __aexit__(self, *_):
        assert not self._task.done()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def connected(self):
        await self.heard.until(lambda seen: are_complete(seen, TRUENAS_KINDS))
        async with asyncio.timeout(5):
            while self.source.status().state is not SourceState.CONNECTED:
                await asyncio.sleep(0.01)

    async def refusal(self):
        await self.heard.until(lost)
        first = lost(self.heard.all)[0]
        return first.trouble, first.reason


@pytest.mark.parametrize("version", EVERY)
async def test_an_api_key_opens_every_version(version):
    async with nas_of(version) as nas:
        key = nas.add_key()
        async with Watching(nas, lambda: Credential("truetally", key)) as it:
            await it.connected()
        login = "auth.login_with_api_key" if version < "25" else "auth.login_ex"
        assert nas.faults.calls[login] == (2 if version == "26.0" else 1)


@pytest.mark.parametrize("version", EVERY)
async def test_a_password_opens_every_version(version):
    async with nas_of(version) as nas:
        nas.add_user("truetally", "swordfish", ["READONLY_ADMIN"])
        async with Watching(nas, lambda: Credential("truetally", "swordfish", is_password=True)) as it:
            await it.connected()


@pytest.mark.parametrize(("version", "revoked"), [("25.10", True), ("26.0", False)])
async def test_from_26_on_the_key_is_not_sent_so_that_no_wire_can_cost_it(version, revoked):
    async with nas_of(version) as nas:
        key = nas.add_key()
        # To the NAS we seem to come from elsewhere, unencrypted: it revokes every key that it is shown.
        nas.remote_address = "192.0.2.7"
        async with Watching(nas, lambda: Credential("truetally", key)) as it:
            await (it.refusal() if revoked else it.connected())
        assert nas.machine.keys[int(key.partition("-")[0])].revoked is revoked


@pytest.mark.parametrize("version", EVERY)
@pytest.mark.parametrize("is_password", [False, True], ids=["key", "password"])
async def test_a_wrong_secret_is_told_and_not_shown(version, is_password):
    async with nas_of(version) as nas:
        nas.add_user("truetally", "swordfish", ["READONLY_ADMIN"])
        wrong = "7-CANARYCANARY"
        with capture_logs() as logs:
            async with Watching(nas, lambda: Credential("truetally", wrong, is_password=is_password)) as it:
                trouble, reason = await it.refusal()
        assert trouble is Trouble.CREDENTIALS
        assert ("password" if is_password else "API key") in reason
        assert "refused" in reason
        assert "CANARY" not in repr(logs) + reason + repr(it.source.status())


@pytest.mark.parametrize("version", ["25.04", "25.10", "26.0"])
async def test_an_expired_key_is_not_tried_again_until_it_is_another(version):
    async with nas_of(version) as nas:
        keys = [nas.add_key()]
        nas.expire_key(keys[0])
        async with Watching(nas, lambda: Credential("truetally", keys[0])) as it:
            trouble, reason = await it.refusal()
            assert trouble is Trouble.CREDENTIALS
            assert "expired or revoked" in reason
            tried = nas.faults.calls["auth.login_ex"]
            await asyncio.sleep(0.3)
            assert nas.faults.calls["auth.login_ex"] == tried
            keys[0] = nas.add_key()
            await it.connected()


@pytest.mark.parametrize("version", ["25.04", "25.10", "26.0"])
async def test_a_user_with_a_one_time_password_is_told_to_take_a_key(version):
    async with nas_of(version) as nas:
        nas.add_user("truetally", "swordfish", ["READONLY_ADMIN"], otp="123456")
        async with Watching(nas, lambda: Credential("truetally", "swordfish", is_password=True)) as it:
            trouble, reason = await it.refusal()
    assert trouble is Trouble.CREDENTIALS
    assert "one-time password; use an API key" in reason


async def test_a_user_without_any_privilege_is_told_which_to_give():
    async with nas_of("26.0") as nas:
        key = nas.add_key(roles=[])
        async with Watching(nas, lambda: Credential("truetally", key)) as it:
            trouble, reason = await it.refusal()
    assert trouble is Trouble.CREDENTIALS
    assert "READONLY_ADMIN" in reason


@pytest.mark.parametrize("version", ["25.04", "26.0"])
async def test_the_active_controller_is_followed_to_an_address_that_is_configured(version):
    async with nas_of(version) as standby, nas_of(version) as active:
        key = standby.add_key()
        active.machine.keys = standby.machine.keys
        active.zfs.create_pool("pool-of-the-active")
        standby.standby_of = [f"https://127.0.0.1:{active.port}"]
        config = {"failover_urls": (f"ws://127.0.0.1:{active.port}",)}
        async with Watching(standby, lambda: Credential("truetally", key), **config) as it:
            await it.connected()
            assert {
                o.ref.name for o in it.heard.all if getattr(o, "ref", None) and o.ref.kind is Kind.POOL
            } == {
                "tank",
                "pool-of-the-active",
            }


async def test_the_active_controller_is_not_followed_anywhere_else():
    async with nas_of("25.10") as standby, nas_of("25.10") as elsewhere:
        key = standby.add_key()
        elsewhere.machine.keys = standby.machine.keys
        standby.standby_of = [f"https://127.0.0.1:{elsewhere.port}"]
        async with Watching(standby, lambda: Credential("truetally", key)) as it:
            trouble, reason = await it.refusal()
            await asyncio.sleep(0.2)
        assert trouble is Trouble.UNREACHABLE
        assert "standby controller" in reason
        assert "failover_urls" in reason
        assert elsewhere.faults.calls == {}


async def test_when_a_controller_goes_away_the_other_one_is_asked_and_back():
    async with nas_of("25.10") as one, nas_of("25.10") as other:
        key = one.add_key()
        other.machine.keys = one.machine.keys
        config = {"failover_urls": (f"ws://127.0.0.1:{other.port}",)}
        async with Watching(one, lambda: Credential("truetally", key), **config) as it:
            await it.connected()
            for leaves, comes in ((one, other), (other, one)):
                before = len(it.heard.all)
                await leaves.stop()
                await it.heard.until(lambda seen, at=before: are_complete(seen[at:], TRUENAS_KINDS))
                assert comes.faults.calls["zfs.resource.query"]
                await leaves.start(port=leaves.port)
