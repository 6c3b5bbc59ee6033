"""Every way to log in to the lab NAS, and what each version answers to it."""

import asyncio
import base64
import hashlib
import hmac
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from lab_nas.ddp_client import at_home, met
from lab_nas.nas_client import connected, logged_in
from truetally.lab.nas import LabNas
from truetally.lab.nas.jobs import FOREVER, jobs_of

ALL = ("22.12", "23.10", "24.04", "24.10", "25.04", "25.10", "26.0")
NEW = ALL[4:]
NONCE = bytes(range(32))


@asynccontextmanager
async def running(version, **options):
    lab = LabNas(version, **options)
    lab.zfs.create_pool("tank")
    await lab.start()
    try:
        yield lab
    finally:
        await lab.stop()


@pytest.fixture(params=ALL)
async def each_nas(request):
    async with running(request.param) as lab:
        yield lab


@pytest.fixture(params=NEW)
async def new_nas(request):
    async with running(request.param) as lab:
        yield lab


async def login_ex(client, mechanism, **members):
    return await client.call("auth.login_ex", {"mechanism": mechanism, **members})


# Passwords


async def test_a_password_logs_in_on_every_version(each_nas):
    each_nas.add_user("root", "correct horse")
    async with met(each_nas) as client:
        assert await client.call("auth.login", "root", "wrong") is False
        assert await client.call("auth.login", "nobody", "correct horse") is False
        assert await client.call("auth.login", "root", "correct horse") is True
        assert (await client.call("auth.me"))["pw_name"] == "root"
        await client.call("pool.query")


async def test_a_password_may_do_what_its_user_may(new_nas):
    new_nas.add_user("reader", "secret", ["POOL_READ"])
    async with connected(new_nas) as client:
        answer = await login_ex(client, "PASSWORD_PLAIN", username="reader", password="secret")
        assert answer["response_type"] == "SUCCESS"
        assert answer["user_info"]["privilege"]["roles"] == {"$set": ["POOL_READ"]}
        await client.call("pool.query")
        assert (await client.error("pool.dataset.query"))["data"]["errname"] == "EACCES"


async def test_a_wrong_password_is_a_result(new_nas):
    new_nas.add_user("reader", "secret")
    async with connected(new_nas) as client:
        wrong = await login_ex(client, "PASSWORD_PLAIN", username="reader", password="Secret")
    assert wrong == {"response_type": "AUTH_ERR"}


async def test_a_one_time_password_is_asked_for_and_taken_once(new_nas):
    new_nas.add_user("admin", "secret", otp="123456")
    async with connected(new_nas) as client:
        asked = await login_ex(client, "PASSWORD_PLAIN", username="admin", password="secret")
        assert asked == {"response_type": "OTP_REQUIRED", "username": "admin"}
        assert (await client.error("pool.query"))["data"]["errname"] == "ENOTAUTHENTICATED"
        assert await login_ex(client, "OTP_TOKEN", otp_token="654321") == {"response_type": "AUTH_ERR"}
        await login_ex(client, "PASSWORD_PLAIN", username="admin", password="secret")
        assert (await login_ex(client, "OTP_TOKEN", otp_token="123456"))["response_type"] == "SUCCESS"
        await client.call("pool.query")


async def test_a_one_time_password_out_of_turn_is_an_error(new_nas):
    async with connected(new_nas) as client:
        reply = await client.error("auth.login_ex", {"mechanism": "OTP_TOKEN", "otp_token": "123456"})
    assert reply["code"] == -32001


async def test_the_old_login_takes_password_and_one_time_password_together(each_nas):
    each_nas.add_user("admin", "secret", otp="123456")
    async with met(each_nas) as client:
        assert await client.call("auth.login", "admin", "secret") is False
        assert await client.call("auth.login", "admin", "secret", "123456") is True


# Keys


async def test_login_ex_came_with_25_04(each_nas):
    key = each_nas.add_key()
    data = {"mechanism": "API_KEY_PLAIN", "username": "truetally", "api_key": key}
    async with met(each_nas) as client:
        reply = await client.reply("auth.login_ex", data)
    if each_nas.machine.version in NEW:
        assert reply["result"]["response_type"] == "SUCCESS"
    else:
        assert reply["error"]["errname"] == "ENOMETHOD"


async def test_a_key_of_a_user_without_any_role_is_denied_on_26():
    async with running("26.0") as nas, connected(nas) as client:
        assert await client.login(nas.add_key("nobody", []), "nobody") == {"response_type": "DENIED"}


async def test_a_standby_controller_sends_to_the_active_one(new_nas):
    new_nas.standby_of = ["https://192.0.2.2"]
    key = new_nas.add_key()
    async with connected(new_nas) as client:
        assert await client.login(key) == {"response_type": "REDIRECT", "urls": ["https://192.0.2.2"]}
        assert await client.login("1-wrong") == {"response_type": "AUTH_ERR"}
        assert (await client.error("pool.query"))["data"]["error"] == 207
        new_nas.standby_of = []
        assert (await client.login(key))["response_type"] == "SUCCESS"


async def test_only_a_plain_key_is_revoked_by_a_plain_transport(new_nas):
    new_nas.remote_address = "192.0.2.7"
    new_nas.add_user("root", "secret")
    key = new_nas.add_key()
    async with connected(new_nas) as client:
        answer = await login_ex(client, "PASSWORD_PLAIN", username="root", password="secret")
        assert answer["response_type"] == "SUCCESS"
        assert await client.call("auth.login_with_api_key", key) is False
    assert new_nas.machine.keys[1].revoked


async def test_one_sees_ones_own_keys(new_nas):
    new_nas.add_key("someone")
    async with logged_in(new_nas, ["READONLY_ADMIN"]) as client:
        assert [key["username"] for key in await client.call("api_key.my_keys")] == ["truetally"]


# What a refused login costs, how long a session lasts, and where it may come from


WRONG = ("auth.login_with_api_key", "1-wrong"), ("auth.login", "root", "?")
WRONG_EX = {"mechanism": "PASSWORD_PLAIN", "username": "root", "password": "?"}


async def test_whoever_logs_in_rightly_need_not_wait_for_those_who_do_not():
    async with running("26.0", login_penalty=timedelta(hours=1)) as nas, connected(nas) as client:
        for method, *params in (*WRONG, ("auth.login_ex", WRONG_EX)):
            await client.send(method, *params, ident="wrong")
        await client.send("auth.login_with_api_key", nas.add_key(), ident="right")
        await client.send("core.ping", ident="ping")
        assert [(await client.receive())["id"] for _ in range(2)] == ["right", "ping"]


async def test_a_login_that_fails_is_answered_in_the_end():
    async with running("24.10", login_penalty=timedelta(milliseconds=50)) as nas, met(nas) as client:
        for method, *params in WRONG:
            await client.say({"id": "wrong", "msg": "method", "method": method, "params": params})
            await client.say({"id": "ping", "msg": "method", "method": "core.ping", "params": []})
            assert [(await client.receive())["id"] for _ in range(2)] == ["ping", "wrong"]


async def test_a_rest_login_that_fails_is_answered_after_one_that_does_not():
    async with running("24.10", login_penalty=timedelta(milliseconds=200)) as nas:
        url = f"{nas.url.replace('ws', 'http', 1)}/api/v2.0/pool"
        told = []

        async def ask(session, key):
            async with session.get(url, headers={"Authorization": f"Bearer {key}"}) as answer:
                told.append(answer.status)

        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as asking:
            asking.create_task(ask(session, "1-wrong"))
            asking.create_task(ask(session, nas.add_key()))
    assert told == [200, 401]


@pytest.mark.parametrize(("version", "ends"), [("24.10", False), ("25.04", True), ("26.0", True)])
async def test_a_session_of_a_month_is_over_and_begins_anew_with_a_login(version, ends):
    time = datetime(2026, 1, 1, tzinfo=UTC)
    async with running(version, now=lambda: time) as nas, met(nas) as client:
        key = nas.add_key()
        assert await client.call("auth.login_with_api_key", key) is True
        time += timedelta(days=29)
        await client.call("auth.me")
        time += timedelta(days=1)
        if not ends:
            await client.call("auth.me")
            return
        expired = await client.error("auth.me")
        assert (expired["error"], expired["reason"]) == (13, "[EACCES] Session is expired")
        assert (await client.error("auth.me"))["error"] == 207
        assert await client.call("auth.login_with_api_key", key) is True
        time += timedelta(days=29)
        await client.call("auth.me")


async def test_an_expired_session_hears_of_nothing_any_more():
    time = datetime(2026, 1, 1, tzinfo=UTC)
    age = timedelta(hours=12)
    async with running("25.10", now=lambda: time, session_age=age) as nas, logged_in(nas) as client:
        await client.call("core.subscribe", "iscsi.initiator.query")
        time += age
        assert (await client.error("core.ping"))["data"]["reason"] == "[EACCES] Session is expired"
        nas.call("iscsi.initiator.create", {"comment": "x"})
        assert await client.call("core.ping") == "pong"
        assert client.events == []


async def test_who_is_not_on_the_list_is_let_in_and_shown_out():
    async with running("25.10") as nas:
        nas.allow_only(["192.0.2.0/24", "2001:db8::/32"])
        async with connected(nas) as client:
            message = await client.socket.receive()
            assert (message.type, message.data, message.extra) == (
                aiohttp.WSMsgType.CLOSE,
                1008,
                "You are not allowed to access this resource",
            )
        nas.remote_address = "192.0.2.7"
        async with connected(nas) as client:
            assert await client.call("core.ping") == "pong"
        nas.remote_address = None
        nas.allow_only([])
        async with connected(nas) as client:
            assert await client.call("core.ping") == "pong"


# Tokens


async def test_a_token_logs_the_same_user_in_until_its_time_is_over():
    time = datetime(2026, 1, 1, tzinfo=UTC)
    async with running("25.10", now=lambda: time) as nas:
        async with logged_in(nas, ["POOL_READ"]) as client:
            token = await client.call("auth.generate_token", 60)
            once = await client.call("auth.generate_token", 60, {}, True, True)
        async with connected(nas) as client:
            assert await login_ex(client, "TOKEN_PLAIN", token="wrong") == {"response_type": "AUTH_ERR"}
            assert (await login_ex(client, "TOKEN_PLAIN", token=token))["response_type"] == "SUCCESS"
            assert (await client.call("auth.me"))["pw_name"] == "truetally"
            assert await client.call("auth.login_with_token", once) is True
            assert await client.call("auth.login_with_token", once) is False
            time += timedelta(seconds=61)
            assert await client.call("auth.login_with_token", token) is False


async def test_a_token_to_come_back_with_is_given_on_26():
    async with running("26.0") as nas:
        key = nas.add_key()
        async with connected(nas) as client:
            token = (await client.login(key, reconnect_token=True))["reconnect_token"]
        async with connected(nas) as client:
            assert (await login_ex(client, "TOKEN_PLAIN", token=token))["response_type"] == "SUCCESS"


# SCRAM, by a client written from RFC 5802 and the wire's own rules


def b64(data):
    return base64.b64encode(data).decode()


class Scram:
    def __init__(self, username, key):
        number, _, self.secret = key.partition("-")
        self.bare = f"n={username}:{number},r={b64(NONCE)}"

    def first(self):
        return f"n,,{self.bare}"

    def final(self, server_first):
        parts = dict(each.split("=", 1) for each in server_first.split(","))
        assert base64.b64decode(parts["r"]).startswith(NONCE)
        salt, rounds = base64.b64decode(parts["s"]), int(parts["i"])
        salted = hashlib.pbkdf2_hmac("sha512", self.secret.encode(), salt, rounds)
        client_key = hmac.digest(salted, b"Client Key", "sha512")
        bare = f"c={b64(b'n,,')},r={parts['r']}"
        message = f"{self.bare},{server_first},{bare}".encode()
        stored = hashlib.sha512(client_key).digest()
        signature = hmac.digest(stored, message, "sha512")
        server_key = hmac.digest(salted, b"Server Key", "sha512")
        self.expected = f"v={b64(hmac.digest(server_key, message, 'sha512'))}"
        return f"{bare},p={b64(bytes(a ^ b for a, b in zip(client_key, signature, strict=True)))}"


async def scram(client, login):
    """What the NAS answers last."""
    first = await login_ex(client, "SCRAM", scram_type="CLIENT_FIRST_MESSAGE", rfc_str=login.first())
    if first["response_type"] != "SCRAM_RESPONSE":
        return first
    assert (first["scram_type"], first["user_info"]) == ("SERVER_FIRST_RESPONSE", None)
    final = login.final(first["rfc_str"])
    return await login_ex(client, "SCRAM", scram_type="CLIENT_FINAL_MESSAGE", rfc_str=final)


@pytest.fixture
async def nas26():
    async with running("26.0") as lab:
        yield lab


async def test_both_sides_prove_that_they_know_the_key(nas26):
    login = Scram("truetally", nas26.add_key())
    async with connected(nas26) as client:
        answer = await scram(client, login)
        assert (answer["response_type"], answer["scram_type"]) == ("SCRAM_RESPONSE", "SERVER_FINAL_RESPONSE")
        assert answer["rfc_str"] == login.expected
        assert answer["user_info"]["pw_name"] == "truetally"
        await client.call("pool.query")


async def test_a_wrong_key_proves_nothing(nas26):
    nas26.add_key()
    async with connected(nas26) as client:
        assert await scram(client, Scram("truetally", "1-guess")) == {"response_type": "AUTH_ERR"}
        assert await scram(client, Scram("someone", "1-guess")) == {"response_type": "AUTH_ERR"}
        assert await scram(client, Scram("truetally", "9-guess")) == {"response_type": "AUTH_ERR"}
        assert (await client.error("pool.query"))["data"]["error"] == 207


async def test_a_revoked_key_is_told_to_be_expired(nas26):
    key = nas26.add_key()
    nas26.revoke_key(key)
    async with connected(nas26) as client:
        assert await scram(client, Scram("truetally", key)) == {"response_type": "EXPIRED"}


async def test_scram_over_a_plain_transport_revokes_nothing(nas26):
    nas26.remote_address = "192.0.2.7"
    key = nas26.add_key()
    for _ in range(2):
        async with connected(nas26) as client:
            assert (await scram(client, Scram("truetally", key)))["response_type"] == "SCRAM_RESPONSE"


async def test_a_proof_without_a_beginning_is_an_error(nas26):
    data = {"mechanism": "SCRAM", "scram_type": "CLIENT_FINAL_MESSAGE", "rfc_str": "c=biws,r=x,p=x"}
    async with connected(nas26) as client:
        error = await client.error("auth.login_ex", data)
    assert error["data"]["reason"].endswith("SCRAM authentication is not in progress")


@pytest.mark.parametrize(
    "text", ["", "n=x,r=x", "n,,n=truetally,r=AAAA", "p=tls-exporter,,n=truetally:1,r=AAAA"]
)
async def test_a_broken_beginning_lets_nobody_in(nas26, text):
    nas26.add_key()
    async with connected(nas26) as client:
        answer = await login_ex(client, "SCRAM", scram_type="CLIENT_FIRST_MESSAGE", rfc_str=text)
    assert answer == {"response_type": "AUTH_ERR"}


async def test_before_26_scram_is_no_mechanism():
    async with running("25.10") as nas, connected(nas) as client:
        assert "SCRAM" not in await client.call("auth.mechanism_choices")
        data = {"mechanism": "SCRAM", "scram_type": "CLIENT_FIRST_MESSAGE", "rfc_str": "n,,"}
        assert (await client.error("auth.login_ex", data))["code"] == -32602


# The system that one has logged in to


async def test_the_boot_id_is_told_without_login_and_changes_with_a_restart(new_nas):
    async with aiohttp.ClientSession() as session:
        seen = []
        for _ in range(2):
            async with session.get(f"http{new_nas.url.removeprefix('ws')}/api/boot_id") as answer:
                seen.append(await answer.json())
            await new_nas.restart()
    assert seen[0] != seen[1]
    async with logged_in(new_nas) as client:
        assert await client.call("system.boot_id") == new_nas.machine.boot_id


async def test_a_standby_says_so_where_it_can(each_nas):
    async with at_home(each_nas) as client:
        each_nas.standby_of = ["https://192.0.2.2"]
        reply = await client.reply("failover.status")
    assert reply.get("result") == (None if each_nas.machine.version in ("25.04", "25.10") else "BACKUP")


async def test_updates_are_told_from_25_10_on(each_nas):
    async with at_home(each_nas) as client:
        reply = await client.reply("update.status")
    assert ("result" in reply) is (each_nas.machine.version in ("25.10", "26.0"))


# Jobs


async def test_a_job_is_a_number_or_its_result_as_the_session_likes(new_nas):
    async with logged_in(new_nas) as client:
        number = await client.call("core.bulk", "core.ping", [[], []])
        assert isinstance(number, int)
        await client.call("core.set_options", {"legacy_jobs": False})
        result = await client.call("core.bulk", "core.ping", [[]])
        assert result == [{"job_id": None, "error": None, "result": "pong"}]


async def test_on_the_old_protocol_a_job_is_always_a_number(each_nas):
    async with at_home(each_nas) as client:
        number = await client.call("core.bulk", "sharing.nfs.get_instance", [[99]])
        waiting = await client.call("core.job_wait", number)
        row = (await client.call("core.get_jobs", [["id", "=", number]]))[0]
    assert (number, waiting) == (1, 2)
    assert row["state"] == "SUCCESS"
    assert row["result"] == [
        {"job_id": None, "error": "[ENOENT] None: SharingNFS 99 does not exist", "result": None}
    ]


async def test_the_job_of_a_call_names_the_call(new_nas):
    async with logged_in(new_nas) as client:
        await client.send("core.bulk", "core.ping", [], ident="mine")
        number = (await client.receive())["result"]
        assert (await client.call("core.get_jobs"))[number - 1]["message_ids"] == ["mine"]


async def test_waiting_for_a_job_lasts_as_long_as_the_job(new_nas):
    jobs = jobs_of(new_nas.machine)
    jobs.seconds_of["core.bulk"] = FOREVER
    async with logged_in(new_nas) as client:
        number = await client.call("core.bulk", "core.ping", [[]])
        await client.call("core.set_options", {"legacy_jobs": False})
        await client.send("core.job_wait", number, ident="waits")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading := asyncio.ensure_future(client.receive())), 0.1)
        jobs.finish(number)
        assert (await reading)["result"] == [{"job_id": None, "error": None, "result": "pong"}]


async def test_a_job_that_failed_fails_the_call_that_waits_for_it(new_nas):
    async with logged_in(new_nas) as client:
        await client.call("core.set_options", {"legacy_jobs": False})
        # What does not exist is refused before it is a job; a call that fails does not fail the job.
        assert (await client.error("core.bulk", "nope.nope", [[]]))["code"] == -32601
        job = new_nas.machine.start_job("pool.scrub.scrub", ["tank"])
        new_nas.machine.jobs[job["id"] - 1].update(state="FAILED", error="[EFAULT] the pool is gone")
        error = await client.error("core.job_wait", job["id"])
    assert error["data"]["reason"] == "[EFAULT] the pool is gone"
