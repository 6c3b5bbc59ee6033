"""Does truetally get along with a NAS that refuses, lies, hangs and breaks, and stay silent meanwhile?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from scripted import (
    DENIED,
    UNAUTHENTICATED,
    Cut,
    Heard,
    Never,
    Refusal,
    ScriptedNas,
    are_complete,
    listed,
    lost,
    nas_settings,
    scripted_nas,
)

from truetally.clock import SystemClock
from truetally.errors import AccessDenied, CredentialsRefused, SourceUnavailable
from truetally.model.observations import Gone, Listed, Lost, Seen, SourceState, Trouble
from truetally.model.refs import TRUENAS_KINDS, Kind, Ref
from truetally.model.truenas import DatasetUse
from truetally.sources.truenas.limiter import LoginPace
from truetally.sources.truenas.logins import Credential, log_in
from truetally.sources.truenas.source import NasSource, Pace

QUICK = Pace(
    debounce=timedelta(milliseconds=20),
    look_at_key=timedelta(milliseconds=10),
    logins=LoginPace(apart=0.0, first_pause=0.01, most=1000),
)
KEY = "1-" + "k" * 64
US = Credential("truetally", KEY)
EVERY_KIND = TRUENAS_KINDS


class Running:
    def __init__(self, nas: ScriptedNas, source: NasSource, heard: Heard) -> None:
        self.nas, self.source, self.heard = nas, source, heard

    async def complete(self) -> None:
        await self.heard.until(lambda seen: are_complete(seen, EVERY_KIND))
        await self.until_connected()

    async def until_connected(self) -> None:
        async with asyncio.timeout(10):
            while self.source.status().state is not SourceState.CONNECTED:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running(nas: ScriptedNas | None = None, key=lambda: US, **config) -> AsyncIterator[Running]:
    async with scripted_nas() as made:
        nas = nas or made
        heard = Heard()
        source = NasSource(nas_settings(made.port, **config), key, heard.emit, SystemClock(), QUICK)
        task = asyncio.create_task(source.run())
        try:
            yield Running(made, source, heard)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def refused(login, **config) -> tuple[str, Trouble, Running]:
    async with scripted_nas() as nas:
        nas.login = login
        heard = Heard()
        source = NasSource(nas_settings(nas.port, **config), lambda: US, heard.emit, SystemClock())
        task = asyncio.create_task(source.run())
        found = await heard.until(lost)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not heard.of(Listed)
        assert {o.kind for o in heard.of(Lost)} == EVERY_KIND
        return found[0].reason, found[0].trouble, Running(nas, source, heard)


async def test_every_kind_is_listed_after_a_login_with_key_and_username():
    async with running() as it:
        await it.complete()
        login = next(params for method, params in it.nas.asked if method == "auth.login_ex")
        assert login == [
            {
                "mechanism": "API_KEY_PLAIN",
                "username": "truetally",
                "api_key": KEY,
                "login_options": {"user_info": False},
            }
        ]
        status = it.source.status()
        assert (status.state, status.version) == (SourceState.CONNECTED, "TrueNAS-25.10.0")


@pytest.mark.parametrize(
    ("response", "said", "trouble"),
    [
        ("AUTH_ERR", "it is wrong, or it does not belong to user truetally", Trouble.CREDENTIALS),
        ("EXPIRED", "expired or revoked; make a new one", Trouble.CREDENTIALS),
        ("DENIED", "may not use the API", Trouble.CREDENTIALS),
        ("OTP_REQUIRED", "one-time password", Trouble.CREDENTIALS),
        ("REDIRECT", "standby controller", Trouble.UNREACHABLE),
        ("SOMETHING_NEW", "answered the login with SOMETHING_NEW", Trouble.CREDENTIALS),
    ],
)
async def test_each_refusal_of_a_login_is_explained(response, said, trouble):
    reason, why, it = await refused({"response_type": response, "urls": ["https://other"]})
    assert said in reason
    assert why is trouble
    assert KEY not in reason
    assert it.nas.calls["auth.login_ex"] == 1


async def test_an_expired_key_is_not_tried_again_but_a_new_one_is():
    keys = [Credential("truetally", "old")]

    def answer(login):
        return {"response_type": "EXPIRED" if login["api_key"] == "old" else "SUCCESS"}

    async with running(key=lambda: keys[0]) as it:
        it.nas.login = answer
        await it.heard.until(lost)
        await asyncio.sleep(0.1)
        assert it.nas.calls["auth.login_ex"] == 1
        keys[0] = Credential("truetally", "new")
        await it.complete()


async def test_a_key_is_never_sent_over_a_plain_connection_to_another_machine():
    with pytest.raises(CredentialsRefused, match="TrueNAS would revoke"):
        await log_in(None, "nas1", "ws://192.0.2.1", US)


async def test_no_redirect_is_followed():
    async with scripted_nas() as elsewhere, scripted_nas() as nas:
        nas.redirect = f"http://127.0.0.1:{elsewhere.port}/api/versions"
        heard = Heard()
        source = NasSource(nas_settings(nas.port), lambda: US, heard.emit, SystemClock())
        task = asyncio.create_task(source.run())
        (first, *_) = await heard.until(lost)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert "redirects are not followed" in first.reason
        assert elsewhere.calls.total() == 0


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ("<html>another web server</html>", "is this a TrueNAS?"),
        ([], "none of the API versions we know"),
        (["v24.10"], "none of the API versions we know"),
    ],
    ids=["a page", "none", "too old"],
)
async def test_what_is_no_nas_that_we_know_is_said_to_be_none(versions, told):
    async with scripted_nas() as nas:
        nas.versions = versions
        heard = Heard()
        task = asyncio.create_task(
            NasSource(nas_settings(nas.port), lambda: US, heard.emit, SystemClock()).run()
        )
        (first, *_) = await heard.until(lost)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert told in first.reason


async def test_what_a_role_denies_is_lost_alone_and_names_the_role():
    async with running() as it:
        it.nas.script["sharing.nfs.query"] = DENIED
        await it.heard.until(listed(Kind.SNAPSHOT))
        (denied,) = lost(it.heard.all)
        assert (denied.kind, denied.trouble) == (Kind.NFS_SHARE, Trouble.DENIED)
        assert "SHARING_NFS_READ" in denied.reason
        assert Kind.DATASET in {o.kind for o in it.heard.of(Listed)}


async def test_without_the_newer_way_datasets_are_listed_by_the_older_one():
    async with running() as it:
        it.nas.script["pool.query"] = [{"name": "tank", "status": "ONLINE", "healthy": True}]
        it.nas.script["zfs.resource.query"] = DENIED
        it.nas.script["pool.dataset.query"] = lambda *_: [
            {"id": "tank", "pool": "tank", "type": "FILESYSTEM"}
        ]
        await it.complete()
        assert [o.ref.name for o in it.heard.of(Seen, Kind.DATASET)] == ["tank"]


async def test_half_a_list_is_no_list():
    async with running() as it:
        it.nas.script["pool.snapshot.query"] = Cut
        await it.heard.until(lost)
        assert not it.heard.of(Listed, Kind.SNAPSHOT)
        assert {o.kind for o in lost(it.heard.all)} == EVERY_KIND


async def test_a_broken_connection_loses_every_kind_once():
    async with running() as it:
        await it.complete()
        await it.nas.drop()
        await it.heard.until(lost)
        kinds = [o.kind for o in lost(it.heard.all)]
        assert sorted(kinds) == sorted(EVERY_KIND)
        with pytest.raises(SourceUnavailable):
            await it.source.relist(frozenset({Kind.POOL}))


async def test_a_call_that_is_not_answered_fails_alone_and_the_connection_lives():
    async with running(call_timeout="100ms") as it:
        await it.complete()
        it.nas.script["sharing.nfs.query"] = Never
        with pytest.raises(SourceUnavailable, match="not answered in time"):
            await it.source.reread(frozenset({Ref("nas1", Kind.NFS_SHARE, "1")}))
        await it.source.relist(frozenset({Kind.POOL}))
        assert it.nas.calls["auth.login_ex"] == 1


async def test_answers_may_come_in_any_order():
    async with running() as it:
        await it.complete()
        later = asyncio.Event()

        async def slow(*_):
            await later.wait()
            return [{"id": 1, "path": "/mnt/slow"}]

        it.nas.script["sharing.nfs.query"] = slow
        it.nas.script["sharing.smb.query"] = [{"id": 2, "name": "quick"}]
        share = asyncio.create_task(it.source.reread(frozenset({Ref("nas1", Kind.NFS_SHARE, "1")})))
        await it.source.reread(frozenset({Ref("nas1", Kind.SMB_SHARE, "2")}))
        later.set()
        await share
        names = [
            o.value.id
            for o in it.heard.all
            if isinstance(o, Seen) and o.ref.kind in (Kind.NFS_SHARE, Kind.SMB_SHARE)
        ]
        assert names == [2, 1]


async def test_a_login_that_is_forgotten_while_the_socket_lives_is_made_again_once():
    async with running() as it:
        await it.complete()
        forgotten = [True]

        def login(_):
            forgotten[0] = False
            return {"response_type": "SUCCESS"}

        def query(*_):
            return UNAUTHENTICATED if forgotten[0] else []

        it.nas.login = login
        it.nas.script["pool.query"] = query
        it.nas.script["service.query"] = query
        both = [it.source.relist(frozenset({kind})) for kind in (Kind.POOL, Kind.SERVICE)]
        await asyncio.gather(*both)
        assert it.nas.calls["auth.login_ex"] == 2


async def test_busy_is_tried_again():
    async with running() as it:
        await it.complete()
        answers = iter([Refusal(code=-32000, error=None), []])
        it.nas.script["service.query"] = lambda *_: next(answers)
        await it.source.relist(frozenset({Kind.SERVICE}))


async def test_at_most_eight_calls_are_in_flight():
    async with running() as it:
        await it.complete()
        flying, most = 0, 0
        go = asyncio.Event()

        async def one(*_):
            nonlocal flying, most
            flying += 1
            most = max(most, flying)
            await go.wait()
            flying -= 1
            return []

        it.nas.script["sharing.nfs.query"] = one
        reads = [
            asyncio.create_task(it.source.reread(frozenset({Ref("nas1", Kind.NFS_SHARE, str(n))})))
            for n in range(20)
        ]
        while flying < 8:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        go.set()
        await asyncio.gather(*reads)
        assert most == 8


async def test_a_hint_makes_the_object_be_read_again_and_is_not_believed():
    async with running() as it:
        await it.complete()
        before = len(it.heard.all)
        it.nas.script["sharing.nfs.query"] = [{"id": 7, "path": "/mnt/tank/x"}]
        await it.nas.announce("sharing.nfs.query", 7, "removed")
        found = await it.heard.until(lambda seen: [o for o in seen[before:] if isinstance(o, Seen | Gone)])
        assert found[0].ref == Ref("nas1", Kind.NFS_SHARE, "7")
        assert isinstance(found[0], Seen)


async def test_a_destroyed_snapshot_that_is_announced_as_a_dataset_is_read_as_snapshot():
    async with running() as it:
        await it.complete()
        before = len(it.heard.all)
        await it.nas.announce("pool.dataset.query", "tank/x@auto", "removed")
        found = await it.heard.until(lambda seen: [o for o in seen[before:] if isinstance(o, Seen | Gone)])
        assert found == [Gone(Ref("nas1", Kind.SNAPSHOT, "tank/x@auto"), found[0].asked_at)]


async def test_a_dataset_that_does_not_exist_is_gone_and_not_an_error():
    async with running() as it:
        await it.complete()
        missing = Refusal(code=-32602, error=22, extra=[["data", "tank/x does not exist", 2]])
        it.nas.script["zfs.resource.query"] = missing
        await it.source.reread(frozenset({Ref("nas1", Kind.DATASET, "tank/x")}))
        assert isinstance(it.heard.all[-1], Gone)


async def test_an_error_that_is_not_absence_proves_none():
    async with running() as it:
        await it.complete()
        it.nas.script["zfs.resource.query"] = Refusal(reason="[EFAULT] pool is suspended")
        with pytest.raises(SourceUnavailable, match="pool is suspended") as caught:
            await it.source.reread(frozenset({Ref("nas1", Kind.DATASET, "tank/x")}))
        assert "SECRET TRACE" not in str(caught.value)


# Who uses a dataset?

PATH = "tank/k8s/pvc-1"
SHARE = {"id": 1, "path": f"/mnt/{PATH}"}
USES = {
    "clients of its NFS export": (
        {
            "sharing.nfs.query": [SHARE],
            "nfs.client_count": 1,
            "nfs.get_nfs3_clients": [{"ip": "10.0.0.7", "export": f"/mnt/{PATH}"}],
        },
        DatasetUse(clients=("10.0.0.7",)),
    ),
    "an NFSv4 client that does not tell where": (
        {
            "sharing.nfs.query": [SHARE],
            "nfs.client_count": 1,
            "nfs.get_nfs4_clients": [{"id": "4", "info": {}, "states": []}],
        },
        DatasetUse(clients=("4",)),
    ),
    "no client at all": ({"sharing.nfs.query": [SHARE], "nfs.client_count": 0}, DatasetUse()),
    "clients of a share elsewhere": (
        {"sharing.nfs.query": [{"id": 1, "path": "/mnt/tank/other"}], "nfs.client_count": 9},
        DatasetUse(),
    ),
    "a replication": (
        {"pool.dataset.attachments": [{"type": "Replication", "service": None, "attachments": ["nightly"]}]},
        DatasetUse(attachments=("Replication: nightly",)),
    ),
    "a process": (
        {"pool.dataset.processes": [{"pid": 1, "name": "smbd", "service": "cifs", "cmdline": None}]},
        DatasetUse(processes=("cifs",)),
    ),
    "a job": (
        {"core.get_jobs": [{"method": "replication.run_onetime", "arguments": [{"target_dataset": PATH}]}]},
        DatasetUse(jobs=("replication.run_onetime",)),
    ),
    "a session": (
        {
            "iscsi.extent.query": [{"id": 6, "name": "x", "type": "DISK", "disk": f"zvol/{PATH}"}],
            "iscsi.targetextent.query": [{"id": 7, "target": 5, "extent": 6, "lunid": 0}],
            "iscsi.target.query": [{"id": 5, "name": "csi-x"}],
            "iscsi.global.sessions": [{"initiator": "iqn.node", "target": "iqn.2005:csi-x"}],
        },
        DatasetUse(sessions=("iqn.node",)),
    ),
}


@pytest.mark.parametrize("what", USES)
async def test_who_uses_a_dataset_is_found(what):
    async with running() as it:
        await it.complete()
        script, expected = USES[what]
        it.nas.script |= script
        await it.source.reread(frozenset({Ref("nas1", Kind.DATASET_USE, PATH)}))
        assert it.heard.all[-1].value == expected


async def test_what_cannot_be_read_of_its_use_is_named_with_the_role():
    async with running() as it:
        await it.complete()
        it.nas.script |= {
            "sharing.nfs.query": [SHARE],
            "nfs.client_count": 1,
            "nfs.get_nfs3_clients": DENIED,
            "pool.dataset.attachments": DENIED,
        }
        await it.source.reread(frozenset({Ref("nas1", Kind.DATASET_USE, PATH)}))
        unknown = it.heard.all[-1].value.unknown
        assert [u.partition(":")[0] for u in unknown] == ["attachments", "NFS and SMB clients"]
        assert "READONLY_ADMIN or SHARING_NFS_WRITE" in unknown[1]


@pytest.mark.parametrize(
    ("newest", "role"), [("v25.04.2", "SHARING_SMB_WRITE"), ("v26.0.0", "SHARING_SMB_READ")]
)
async def test_the_role_that_reads_smb_clients_depends_on_the_version(newest, role):
    async with scripted_nas() as nas:
        nas.versions = [newest]
        nas.script |= {
            "sharing.smb.query": [{"id": 1, "name": "x", "path": f"/mnt/{PATH}"}],
            "smb.status": DENIED,
        }
        heard = Heard()
        source = NasSource(nas_settings(nas.port), lambda: US, heard.emit, SystemClock(), QUICK)
        task = asyncio.create_task(source.run())
        await heard.until(listed(Kind.SNAPSHOT))
        await source.reread(frozenset({Ref("nas1", Kind.DATASET_USE, PATH)}))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (unknown,) = heard.all[-1].value.unknown
        assert role in unknown


async def test_a_denied_reread_says_so():
    async with running() as it:
        await it.complete()
        it.nas.script["sharing.nfs.query"] = DENIED
        with pytest.raises(AccessDenied, match="SHARING_NFS_READ"):
            await it.source.reread(frozenset({Ref("nas1", Kind.NFS_SHARE, "1")}))


# Does one thing that fails stay one thing?


async def test_a_kind_that_fails_is_lost_alone_and_is_read_again():
    async with running(reconcile_every="50ms") as it:
        it.nas.script["iscsi.global.sessions"] = Refusal(reason="[EFAULT] iscsi is broken")
        await it.until_connected()
        (first, *_) = lost(it.heard.all)
        assert (first.kind, first.trouble) == (Kind.ISCSI_SESSION, Trouble.FAILED)
        assert "iscsi is broken" in first.reason
        assert {o.kind for o in lost(it.heard.all)} == {Kind.ISCSI_SESSION}
        it.nas.script["iscsi.global.sessions"] = []
        await it.heard.until(listed(Kind.ISCSI_SESSION))
        assert it.nas.calls["auth.login_ex"] == 1


async def test_a_kind_that_is_seldom_read_is_read_again_soon_after_it_failed():
    async with running(reconcile_every="50ms", snapshots_every="1h") as it:
        it.nas.script["pool.snapshot.query"] = Refusal(reason="[EFAULT] busy with a scrub")
        await it.heard.until(lost)
        it.nas.script["pool.snapshot.query"] = []
        await it.heard.until(listed(Kind.SNAPSHOT))


async def test_a_method_that_this_version_lacks_is_told_so():
    async with running() as it:
        it.nas.script["alert.list"] = Refusal(code=-32601, error=None)
        (first, *_) = await it.heard.until(lost)
        assert (first.kind, first.reason) == (Kind.ALERT, "this TrueNAS version has no alert.list")


async def test_a_periodic_reading_that_hangs_does_not_end_the_daemon():
    async with running(reconcile_every="50ms", call_timeout="100ms") as it:
        await it.complete()
        it.nas.script["sharing.nfs.query"] = Never
        (first, *_) = await it.heard.until(lost)
        assert (first.kind, first.trouble) == (Kind.NFS_SHARE, Trouble.FAILED)
        assert it.nas.calls["auth.login_ex"] == 1


async def test_a_connection_that_breaks_during_a_periodic_reading_is_made_again():
    async with running(reconcile_every="50ms") as it:
        await it.complete()
        it.nas.script["sharing.nfs.query"] = Cut
        await it.heard.until(lost)
        del it.nas.script["sharing.nfs.query"]
        before = len(it.heard.all)
        await it.heard.until(listed(Kind.SNAPSHOT, before))
        assert {o.kind for o in lost(it.heard.all)} == EVERY_KIND


async def test_a_key_that_expires_under_way_is_told_and_not_tried_again():
    async with running(reconcile_every="50ms") as it:
        await it.complete()
        it.nas.login = {"response_type": "EXPIRED"}
        it.nas.script["pool.query"] = UNAUTHENTICATED
        (first, *_) = await it.heard.until(lost)
        assert first.trouble is Trouble.CREDENTIALS
        logins = it.nas.calls["auth.login_ex"]
        await asyncio.sleep(0.1)
        assert it.nas.calls["auth.login_ex"] == logins == 2


async def test_what_was_listed_before_the_connection_broke_again_is_lost_again():
    async with running() as it:
        it.nas.script["pool.snapshot.query"] = Cut
        await it.heard.until(lambda seen: len(lost(seen)) == 2 * len(EVERY_KIND))
        pools = [type(o) for o in it.heard.all if isinstance(o, Listed | Lost) and o.kind is Kind.POOL]
        assert pools[:4] == [Listed, Lost, Listed, Lost]


async def test_a_nas_that_cannot_log_us_in_now_has_not_refused_the_key():
    reason, trouble, _ = await refused(Refusal(reason="[EFAULT] the middleware is starting"))
    assert trouble is Trouble.UNREACHABLE
    assert "is starting" in reason


async def test_a_collection_that_cannot_be_subscribed_only_means_waiting_for_the_next_reading():
    async with running() as it:
        it.nas.script["core.subscribe"] = Refusal(reason="[EINVAL] no such event")
        await it.complete()


async def test_a_hint_at_an_object_without_a_number_makes_the_whole_kind_be_read():
    async with running() as it:
        await it.complete()
        before = len(it.heard.all)
        await it.nas.announce("sharing.nfs.query", "what?", "changed")
        await it.heard.until(listed(Kind.NFS_SHARE, before))


@pytest.mark.parametrize(
    ("opened", "clients"),
    [(f"/mnt/{PATH}/data", ("4",)), ("/mnt/tank/k8s/pvc-10/data", ()), ("data", ("4",))],
)
async def test_an_nfsv4_client_counts_unless_all_its_files_lie_elsewhere(opened, clients):
    async with running() as it:
        await it.complete()
        it.nas.script |= {
            "sharing.nfs.query": [SHARE],
            "nfs.client_count": 1,
            "nfs.get_nfs4_clients": [{"id": "4", "states": [{"filename": opened}]}],
        }
        await it.source.reread(frozenset({Ref("nas1", Kind.DATASET_USE, PATH)}))
        assert it.heard.all[-1].value.clients == clients


async def test_what_of_its_use_fails_to_be_read_is_named_and_the_rest_is_told():
    async with running() as it:
        await it.complete()
        it.nas.script |= {
            "pool.dataset.processes": Refusal(reason="[EFAULT] lsof failed"),
            "pool.dataset.attachments": [{"type": "Replication", "attachments": ["nightly"]}],
        }
        await it.source.reread(frozenset({Ref("nas1", Kind.DATASET_USE, PATH)}))
        use = it.heard.all[-1].value
        assert use.attachments == ("Replication: nightly",)
        assert use.unknown == ("processes: pool.dataset.processes failed: [EFAULT] lsof failed",)
