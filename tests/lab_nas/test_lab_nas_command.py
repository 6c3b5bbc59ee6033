"""`truetally lab nas`: a person starts a NAS alone, reads who may log in, and ends it."""

import asyncio
import json
import os
import shlex
import signal
import socket
import ssl
import stat
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from lab_nas.ddp_client import DdpClient
from lab_nas.nas_client import NasClient
from truetally.lab.command import lab
from truetally.lab.nas.alone import LabNasFailed, Wanted, run_alone

_SOURCES = Path(__file__).parents[2] / "daemon"
VERSIONS = ("22.12", "23.10", "24.04", "24.10", "25.04", "25.10", "26.0")


class Started:
    def __init__(self, process):
        self.process = process
        self.told = {}

    @property
    def url(self):
        return self.told["url"].replace("http", "ws", 1)

    async def read(self):
        async with asyncio.timeout(60):
            while (line := (await self.process.stdout.readline()).decode()) != "":
                words = line.split()
                if "answers" in words:
                    self.told["url"], self.told["version"] = words[-1], words[0]
                for name in ("user", "password", "API key", "CA file"):
                    if line.startswith(f"  {name}"):
                        self.told[name] = words[-1]
                if "curl" in words:
                    self.told["example"] = line.partition("curl")[2].partition("  (all:")[0]
                if line.startswith("Press"):
                    return
        raise AssertionError((await self.process.stderr.read()).decode())

    async def end(self, number=signal.SIGINT):
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 30)


@asynccontextmanager
async def started(*options, **environment):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "truetally", "lab", "nas", *map(str, options)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=_SOURCES,
        env=os.environ | environment,
    )
    nas = Started(process)
    try:
        await nas.read()
        yield nas
    finally:
        await nas.end()


@asynccontextmanager
async def session(nas, path, form, **options):
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{nas.url}{path}", **options) as opened,
    ):
        yield form(opened)


async def refused(*options):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "truetally", "lab", "nas", *map(str, options)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=_SOURCES,
    )
    _, said = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, said.decode()


async def test_root_logs_in_with_what_was_printed():
    async with started("--version", "25.10") as nas:
        assert nas.told["version"] == "TrueNAS-25.10.5"
        assert nas.told["url"].startswith("http://127.0.0.1:")
        async with session(nas, "/api/current", NasClient) as client:
            assert (await client.login(nas.told["API key"], nas.told["user"]))["response_type"] == "SUCCESS"
            assert [each["name"] for each in await client.call("pool.query")] == ["tank"]
        async with session(nas, "/api/current", NasClient) as client:
            login = {"mechanism": "PASSWORD_PLAIN", "username": "root", "password": nas.told["password"]}
            assert (await client.call("auth.login_ex", login))["response_type"] == "SUCCESS"
        assert await nas.end() == 0


@asynccontextmanager
async def run_here(version):
    """The same in this process, as `Running`."""
    until, told = asyncio.Event(), asyncio.get_running_loop().create_future()
    alone = asyncio.create_task(run_alone(Wanted(version), told.set_result, until))
    try:
        yield await asyncio.wait_for(told, 60)
    finally:
        until.set()
        await alone


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_version_can_be_had(version):
    async with run_here(version) as nas, session(nas, "/websocket", DdpClient) as client:
        await client.connect()
        assert await client.call("auth.login_with_api_key", nas.api_key) is True
        assert version in await client.call("system.version")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_can_be_asked_for(version):
    (option,) = [each for each in lab.commands["nas"].params if each.name == "version"]
    assert option.type.convert(version, option, None) == version


async def test_key_and_password_can_come_from_the_environment():
    environment = {"TRUETALLY_LAB_API_KEY": "7-abc", "TRUETALLY_LAB_PASSWORD": "correct horse"}
    async with started(**environment) as nas:
        assert nas.told["API key"] == "7-abc"
        async with session(nas, "/api/current", NasClient) as client:
            assert (await client.login("7-abc", "root"))["response_type"] == "SUCCESS"
            login = {"mechanism": "PASSWORD_PLAIN", "username": "root", "password": "correct horse"}
            assert (await client.call("auth.login_ex", login))["response_type"] == "SUCCESS"


async def test_pools_and_port_are_as_asked():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with started("--port", port, "--pool", "fast:2TiB", "--pool", "slow") as nas:
        assert nas.told["url"].endswith(f":{port}")
        async with session(nas, "/api/current", NasClient) as client:
            await client.login(nas.told["API key"], "root")
            sizes = {each["name"]: each["size"] for each in await client.call("pool.query")}
    assert sizes == {"fast": 2 << 40, "slow": 10 << 40}


async def test_over_tls_its_certificate_is_checked_against_the_file_that_was_printed():
    async with started("--tls") as nas:
        authority = Path(nas.told["CA file"])
        trusting = ssl.create_default_context(cafile=authority)
        trusting.verify_flags |= ssl.VERIFY_X509_STRICT
        assert nas.told["url"].startswith("https://127.0.0.1:")
        async with session(nas, "/api/current", NasClient, ssl=trusting) as client:
            assert (await client.login(nas.told["API key"], "root"))["response_type"] == "SUCCESS"
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            async with session(nas, "/api/current", NasClient, ssl=ssl.create_default_context()):
                pass
        await nas.end()
    assert not authority.exists()


@pytest.mark.parametrize("tls", [False, True])
async def test_its_example_of_a_change_is_a_command_that_works(tls):
    async with started("--pool", "fast", *(["--tls"] if tls else [])) as nas:
        asked = shlex.split(nas.told["example"])
        given = dict(zip(asked[::2], asked[1::2], strict=False)) if tls else {}
        url = next(each for each in asked if "/lab/" in each)
        name, _, value = asked[asked.index("-H") + 1].partition(": ")
        trusting = ssl.create_default_context(cafile=given["--cacert"]) if tls else True
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, data=asked[asked.index("-d") + 1], headers={name: value}, ssl=trusting) as answer,
        ):
            assert (answer.status, (await answer.json())["snapshot"]) == (200, "fast@now")


async def test_who_wants_no_door_gets_none():
    async with started("--no-control") as nas:
        assert "example" not in nas.told
        url = f"{nas.told['url']}/lab/"
        login = {"Authorization": f"Bearer {nas.told['API key']}"}
        async with aiohttp.ClientSession() as http, http.get(url, headers=login) as answer:
            assert answer.status == 404


async def test_its_state_is_kept_and_comes_back(tmp_path):
    file = tmp_path / "nas.json"
    async with started("--state", file) as nas:
        first = nas.told
        async with session(nas, "/api/current", NasClient) as client:
            await client.login(nas.told["API key"], "root")
            await client.call("pool.dataset.create", {"name": "tank/kept"})
        assert await nas.end(signal.SIGTERM) == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["nas.json"]
    async with started("--state", file, "--version", "26.0") as nas:
        assert {name: nas.told[name] for name in ("API key", "password")} == {
            name: first[name] for name in ("API key", "password")
        }
        async with session(nas, "/api/current", NasClient) as client:
            await client.login(nas.told["API key"], "root")
            found = await client.call("pool.dataset.query", [["id", "=", "tank/kept"]], {"count": False})
    assert [each["id"] for each in found] == ["tank/kept"]


async def test_what_cannot_be_is_said_in_a_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, said = await refused("--port", taken.getsockname()[1])
    assert (code, len(said.splitlines())) == (1, 1), said
    assert "choose another --port" in said


async def test_a_state_or_key_that_is_none_is_refused_and_left_alone(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps({"nothing": 1}))
    for wanted, words in (
        (Wanted("25.10", state=broken), "this is no state of a lab NAS"),
        (Wanted("25.10", api_key="secret"), "--api-key: an API key is a number, a dash and the secret"),
    ):
        with pytest.raises(LabNasFailed, match=words):
            await run_alone(wanted, lambda _: None, asyncio.Event())
    assert broken.read_text() == '{"nothing": 1}'


@pytest.mark.parametrize("options", [["--version", "13.0"], ["--pool", "tank:much"], ["--port", "70000"]])
def test_a_mistake_on_the_command_line_is_explained(options):
    result = CliRunner().invoke(lab, ["nas", *options])
    assert result.exit_code == 2
    assert options[1] in result.output


def test_without_a_word_more_the_lab_plays_its_story_as_before():
    told = CliRunner().invoke(lab, ["--help"]).output
    assert "A story is played" in told
    assert "nas" in told
    assert lab.invoke_without_command
