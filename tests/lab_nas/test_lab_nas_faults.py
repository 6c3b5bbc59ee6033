"""A NAS on a bad day: what was ordered happens, once, and then it works again."""

import asyncio
import errno
import json
import socket
import ssl
import sys
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
import trustme

from lab_nas.nas_client import NasClient, connected, logged_in
from truetally.lab.nas import LabNas

_SOURCES = Path(__file__).parents[2] / "daemon"


async def test_the_second_call_fails_and_the_third_does_not(nas):
    nas.faults.fail("pool.query", nth=2, number=errno.EIO)
    async with logged_in(nas) as client:
        await client.call("pool.query")
        assert (await client.error("pool.query"))["data"]["errname"] == "EIO"
        await client.call("pool.query")
    assert nas.faults.calls["pool.query"] == 3


async def test_half_a_list_is_told_as_if_it_were_all(nas):
    nas.faults.truncate("pool.dataset.query")
    async with logged_in(nas) as client:
        assert len(await client.call("pool.dataset.query")) == 1
        assert len(await client.call("pool.dataset.query")) == 2


async def test_a_dropped_reply_never_comes(nas):
    nas.faults.drop("pool.query")
    async with logged_in(nas) as client:
        await client.send("pool.query", ident="lost")
        await client.send("core.ping", ident="kept")
        assert (await client.receive())["id"] == "kept"
        assert await client.call("core.ping") == "pong"


async def test_a_cut_breaks_the_connection_within_the_answer(nas):
    nas.faults.cut("pool.dataset.query")
    async with logged_in(nas) as client:
        await client.send("pool.dataset.query", ident=1)
        message = await asyncio.wait_for(client.socket.receive(), 10)
    assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSE)


async def test_a_stalled_nas_says_nothing_until_it_resumes(nas):
    async with logged_in(nas) as client:
        nas.stall()
        await client.send("core.ping", ident=1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading := asyncio.ensure_future(client.receive())), 0.2)
        nas.resume()
        assert (await reading)["result"] == "pong"


async def test_a_lost_login_leaves_the_socket_open(nas):
    key = nas.add_key()
    async with connected(nas) as client:
        await client.login(key)
        nas.lose_logins()
        assert (await client.error("pool.query"))["data"]["error"] == 207
        assert (await client.login(key))["response_type"] == "SUCCESS"
        await client.call("pool.query")


async def test_a_revoked_key_logs_in_no_more(nas):
    key = nas.add_key()
    nas.revoke_key(key)
    async with connected(nas) as client:
        assert await client.login(key) == {"response_type": "EXPIRED"}


async def test_an_expired_key_logs_in_no_more_and_no_alert_tells_of_it(nas):
    key = nas.add_key()
    nas.expire_key(key)
    async with connected(nas) as client:
        assert await client.login(key) == {"response_type": "EXPIRED"}
    assert nas.machine.alerts == {}


async def test_roles_taken_away_are_missed_at_the_next_call(nas):
    key = nas.add_key()
    async with connected(nas) as client:
        await client.login(key)
        await client.call("pool.query")
        nas.set_roles(key, ["DATASET_READ"])
        assert (await client.error("pool.query"))["data"]["errname"] == "EACCES"
        await client.call("pool.dataset.query")


async def test_dropped_connections_can_come_again_at_once(nas):
    async with logged_in(nas) as client:
        nas.drop_connections()
        with pytest.raises(ConnectionError):
            await client.receive()
    async with logged_in(nas) as client:
        assert await client.call("core.ping") == "pong"


async def test_started_at_its_old_port_it_has_its_old_state(nas):
    port = nas.port
    await nas.stop()
    await nas.start(port=port)
    async with logged_in(nas) as client:
        assert len(await client.call("pool.dataset.query")) == 2
    assert nas.url.endswith(f":{port}")


async def test_a_restart_closes_sockets_and_keeps_state_and_address(nas):
    url = nas.url
    async with logged_in(nas) as client:
        await nas.restart()
        with pytest.raises(ConnectionError):
            await client.receive()
    assert nas.url == url
    async with logged_in(nas) as client:
        assert len(await client.call("pool.dataset.query")) == 2


async def test_a_restart_waits_for_its_port_if_somebody_has_it_meanwhile(nas):
    async def taken():
        borrowed = socket.create_server(("127.0.0.1", nas.port))
        asyncio.get_running_loop().call_later(0.1, borrowed.close)

    url = nas.url
    await nas.restart(taken)
    assert nas.url == url
    async with logged_in(nas) as client:
        assert await client.call("core.ping") == "pong"


async def test_a_start_that_fails_leaves_nothing_behind(nas):
    other = LabNas()
    with pytest.raises(OSError, match="address already in use"):
        await other.start(port=nas.port)
    assert not other.listens
    await other.start()
    await other.stop()


async def test_while_a_restart_lasts_nobody_answers(nas):
    async def refused():
        with pytest.raises(aiohttp.ClientConnectionError):
            async with connected(nas):
                pass

    await nas.restart(refused)


async def test_over_tls_a_key_from_elsewhere_is_welcome():
    authority = trustme.CA()
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    ours = ssl.create_default_context()
    authority.configure_trust(ours)
    lab = LabNas("26.0", tls=theirs)
    lab.remote_address = "192.0.2.7"
    url = await lab.start()
    assert url.startswith("wss://")
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/api/current", ssl=ours) as socket,
    ):
        assert (await NasClient(socket).login(lab.add_key()))["response_type"] == "SUCCESS"
    await lab.stop()


async def test_it_runs_as_a_process_of_its_own():
    program = "import asyncio; from truetally.lab.nas import serve; asyncio.run(serve('26.0'))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE, cwd=_SOURCES
    )
    try:
        told = await _announcement(process.stdout)
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{told['url']}/api/current") as socket,
        ):
            client = NasClient(socket)
            assert (await client.login(told["api_key"], told["username"]))["response_type"] == "SUCCESS"
    finally:
        process.terminate()
        await process.wait()


async def _announcement(lines):
    while line := await asyncio.wait_for(lines.readline(), 30):
        if line.startswith(b"{"):
            return json.loads(line)
    raise AssertionError("the lab NAS ended without saying where it answers")


async def _until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_stall_at_the_second_call_is_silent_even_to_pings(nas):
    nas.faults.stall("pool.query", nth=2)
    async with logged_in(nas) as client:
        await client.call("pool.query")
        await client.send("pool.query", ident="second")
        await client.socket.ping()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(reading := asyncio.ensure_future(client.receive())), 0.2)
        nas.resume()
        assert (await reading)["id"] == "second"
        assert await client.call("core.ping") == "pong"


async def test_a_restart_at_the_second_call_breaks_all_and_comes_back(nas):
    nas.faults.restart("pool.query", nth=2)
    url, boot_id = nas.url, nas.machine.boot_id
    async with logged_in(nas) as other, logged_in(nas) as client:
        await client.call("pool.query")
        await client.send("pool.query", ident="lost")
        for each in (client, other):
            with pytest.raises(ConnectionError):
                await each.receive()
    await _until(lambda: nas.machine.boot_id != boot_id and nas.listens)
    assert nas.url == url
    async with logged_in(nas) as client:
        await client.call("pool.query")


async def test_an_answer_held_back_comes_after_the_next_one(nas):
    nas.faults.hold("pool.query")
    async with logged_in(nas) as client:
        await client.send("pool.query", ident="first")
        await client.send("core.ping", ident="second")
        assert [(await client.receive())["id"] for _ in range(2)] == ["second", "first"]


async def test_a_lost_event_is_told_to_nobody(nas):
    nas.faults.lose("iscsi.initiator.query", nth=2)
    async with logged_in(nas) as client:
        await client.call("core.subscribe", "iscsi.initiator.query")
        for _ in range(3):
            await client.call("iscsi.initiator.create", {"comment": "x"})
        await client.call("core.ping")
    assert [event["id"] for event in client.events] == [1, 3]


async def test_a_lost_answer_to_a_subscription_leaves_it_standing(nas):
    nas.faults.drop("core.subscribe")
    async with logged_in(nas) as client:
        await client.send("core.subscribe", "iscsi.initiator.query", ident="lost")
        await client.call("iscsi.initiator.create", {"comment": "x"})
    assert len(client.events) == 1


async def test_faults_before_a_session_are_named_by_what_is_asked(nas):
    nas.faults.fail("/api/versions")
    # aiohttp tries a GET that was cut off once more by itself.
    nas.faults.drop("/api/current", times=2)
    http = f"http{nas.url.removeprefix('ws')}/api/versions"
    async with aiohttp.ClientSession() as session:
        async with session.get(http) as answer:
            assert answer.status == 502
        async with session.get(http) as answer:
            assert answer.status == 200
    with pytest.raises(aiohttp.ClientError):
        async with connected(nas):
            pass
    async with connected(nas) as client:
        assert await client.call("core.ping") == "pong"


async def test_any_means_calls_and_not_what_comes_before_a_session(nas):
    nas.faults.fail("*", nth=2)
    async with logged_in(nas) as client:
        assert (await client.error("core.ping"))["data"]["errname"] == "EFAULT"


async def test_a_connection_without_a_word_from_the_nas_is_closed_by_its_proxy():
    lab = LabNas(idle_close_after=timedelta(milliseconds=1))
    await lab.start()
    async with connected(lab) as client:
        with pytest.raises(ConnectionError):
            await client.receive()
    await lab.stop()


async def test_a_word_from_the_nas_begins_the_proxys_patience_anew():
    patience = 0.6
    lab = LabNas(idle_close_after=timedelta(seconds=patience))
    await lab.start()
    async with connected(lab) as client:
        await asyncio.sleep(0.2)
        asked_at = asyncio.get_running_loop().time()
        await client.call("core.ping")
        with pytest.raises(ConnectionError):
            await client.receive()
        # Only that it is not closed too soon: how late it is depends on the machine.
        assert asyncio.get_running_loop().time() - asked_at >= patience
    await lab.stop()


def test_the_proxy_of_26_waits_an_hour():
    assert LabNas("25.10").idle_close == 60
    assert LabNas("26.0").idle_close == 3600
