"""The status socket, asked over real sockets."""

from __future__ import annotations

import asyncio
import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import aiohttp
import msgspec
import pytest
from structlog.testing import capture_logs

from api.fake_tally import FakeTally, a_finding, a_status
from truetally.api.listening import CannotListen
from truetally.api.server import StatusServer
from truetally.model.answers import FindingsAnswer, StatusAnswer
from truetally.model.findings import Finding, Severity, State
from truetally.settings import ApiSettings

JSON = "application/json"
PROBLEM = "application/problem+json"


@pytest.fixture
def tally() -> FakeTally:
    return FakeTally()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "truetally.sock"


@asynccontextmanager
async def asking(tally: FakeTally, path: Path, **options: object) -> AsyncIterator[aiohttp.ClientSession]:
    server = StatusServer(tally, ApiSettings(socket=path), **options)
    await server.start()
    try:
        async with aiohttp.ClientSession(
            "http://truetally", connector=aiohttp.UnixConnector(str(path))
        ) as session:
            yield session
    finally:
        await server.stop()


async def get(session: aiohttp.ClientSession, question: str) -> tuple[int, str, bytes]:
    async with session.get(question) as response:
        return response.status, response.content_type, await response.read()


async def problem(session: aiohttp.ClientSession, question: str) -> dict[str, object]:
    status, kind, body = await get(session, question)
    assert kind == PROBLEM
    answer = msgspec.json.decode(body)
    assert answer["status"] == status
    return answer


# What is answered


async def test_the_status_is_answered_whole(tally, path):
    async with asking(tally, path) as session:
        status, kind, body = await get(session, "/api/v1/status")
    assert (status, kind) == (200, JSON)
    assert msgspec.json.decode(body, type=StatusAnswer) == tally.state


async def test_findings_are_filtered_by_everything_asked_for(tally, path):
    critical = a_finding(rule="source-unavailable", severity=Severity.CRITICAL)
    resolved = a_finding(rule="third", state=State.RESOLVED)
    tally.known += [critical, resolved]
    async with asking(tally, path) as session:
        found = {
            question: msgspec.json.decode((await get(session, question))[2], type=FindingsAnswer).findings
            for question in (
                "/api/v1/findings",
                "/api/v1/findings?state=open,held&severity=critical",
                "/api/v1/findings?state=resolved&state=held",
                "/api/v1/findings?source=nas1&rule=dataset-without-volume",
            )
        }
    assert list(found.values()) == [tuple(tally.known), (critical,), (resolved,), (tally.known[0],)]


async def test_a_list_says_when_the_tally_is_not_ready(tally, path):
    tally.readiness = (False, "nas1 is still listed")
    async with asking(tally, path) as session:
        _, _, body = await get(session, "/api/v1/findings")
    answer = msgspec.json.decode(body, type=FindingsAnswer)
    assert (answer.ready, answer.ready_detail) == (False, "nas1 is still listed")


async def test_a_finding_is_found_by_the_beginning_of_its_fingerprint(tally, path):
    async with asking(tally, path) as session:
        _, _, body = await get(session, f"/api/v1/findings/{tally.known[0].fingerprint[:6]}")
    assert msgspec.json.decode(body, type=Finding) == tally.known[0]


@pytest.mark.parametrize(
    "question",
    [
        "/api/v1/explain/pvc?name=media/data&source=prod",
        "/api/v1/volumes?namespace=media",
        "/api/v1/snapshots?volume=pvc-1&verdict=referenced&older_than=1d&order=size",
        "/api/v1/rules",
        "/api/v1/rules/source-unavailable",
        "/healthz",
        "/readyz",
    ],
)
async def test_every_other_question_is_answered(tally, path, question):
    async with asking(tally, path) as session:
        status, _, body = await get(session, question)
    assert status == 200
    assert body


async def test_transitions_come_from_the_history_in_order(tally, path):
    async with asking(tally, path) as session:
        _, _, body = await get(session, f"/api/v1/findings/{tally.known[0].fingerprint}/transitions")
    states = [transition["finding"]["state"] for transition in msgspec.json.decode(body)["transitions"]]
    assert states == ["pending", "open"]


async def test_who_acknowledges_is_taken_from_the_socket_and_not_from_the_request(tally, path):
    fingerprint = tally.known[0].fingerprint
    async with (
        asking(tally, path) as session,
        session.post(f"/api/v1/findings/{fingerprint}/acknowledge", json={"reason": "mine"}) as response,
    ):
        answer = msgspec.json.decode(await response.read(), type=Finding)
    me = pwd.getpwuid(os.getuid()).pw_name
    assert tally.acknowledged == [(fingerprint, me, "mine")]
    assert answer.acknowledged is not None
    assert answer.acknowledged.by == me


async def test_every_request_is_recorded_with_its_peer(tally, path):
    with capture_logs() as lines:
        async with asking(tally, path) as session:
            await get(session, "/api/v1/rules")
    recorded = [line for line in lines if line["event"] == "request answered"]
    assert [(line["uid"], line["pid"], line["status"]) for line in recorded] == [
        (os.getuid(), os.getpid(), 200)
    ]


async def test_probes_tell_when_the_daemon_is_not_well(tally, path):
    tally.alive, tally.readiness = False, (False, "nas1 is still listed")
    async with asking(tally, path) as session:
        assert (await get(session, "/healthz"))[0] == 503
        status, _, body = await get(session, "/readyz")
    assert (status, body) == (503, b"not ready: nas1 is still listed\n")


# What is refused


@pytest.mark.parametrize(
    ("question", "status", "nearest"),
    [
        ("/api/v1/findings?severty=critical", 400, ["severity"]),
        ("/api/v1/findings?severity=critcal", 400, ["critical"]),
        ("/api/v1/findings?state=open,helt", 400, ["held"]),
        ("/api/v1/findings?rule=dataset-without-volumes", 400, ["dataset-without-volume"]),
        ("/api/v1/findings?source=nas2", 400, ["nas1"]),
        ("/api/v1/volumes?source=prot", 400, ["prod"]),
        ("/api/v1/snapshots?verdict=orphan", 400, ["orphaned"]),
        ("/api/v1/snapshots?older_than=30", 400, []),
        ("/api/v1/snapshots?source=nas2&verdict=orphaned", 400, ["nas1"]),
        ("/api/v1/snapshots?volume=pvc-2", 404, ["pvc-1"]),
        ("/api/v1/explain/pvx?name=a", 400, ["pv", "pvc"]),
        ("/api/v1/explain/pvc", 400, []),
        ("/api/v1/explain/pvc?name=a&name=b", 400, []),
        ("/api/v1/explain/pvc?name=" + "a" * 1025, 400, []),
        ("/api/v1/explain/pvc?name=media/dat", 404, ["media/data"]),
        ("/api/v1/explain/pvc?name=media/data&source=nope", 400, []),
        ("/api/v1/rules/source-unavailabel", 404, ["source-unavailable"]),
        ("/api/v2/status", 404, []),
    ],
)
async def test_a_question_with_a_mistake_is_told_what_is_wrong(tally, path, question, status, nearest):
    async with asking(tally, path) as session:
        answer = await problem(session, question)
    assert answer["status"] == status
    assert answer["nearest"] == nearest
    assert answer["detail"]


async def test_a_bug_is_answered_without_what_is_inside(tally, path):
    tally.bug = True
    with capture_logs() as lines:
        async with asking(tally, path) as session:
            answer = await problem(session, "/api/v1/status")
    assert answer["status"] == 500
    assert "s3cret" not in str(answer)
    assert "question failed" in [line["event"] for line in lines]


async def test_a_broken_history_is_told_and_not_hidden(tally, path):
    tally.history_broken = True
    async with asking(tally, path) as session:
        answer = await problem(session, "/api/v1/findings/abc/transitions")
    assert (answer["status"], answer["detail"]) == (503, "the disk of the history is full; make room")


async def test_what_cannot_be_done_now_is_a_conflict(tally, path):
    tally.known = [a_finding(state=State.RESOLVED)]
    async with (
        asking(tally, path) as session,
        session.post(f"/api/v1/findings/{tally.known[0].fingerprint}/acknowledge") as response,
    ):
        assert response.status == 409


async def test_an_answer_that_takes_too_long_is_given_up(tally, path):
    tally.slow = True
    async with asking(tally, path, answer_within=timedelta(seconds=0.05)) as session:
        answer = await problem(session, f"/api/v1/findings/{tally.known[0].fingerprint}/transitions")
    assert answer["status"] == 503


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"x" * 65537, 413),
        (b"{", 400),
        (b'{"reason": 3}', 400),
        (b'{"by": "somebody else"}', 400),
        (b'{"reason": "\xff"}', 400),
    ],
)
async def test_a_body_that_is_wrong_acknowledges_nothing(tally, path, body, status):
    url = f"/api/v1/findings/{tally.known[0].fingerprint}/acknowledge"
    async with asking(tally, path) as session, session.post(url, data=body) as response:
        assert (response.status, response.content_type) == (status, PROBLEM)
    assert tally.acknowledged == []


async def test_a_wrong_method_says_which_is_right(tally, path):
    async with asking(tally, path) as session, session.delete("/api/v1/status") as response:
        assert response.status == 405
        assert "GET" in response.headers["Allow"]
        assert response.content_type == PROBLEM


# Where it listens


async def test_the_socket_is_open_to_user_and_group_only(tally, path):
    async with asking(tally, path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660


async def test_a_missing_directory_is_made_for_the_group_only(tally, tmp_path):
    path = tmp_path / "run" / "truetally.sock"
    async with asking(tally, path):
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o007 == 0


async def test_nothing_is_left_after_stop(tally, path):
    async with asking(tally, path):
        pass
    assert list(path.parent.iterdir()) == []


async def test_the_socket_of_a_killed_daemon_is_replaced(tally, path):
    program = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r}); s.listen()"
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True)
    assert stat.S_ISSOCK(path.lstat().st_mode)
    async with asking(tally, path) as session:
        assert (await get(session, "/healthz"))[0] == 200


async def test_a_second_daemon_is_refused_and_the_first_goes_on(tally, path):
    async with asking(tally, path) as session:
        with pytest.raises(CannotListen, match="another truetally listens"):
            await StatusServer(tally, ApiSettings(socket=path)).start()
        assert (await get(session, "/healthz"))[0] == 200


async def test_a_file_that_is_no_socket_is_left_alone(tally, path):
    path.write_text("important")
    with pytest.raises(CannotListen, match="is no socket"):
        await StatusServer(tally, ApiSettings(socket=path)).start()
    assert path.read_text() == "important"


async def test_the_socket_of_a_successor_is_not_removed(tally, path):
    async with asking(tally, path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.exists()


async def test_a_path_too_long_for_a_socket_is_told(tally, tmp_path):
    with pytest.raises(CannotListen, match="too long"):
        await StatusServer(tally, ApiSettings(socket=tmp_path / ("x" * 100))).start()


async def test_the_health_address_answers_probes_and_nothing_else(tally, path):
    server = StatusServer(tally, ApiSettings(socket=path, health_address="127.0.0.1:0"))
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.health_port}") as session:
            assert (await get(session, "/readyz"))[0] == 200
            assert (await problem(session, "/api/v1/status"))["status"] == 404
    finally:
        await server.stop()


@pytest.mark.parametrize("address", ["0.0.0.0:8081", "192.0.2.1:80", "8081", "localhost:x", "[::]:1"])
async def test_a_health_address_beyond_loopback_is_refused_and_nothing_stays_open(tally, path, address):
    with pytest.raises(CannotListen, match="loopback"):
        await StatusServer(tally, ApiSettings.model_construct(socket=path, health_address=address)).start()
    assert not path.exists()


async def test_a_health_address_in_use_is_told(tally, path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CannotListen, match=address):
            await StatusServer(tally, ApiSettings(socket=path, health_address=address)).start()


async def test_ten_thousand_volumes_are_answered_in_one_piece(tally, path):
    tally.listed = tally.listed * 10_000
    async with asking(tally, path) as session:
        _, _, body = await get(session, "/api/v1/volumes")
    assert len(msgspec.json.decode(body)["volumes"]) == 10_000


async def test_an_unready_status_is_still_an_answer(tally, path):
    tally.state = a_status(ready=False, ready_detail="prod: PersistentVolume is still listed")
    async with asking(tally, path) as session:
        status, _, _ = await get(session, "/api/v1/status")
    assert status == 200
