"""The protocol of `/websocket`, and what a NAS of 22.12 to 24.10 is beside it."""

import asyncio
import json
import os
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from lab_nas.ddp_client import CONNECT, at_home, dialled, met
from lab_nas.nas_client import logged_in
from truetally.lab.nas import LabNas
from truetally.lab.nas.machine import VERSIONS, Machine
from truetally.lab.nas.methods import METHODS, Caller

ALL = ("22.12", "23.10", "24.04", "24.10", "25.04", "25.10", "26.0")
OLD = ALL[:4]


@asynccontextmanager
async def running(version):
    lab = LabNas(version)
    lab.zfs.create_pool("tank")
    lab.zfs.create("tank/k8s")
    await lab.start()
    try:
        yield lab
    finally:
        await lab.stop()


@pytest.fixture(params=ALL)
async def each_nas(request):
    async with running(request.param) as lab:
        yield lab


@pytest.fixture(params=OLD)
async def old_nas(request):
    async with running(request.param) as lab:
        yield lab


async def test_every_version_connects_and_answers(each_nas):
    async with dialled(each_nas) as client:
        greeting = await client.ask(CONNECT)
        assert greeting["msg"] == "connected"
        assert greeting["session"]
        answer = await client.ask({"id": "1", "msg": "method", "method": "core.ping", "params": []})
    assert answer == {"id": "1", "msg": "result", "result": "pong"}


async def test_nothing_is_answered_before_the_opening(old_nas):
    async with dialled(old_nas) as client:
        for said in (
            {"id": "1", "msg": "method", "method": "core.ping"},
            {"id": "2", "msg": "sub", "name": "x"},
        ):
            assert await client.ask(said) == {"msg": "failed", "version": "1"}
        assert await client.ask(CONNECT | {"version": "pre1"}) == {"msg": "failed", "version": "1"}
        assert (await client.connect())["msg"] == "connected"


async def test_an_old_nas_has_neither_json_rpc_nor_versions(old_nas):
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http{old_nas.url.removeprefix('ws')}/api/versions") as answer:
            assert answer.status == 404
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"{old_nas.url}/api/current")


async def test_without_a_login_nothing_is_told(each_nas):
    async with met(each_nas) as client:
        error = await client.error("pool.query")
        assert error == {
            "error": 207,
            "errname": "ENOTAUTHENTICATED",
            "type": None,
            "reason": "[ENOTAUTHENTICATED] Not authenticated",
            "trace": error["trace"],
            "extra": None,
        }
        assert error["trace"]["repr"] == "CallError('Not authenticated', 207)"
        refused = await client.ask({"id": "s", "msg": "sub", "name": "pool.query"})
    assert (refused["msg"], refused["id"]) == ("result", "s")
    assert (refused["error"]["error"], refused["error"]["reason"]) == (13, "Not authorized")


async def test_a_key_logs_in_and_a_wrong_one_does_not(each_nas):
    key = each_nas.add_key()
    async with met(each_nas) as client:
        assert await client.call("auth.login_with_api_key", "9-wrong") is False
        assert await client.call("auth.login_with_api_key", key) is True
        assert len(await client.call("pool.dataset.query", [], {"select": ["id"]})) == 2


async def test_unknown_services_and_methods_are_told_apart(each_nas):
    async with at_home(each_nas) as client:
        service = await client.error("nope.nope")
        method = await client.error("pool.nope")
    assert (service["error"], service["errname"], service["type"]) == (201, "ENOMETHOD", None)
    assert service["reason"] == "[ENOMETHOD] Service 'nope' not found"
    assert service["trace"]["repr"] == "CallError(\"Service 'nope' not found\", 201)"
    assert method["reason"] == "[ENOMETHOD] Method 'nope' not found in 'pool'"


async def test_refused_parameters_are_eagain_and_a_missing_object_enoent(each_nas):
    async with at_home(each_nas) as client:
        refused = await client.error("sharing.nfs.query", [], {"bogus": 1})
        missing = await client.error("sharing.nfs.get_instance", 99)
    assert (refused["error"], refused["errname"], refused["type"]) == (11, "EAGAIN", "VALIDATION")
    assert refused["extra"] == [["options.bogus", "Extra inputs are not permitted", 22]]
    assert refused["trace"]["class"] == "ValidationErrors"
    assert (missing["error"], missing["errname"], missing["type"]) == (2, "ENOENT", "VALIDATION")
    assert missing["reason"] == "[ENOENT] None: SharingNFS 99 does not exist"
    assert missing["extra"] == [[None, "SharingNFS 99 does not exist", 2]]


async def test_the_21st_call_in_flight_is_one_too_many(old_nas):
    async with at_home(old_nas) as client:
        old_nas.faults.latency = 0.05
        for number in range(25):
            await client.say({"id": str(number), "msg": "method", "method": "core.ping"})
        replies = [await client.receive() for _ in range(25)]
    refused = [reply["error"] for reply in replies if "error" in reply]
    assert len(refused) == 5
    assert (refused[0]["errname"], refused[0]["reason"]) == (
        "ETOOMANYREFS",
        "Maximum number of concurrent calls (20) has exceeded.",
    )


async def test_a_subscriber_is_told_until_it_unsubscribes(each_nas):
    async with at_home(each_nas) as client:
        await client.subscribe("iscsi.initiator.query")
        await client.call("iscsi.initiator.create", {"comment": "x"})
        await client.say({"id": "s-iscsi.initiator.query", "msg": "unsub"})
        await client.call("iscsi.initiator.create", {"comment": "y"})
        await client.call("core.ping")
    assert [(each["msg"], each["collection"], each["id"]) for each in client.events] == [
        ("added", "iscsi.initiator.query", 1)
    ]


async def test_generic_events_carry_the_object_on_22_12_and_from_25_10_on(each_nas):
    async with at_home(each_nas) as client:
        await client.subscribe("iscsi.initiator.query")
        await client.call("iscsi.initiator.create", {"comment": "x"})
        await client.call("core.ping")
    carries = "fields" in client.events[0]
    assert carries is (each_nas.machine.version in ("22.12", "25.10", "26.0"))


async def test_22_12_tells_a_removal_twice(old_nas):
    async with at_home(old_nas) as client:
        await client.call("sharing.nfs.create", {"path": "/mnt/tank/k8s"})
        await client.subscribe("sharing.nfs.query")
        await client.call("sharing.nfs.delete", 1)
        await client.call("core.ping")
    told = [(each["msg"], each.get("extra")) for each in client.events]
    twice = [("changed", {"cleared": True}), ("removed", None)]
    assert told == (twice if old_nas.machine.version == "22.12" else twice[1:])


async def test_only_from_24_10_on_a_long_message_ends_a_login(each_nas):
    async with at_home(each_nas) as client:
        await client.say({"id": "1", "msg": "method", "method": "core.ping", "x": " " * 65536})
        if each_nas.machine.number >= (24, 10):
            message = await asyncio.wait_for(client.socket.receive(), 10)
            assert (message.data, message.extra) == (1009, "Max message length is 64 kB")
        else:
            assert (await client.receive())["result"] == "pong"


async def test_before_a_login_8_kb_end_the_connection(each_nas):
    async with met(each_nas) as client:
        await client.say(" " * 8193)
        message = await asyncio.wait_for(client.socket.receive(), 10)
    assert (message.data, message.extra) == (1007, "Anonymous connection max message length is 8 kB")


@pytest.mark.parametrize(("text", "code"), [("not json", 1007), ("[]", 1011), ('{"id": "1"}', 1011)])
async def test_nonsense_ends_the_connection(old_nas, text, code):
    async with dialled(old_nas) as client:
        await client.say(text)
        message = await asyncio.wait_for(client.socket.receive(), 10)
    assert message.data == code


async def test_a_call_without_a_method_or_with_named_parameters_is_malformed(old_nas):
    async with met(old_nas) as client:
        error = (await client.ask({"id": "1", "msg": "method"}))["error"]
        assert (error["errname"], error["reason"]) == ("EINVAL", "Message is malformed: 'method' is absent.")
        error = (await client.ask({"id": "1", "msg": "method", "method": "core.ping", "params": {"a": 1}}))[
            "error"
        ]
        assert error["reason"] == "`params` must be a list."


async def test_only_from_25_04_on_logins_are_counted(each_nas):
    async with met(each_nas) as client:
        for _ in range(20):
            await client.call("auth.login_with_api_key", "9-wrong")
        reply = await client.reply("auth.login_with_api_key", "9-wrong")
    assert ("error" in reply) is (each_nas.machine.number >= (25, 4))


async def test_the_version_has_the_brand_of_its_time(each_nas):
    async with at_home(each_nas) as client:
        version = await client.call("system.version")
    brand = "TrueNAS-" if each_nas.machine.number >= (25, 4) else "TrueNAS-SCALE-"
    assert version.startswith(brand + each_nas.machine.version)


async def test_an_old_key_may_do_what_its_allowlist_says(old_nas):
    allowlist = [("CALL", "pool.dataset.*"), ("SUBSCRIBE", "pool.query")]
    async with at_home(old_nas, allowlist=allowlist) as client:
        await client.call("pool.dataset.query")
        assert (await client.error("pool.query"))["errname"] == "EACCES"
        await client.subscribe("pool.query")
        refused = await client.ask({"id": "x", "msg": "sub", "name": "pool.dataset.query"})
    assert refused["error"]["errname"] == "EACCES"


async def test_a_key_sent_in_clear_to_an_old_nas_is_not_revoked(old_nas):
    old_nas.remote_address = "192.0.2.7"
    key = old_nas.add_key()
    for _ in range(2):
        async with met(old_nas) as client:
            assert await client.call("auth.login_with_api_key", key) is True


async def test_frames_are_compressed_for_who_offers_it(old_nas):
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{old_nas.url}/websocket", compress=15) as socket,
    ):
        assert socket.compress


# What there is in each version, against the dumps of the real ones

_CONTRACT = Path(
    os.environ.get("TRUETALLY_CONTRACT", Path(__file__).parents[2].parent / "shared" / "contract")
)
needs_contract = pytest.mark.skipif(
    not _CONTRACT.is_dir(),
    reason="NOT CHECKED against the middleware's schemas: set TRUETALLY_CONTRACT to their folder",
)


def dumped(version):
    return {file.stem for file in (_CONTRACT / version).glob("*.json")}


def offered(version):
    caller = Caller(Machine(version, now=None))
    return {name for name, each in METHODS.items() if each.exists(caller)}


def is_private(version, name):
    """Methods that answer though no dump of the public API has them."""
    return version == "25.10" and name.startswith("zfs.snapshot.")


@needs_contract
@pytest.mark.parametrize("version", ALL)
def test_no_version_offers_what_the_real_one_has_not(version):
    real = dumped(version)
    if version == "25.04":
        # Its dump has only the methods with a model; the others were there from 24.10 on.
        real |= dumped("24.10") - {name for name in dumped("24.10") if name.startswith("failover.")}
    anywhere = set().union(*(dumped(each) for each in ALL))
    surplus = {name for name in offered(version) & anywhere if name not in real}
    assert {name for name in surplus if not is_private(version, name)} == set()


@needs_contract
@pytest.mark.parametrize(("version", "pinned"), [("25.10", "25.04"), ("26.0", "25.04"), ("26.0", "25.10")])
def test_an_endpoint_of_an_older_version_offers_what_that_one_had(version, pinned):
    caller = Caller(Machine(version, now=None), pinned=VERSIONS[pinned])
    here = {name for name, each in METHODS.items() if each.exists(caller)}
    real = dumped(version) & dumped(pinned)
    assert here & dumped(version) <= real
    assert real & METHODS.keys() <= here


@needs_contract
@pytest.mark.parametrize("version", OLD)
def test_what_is_a_job_there_is_a_job_here(version):
    wrong = {}
    for name in offered(version) & dumped(version):
        real = bool(json.loads((_CONTRACT / version / f"{name}.json").read_text())["job"])
        if METHODS[name].job != real:
            wrong[name] = real
    assert wrong == {}


@needs_contract
@pytest.mark.parametrize("version", OLD)
def test_what_needs_no_login_there_needs_none_here(version):
    caller = Caller(Machine(version, now=None))
    wrong = {}
    for name in offered(version) & dumped(version):
        real = json.loads((_CONTRACT / version / f"{name}.json").read_text())["no_auth_required"]
        if METHODS[name].is_public(caller) != real:
            wrong[name] = real
    # The dumps do not mark that a ping needs none; and that a token can be made by nobody is not copied.
    wrong.pop("core.ping", None)
    wrong.pop("auth.generate_token", None)
    assert wrong == {}


# Samples, which are told without a change


async def test_samples_come_by_themselves_until_unsubscribed(each_nas):
    name = 'reporting.realtime:{"interval":2}'
    async with at_home(each_nas) as client:
        await client.subscribe(name)
        sample = await client.receive()
        assert (sample["msg"], sample["collection"]) == ("added", name)
        assert "memory" in sample["fields"]
        await client.say({"id": f"s-{name}", "msg": "unsub"})
        await client.call("core.ping")
        (connection,) = each_nas.connections
        assert connection.caller.subscriptions == {}


async def test_samples_that_cannot_be_had_end_the_subscription(each_nas):
    name = 'reporting.realtime:{"interval":1}'
    async with at_home(each_nas) as client:
        await client.subscribe(name)
        ended = await client.receive()
    assert (ended["msg"], ended["collection"]) == ("nosub", name)
    assert (ended["error"]["error"], ended["error"]["type"]) == (11, "VALIDATION")


async def test_on_json_rpc_the_end_of_a_subscription_is_a_notification():
    async with running("26.0") as nas, logged_in(nas, ["REPORTING_READ"]) as client:
        await client.call("core.subscribe", 'reporting.realtime:{"interval":1}')
        ended = await client.receive()
        assert (await client.error("core.subscribe", "zfs.pool.scan"))["data"]["errname"] == "EACCES"
    assert ended["method"] == "notify_unsubscribed"
    assert ended["params"]["collection"] == 'reporting.realtime:{"interval":1}'
    assert ended["params"]["error"]["errname"] == "EINVAL"
