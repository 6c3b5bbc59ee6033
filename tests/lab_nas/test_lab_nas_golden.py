"""What the real middleware 26 was heard to say, said again to the lab.

`golden/real26.json` holds the recorded conversations: [method, params, reply], or [text, null, reply] where
the text itself was sent. A reply of null is one that the recorded middleware, which had no
database behind it, could not give. Session ids are others each time, and tracebacks were left out.
"""

import json
import re
from pathlib import Path

import aiohttp
import pytest

from lab_nas.ddp_client import DdpClient, dialled
from lab_nas.nas_client import connected
from truetally.lab.nas import LabNas

HEARD = json.loads((Path(__file__).parent / "golden" / "real26.json").read_text())
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
async def nas():
    lab = LabNas("26.0")
    lab.machine.add_key("root", ["FULL_ADMIN"], text="1-fulladminkey")
    lab.machine.add_key("ro", ["READONLY_ADMIN"], text="2-readonly")
    await lab.start()
    yield lab
    await lab.stop()


def same(message):
    """A message without what is another each time."""
    if isinstance(message, dict):
        return {name: same(each) for name, each in message.items() if name != "formatted"}
    if isinstance(message, list):
        return [same(each) for each in message]
    return "a uuid" if isinstance(message, str) and _UUID.fullmatch(message) else message


async def replay(client, conversation):
    number = 0
    for said, params, expected in conversation:
        number += 1
        if params is None:
            answer = await client.raw(said)
        else:
            await client.send(said, *params, ident=number)
            while (answer := await client.receive()).get("id") != number:
                assert answer["method"] == "collection_update"
        if expected is not None:
            number = expected["id"] or number
            assert same(answer) == same(expected), said


async def test_the_endpoints_are_those_of_the_real_one(nas):
    url = f"http{nas.url.removeprefix('ws')}/api/versions"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        assert await answer.json() == HEARD["versions"]


async def test_a_session_of_a_full_admin(nas):
    async with connected(nas) as client:
        await replay(client, HEARD["rpc"])


async def test_a_session_of_a_reader(nas):
    async with connected(nas) as client:
        await replay(client, HEARD["reader"])


async def test_one_question_too_many_before_a_login(nas):
    (asked, params, first), (_, _, refused) = HEARD["limited"]
    async with connected(nas) as client:
        assert await client.call(asked, *params) == first["result"]
        for _ in range(19):
            await client.call(asked, *params)
        assert same(await client.reply(asked, *params)) == same(refused)


async def test_a_key_that_came_in_clear(nas):
    nas.remote_address = "192.0.2.7"
    async with connected(nas) as client:
        await replay(client, HEARD["insecure"])


async def test_a_session_on_the_old_protocol(nas):
    # Its plain key had come in clear: it was revoked, and the old login says no more than no.
    nas.revoke_key("1-fulladminkey")
    administrator = nas.add_key("root", ["FULL_ADMIN"])
    async with dialled(nas) as client:
        for said, _, expected in HEARD["ddp"]:
            answer = await client.ask(said)
            if expected is not None:
                assert same(answer) == same(expected), said
            else:
                await log_in(client, administrator)


async def log_in(client: DdpClient, key):
    """The recorded session got in though its database failed; afterwards nothing more is refused."""
    assert await client.call("auth.login_with_api_key", key) is True


@pytest.mark.parametrize("endpoint", HEARD["events"])
async def test_events_come_before_the_reply_to_what_caused_them(nas, endpoint):
    conversation = HEARD["events"][endpoint]
    made = next(heard[-1]["result"] for method, _, heard in conversation if method.endswith(".create"))
    nas.machine.tables["iscsi.initiator"].last = made["id"] - 1
    async with connected(nas, endpoint.removeprefix("/api/")) as client:
        for number, (method, params, expected) in enumerate(conversation, start=1):
            await client.send(method, *params, ident=number)
            assert same([await client.receive() for _ in expected]) == same(expected)
