"""What a client meets on the wire: envelopes, logins, limits; facts seen on the real middleware 26."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from lab_nas.nas_client import connected, logged_in
from truetally.lab.nas import LabNas


async def test_versions_are_told_without_login(any_nas):
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http{any_nas.url.removeprefix('ws')}/api/versions") as answer,
    ):
        versions = await answer.json()
    assert versions[-1].startswith(f"v{any_nas.machine.version}")


@pytest.mark.parametrize(
    ("text", "code", "message", "ident"),
    [
        ("not json", -32700, "Expecting value: line 1 column 1 (char 0)", None),
        ("[]", -32700, "Batch messages are not supported at this time", None),
        (
            '{"jsonrpc":"2.0","id":5,"method":"core.ping","params":{}}',
            -32600,
            "'params' member must be of type array",
            5,
        ),
        ('{"id":6,"method":"core.ping","params":[]}', -32600, "Missing 'jsonrpc' member", 6),
        ('{"jsonrpc":"2.0","id":7,"method":"nope.method"}', -32601, "Method does not exist", 7),
    ],
)
async def test_bad_envelopes_are_answered_as_the_real_one_does(nas, text, code, message, ident):
    async with connected(nas) as client:
        assert await client.raw(text) == {
            "jsonrpc": "2.0",
            "error": {"code": code, "message": message},
            "id": ident,
        }


async def test_without_login_nothing_but_the_public_answers(nas):
    async with connected(nas) as client:
        assert await client.call("core.ping") == "pong"
        error = await client.error("pool.dataset.query")
        assert (error["code"], error["data"]["errname"]) == (-32001, "ENOTAUTHENTICATED")
        assert error["data"]["error"] == 207
        assert error["data"]["reason"] == "[ENOTAUTHENTICATED] Not authenticated"


async def test_a_failed_login_is_a_result(nas):
    key = nas.add_key("truetally")
    async with connected(nas) as client:
        assert await client.login("9-bad") == {"response_type": "AUTH_ERR"}
        assert await client.login(key, username="someone") == {"response_type": "AUTH_ERR"}
        assert await client.login(key) == {
            "response_type": "SUCCESS",
            "user_info": None,
            "authenticator": "LEVEL_1",
        }


async def test_a_login_without_username_is_invalid(nas26):
    async with connected(nas26) as client:
        error = await client.error("auth.login_ex", {"mechanism": "API_KEY_PLAIN", "api_key": "9-bad"})
    assert error["code"] == -32602
    assert error["data"]["extra"] == [["login_data.API_KEY_PLAIN.username", "Field required", 22]]
    assert error["data"]["trace"]["class"] == "ValidationErrors"


async def test_reconnect_tokens_came_with_26(nas, nas26):
    async with connected(nas26) as client:
        assert (await client.login(nas26.add_key()))["reconnect_token"] is None
    async with connected(nas) as client:
        data = {"mechanism": "API_KEY_PLAIN", "username": "truetally", "api_key": nas.add_key()}
        error = await client.error("auth.login_ex", data | {"login_options": {"reconnect_token": True}})
    assert error["data"]["extra"][0][1] == "Extra inputs are not permitted"


async def test_an_expired_key_says_so(nas):
    key = nas.add_key(expires_at=datetime.now(UTC) - timedelta(days=1))
    async with connected(nas) as client:
        assert await client.login(key) == {"response_type": "EXPIRED"}


async def test_a_key_sent_in_clear_from_elsewhere_is_revoked_for_good(nas):
    key = nas.add_key()
    nas.remote_address = "192.0.2.7"
    async with connected(nas) as client:
        assert await client.login("1-wrong") == {"response_type": "AUTH_ERR"}
        assert await client.login(key) == {"response_type": "EXPIRED"}
    nas.remote_address = None
    async with connected(nas) as client:
        assert await client.login(key) == {"response_type": "EXPIRED"}
    assert [alert["klass"] for alert in nas.machine.alerts.values()] == ["ApiKeyRevoked"]


async def test_login_with_an_api_key_alone_tells_no_reason(nas):
    key = nas.add_key()
    async with connected(nas) as client:
        assert await client.call("auth.login_with_api_key", "7-x") is False
        assert await client.call("auth.login_with_api_key", key) is True
        assert (await client.call("auth.me"))["pw_name"] == "truetally"
        await client.call("auth.logout")
        assert (await client.error("auth.me"))["data"]["error"] == 207


async def test_the_21st_unauthenticated_call_in_a_minute_is_refused(nas):
    async with connected(nas) as client:
        for _ in range(20):
            await client.call("auth.mechanism_choices")
        error = await client.error("auth.mechanism_choices")
        assert error["data"]["reason"] == "[EBUSY] Rate Limit Exceeded"
        assert await client.call("core.ping") == "pong"


async def test_the_rate_limit_ends_with_its_minute():
    time = datetime(2026, 1, 1, tzinfo=UTC)
    lab = LabNas(now=lambda: time)
    await lab.start()
    async with connected(lab) as client:
        for _ in range(25):
            await client.reply("core.ping")
        assert (await client.error("core.ping"))["data"]["error"] == 16
        time += timedelta(seconds=61)
        assert await client.call("core.ping") == "pong"
    await lab.stop()


async def test_a_long_message_before_login_closes_with_1007(nas):
    async with connected(nas) as client:
        await client.socket.send_str(" " * 8193)
        message = await asyncio.wait_for(client.socket.receive(), 10)
    assert (message.data, message.extra) == (1007, "Anonymous connection max message length is 8 kB")


async def test_a_longer_message_after_login_closes_with_1009(nas):
    async with logged_in(nas) as client:
        assert (await client.raw(" " * 9000))["error"]["code"] == -32700
        await client.socket.send_str(" " * 65537)
        message = await asyncio.wait_for(client.socket.receive(), 10)
    assert (message.data, message.extra) == (1009, "Max message length is 64 kB")


async def test_a_binary_frame_closes_with_1003(nas):
    async with connected(nas) as client:
        await client.socket.send_bytes(b"{}")
        message = await asyncio.wait_for(client.socket.receive(), 10)
    assert message.data == 1003


async def test_more_than_20_calls_in_flight_are_refused(nas):
    async with logged_in(nas) as client:
        nas.faults.latency = 0.05
        for ident in range(100, 125):
            await client.send("core.ping", ident=ident)
        replies = [await client.receive() for _ in range(25)]
    refused = [reply["error"] for reply in replies if "error" in reply]
    assert len(refused) == 5
    assert refused[0] == {
        "code": -32000,
        "message": "Maximum number of concurrent calls (20) has exceeded",
    }


async def test_replies_come_in_the_order_in_which_calls_end(nas):
    async with logged_in(nas) as client:
        nas.faults.latency_of["pool.query"] = 0.2
        await client.send("pool.query", ident="slow")
        await client.send("core.ping", ident="fast")
        assert [(await client.receive())["id"] for _ in range(2)] == ["fast", "slow"]


async def test_a_notification_is_done_and_not_answered(nas):
    async with logged_in(nas) as client:
        message = {"jsonrpc": "2.0", "method": "iscsi.initiator.create", "params": [{"comment": "x"}]}
        await client.socket.send_str(json.dumps(message))
        assert (await client.raw('{"jsonrpc":"2.0","id":1,"method":"core.ping"}'))["id"] == 1
        assert await client.call("iscsi.initiator.query", [], {"count": True}) == 1


async def test_a_missing_instance_is_told_by_extra_alone(nas):
    async with logged_in(nas) as client:
        error = await client.error("sharing.nfs.get_instance", 99)
    assert error["code"] == -32602
    assert error["data"]["error"] == 22
    assert error["data"]["reason"] == "[ENOENT] None: SharingNFS 99 does not exist"
    assert error["data"]["extra"] == [[None, "SharingNFS 99 does not exist", 2]]
    assert error["data"]["trace"]["class"] == "InstanceNotFound"


async def test_unknown_members_are_refused(nas):
    async with logged_in(nas) as client:
        for method, params in {
            "sharing.nfs.query": [[], {"bogus": 1}],
            "pool.dataset.delete": ["tank/x", {"bogus": 1}],
        }.items():
            error = await client.error(method, *params)
            assert error["data"]["extra"] == [["options.bogus", "Extra inputs are not permitted", 22]]
            assert error["data"]["reason"] == "[EINVAL] options.bogus: Extra inputs are not permitted\n"


async def test_a_read_only_key_may_not_change_and_may_not_hear_all(nas):
    async with logged_in(nas, ["READONLY_ADMIN"]) as client:
        assert await client.call("core.subscribe", "iscsi.initiator.query")
        for method, argument in (
            ("iscsi.initiator.delete", 1),
            ("core.subscribe", "auth.sessions"),
            ("core.subscribe", "*"),
            ("core.subscribe", "nonexistent.collection"),
        ):
            error = await client.error(method, argument)
            assert (error["code"], error["data"]["reason"]) == (-32001, "[EACCES] Not authorized")


async def test_a_granular_key_reads_only_its_own_kind(nas):
    async with logged_in(nas, ["DATASET_READ"]) as client:
        await client.call("pool.dataset.query")
        assert (await client.error("pool.query"))["data"]["errname"] == "EACCES"


async def test_deleting_a_dataset_needs_more_than_writing(nas):
    async with logged_in(nas, ["DATASET_WRITE", "SHARING_ADMIN"]) as client:
        assert (await client.error("pool.dataset.delete", "tank/k8s"))["data"]["errname"] == "EACCES"


async def test_an_old_endpoint_of_a_new_nas_lacks_what_had_no_model(nas):
    async with logged_in(nas, endpoint="v25.04.2") as client:
        assert (await client.error("pool.query"))["code"] == -32601
        assert await client.call("sharing.nfs.query") == []


async def test_methods_come_and_go_with_versions(nas25_04, nas, nas26):
    async with logged_in(nas25_04) as client:
        for method in ("pool.snapshot.query", "zfs.resource.query", "core.get_methods"):
            assert (await client.error(method))["code"] == -32601
    has = {}
    for lab in (nas, nas26):
        async with logged_in(lab) as client:
            has[lab.machine.version] = set(await client.call("core.get_methods"))
    assert "zfs.resource.query" in has["25.10"]
    assert "zfs.snapshot.query" not in has["26.0"]
    assert "zfs.resource.snapshot.query" in has["26.0"] - has["25.10"]


async def test_private_snapshot_methods_of_25_10_answer_a_full_admin_only(nas):
    async with logged_in(nas) as client:
        assert await client.call("zfs.snapshot.query") == []
    async with logged_in(nas, ["READONLY_ADMIN"]) as client:
        assert (await client.error("zfs.snapshot.query"))["data"]["errname"] == "EACCES"


async def test_smb_sessions_are_for_all_who_read_everything_or_write_shares_on_25_04(nas25_04, nas, nas26):
    async with logged_in(nas25_04, ["READONLY_ADMIN"]) as client:
        assert await client.call("smb.status") == []
    async with logged_in(nas25_04, ["SHARING_SMB_READ"]) as client:
        assert (await client.error("smb.status"))["data"]["errname"] == "EACCES"
    async with logged_in(nas) as client:
        assert (await client.error("smb.status"))["code"] == -32601
    async with logged_in(nas26, ["READONLY_ADMIN"]) as client:
        assert await client.call("smb.status") == []
