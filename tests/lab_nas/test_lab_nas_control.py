"""The lab's own door: a person changes a NAS that runs alone, and each answer says what was wrong."""

import asyncio
import contextlib
import inspect
import json
from collections.abc import Collection, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import get_args, get_origin, get_type_hints

import aiohttp
import msgspec
import pytest

from lab_nas.nas_client import connected, logged_in
from lab_nas.test_lab_nas_space import check
from truetally.lab.nas import LabNas, faults, state
from truetally.lab.nas.control import Control, Refused
from truetally.lab.nas.failures import NasRefusal
from truetally.lab.nas.sessions import Sessions
from truetally.lab.nas.ssh import Ssh

WITHIN = 10


class Door:
    def __init__(self, session, url, key):
        self._session = session
        self._url = url.replace("ws", "http", 1)
        self.headers = {"Authorization": f"Bearer {key}"}

    async def ask(self, verb, path, body=None, **options):
        options = {"headers": self.headers, "json": body} | options
        async with asyncio.timeout(WITHIN):
            async with self._session.request(verb, f"{self._url}/lab/{path}", **options) as answer:
                return answer.status, await answer.json()

    async def post(self, to, /, **body):
        status, told = await self.ask("POST", to, body)
        assert status == 200, told
        return told

    async def refused(self, verb, path, body=None):
        status, told = await self.ask(verb, path, body)
        return status, told["message"]


@asynccontextmanager
async def opened(version="25.10", **options):
    lab = LabNas(version, control=True, **options)
    lab.zfs.create_pool("tank")
    key = lab.add_key("root", ("FULL_ADMIN",))
    await lab.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield lab, Door(session, lab.url, key)
    finally:
        await lab.stop()


async def test_only_root_enters():
    async with opened() as (lab, door):
        for key in (lab.add_key("truetally", ("FULL_ADMIN",)), lab.add_key("root", ("READONLY_ADMIN",)), "x"):
            status, told = await door.ask("GET", "", headers={"Authorization": f"Bearer {key}"})
            assert (status, "root's API key" in told["message"]) == (401, True)
        assert (await door.ask("POST", "ssh/create_dataset", {"name": "tank/a"}, headers={}))[0] == 401
        assert lab.zfs.find("tank/a") is None
        key = lab.add_key("root", ("FULL_ADMIN",), expires_at=datetime(2020, 1, 1, tzinfo=UTC))
        assert (await door.ask("GET", "", headers={"Authorization": f"Bearer {key}"}))[0] == 401
        assert (await door.ask("GET", ""))[0] == 200


async def test_without_being_asked_for_there_is_no_door(nas):
    async with aiohttp.ClientSession() as session:
        door = Door(session, nas.url, nas.add_key("root", ("FULL_ADMIN",)))
        async with session.get(f"{door._url}/lab/", headers=door.headers) as answer:
            assert answer.status == 404


async def test_what_is_changed_over_ssh_is_seen_and_told_to_nobody():
    async with opened() as (lab, door), logged_in(lab) as client:
        await client.call("core.subscribe", "*")
        told = await door.post("ssh/create_dataset", name="tank/k8s/a", user={"x:y": "z"})
        assert (told["dataset"], told["type"]) == ("tank/k8s/a", "FILESYSTEM")
        await door.post("ssh/write", name="tank/k8s/a", size_bytes=1 << 20)
        assert (await door.post("ssh/snapshot", path="tank/k8s/a@s"))["snapshot"] == "tank/k8s/a@s"
        await door.post("ssh/set", name="tank/k8s/a", properties={"x:y": None, "quota": "1G"})
        await door.post("ssh/clone", path="tank/k8s/a@s", target="tank/b")
        (row,) = await client.call("pool.dataset.query", [["id", "=", "tank/k8s/a"]])
        assert (row["quota"]["parsed"], row["user_properties"]) == (1 << 30, {})
        assert client.events == []
        await door.post("ssh/destroy", path="tank/b")
        await client.call("core.ping")
    assert [(each["msg"], each["id"]) for each in client.events] == [("removed", "tank/b")]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("ssh/explode", {}, 422, "/lab/ssh/ has no explode; it has clone, create_dataset"),
        ("nowhere", {}, 404, "GET /lab/ lists"),
        ("inventory", {}, 405, "/lab/inventory takes GET"),
        ("ssh/snapshot", {}, 422, "the argument path is missing; snapshot takes path"),
        (
            "ssh/snapshot",
            {"path": "tank@a", "soon": 1},
            422,
            "there is no argument soon; snapshot takes",
        ),
        ("ssh/snapshot", {"path": 1}, 422, "the argument path is wrong: Expected `str`, got `int`"),
        ("ssh/snapshot", ["tank@a"], 422, "the body must be a JSON object"),
        ("ssh/snapshot", {"path": "tank/none@a"}, 422, "cannot open 'tank/none': dataset does not exist"),
        ("ssh/snapshot", {"path": "tank"}, 422, "cannot create snapshot 'tank@': invalid name"),
        ("ssh/create_dataset", {"name": "tank/z", "volsize": -1}, 422, "bad volume size -1"),
        ("ssh/write", {"name": "tank", "size_bytes": -1}, 422, "cannot write to 'tank': -1 bytes"),
        ("ssh/rename", {"path": "tank", "target": "tank/"}, 422, "cannot rename to 'tank/': invalid name"),
        ("zfs/create_pool", {"name": "a/b"}, 422, "cannot create 'a/b': invalid name"),
        ("zfs/create_pool", {"name": "a", "size_bytes": 1}, 422, "the pool needs 24576 bytes at least"),
        ("zfs/start_scan", {"name": "tank", "function": "x"}, 422, "a scan is SCRUB or RESILVER, not x"),
        ("zfs/strike", {"name": "tank", "disk": "sda", "state": "x"}, 422, "a disk cannot be x"),
        ("ssh/destroy", {"path": "tank"}, 422, "operation does not apply to pools"),
        ("ssh/create_dataset", {"name": "tank/a", "native": {"quota": "x"}}, 422, "bad numeric value 'x'"),
        ("zfs/export_pool", {"name": "none"}, 422, "cannot open 'none': no such pool"),
        ("zfs/strike", {"name": "tank", "disk": "sdz"}, 422, "the pool tank has no disk sdz"),
        ("zfs/clear_errors", {"name": "none"}, 422, "cannot open 'none': no such pool"),
        ("zfs/resilver", {"name": "none"}, 422, "cannot open 'none': no such pool"),
        ("nas/revoke_key", {"text": "nothing"}, 422, "there is no API key with the number nothing"),
        ("nas/clear_alert", {"uuid": "x"}, 422, "there is no alert x"),
        ("nas/set_service", {"name": "ftp", "running": True}, 422, "there is no service ftp; there are nfs,"),
        ("sessions/login_iscsi", {"target": "x", "initiator": "y"}, 422, "there is no iSCSI target x"),
        ("faults/fail", {"method": "pool.query", "nth": "two"}, 422, "the argument nth is wrong"),
    ],
)
async def test_what_cannot_be_is_said_in_a_sentence(path, body, status, words):
    async with opened() as (lab, door):
        before = state.inventory(lab.machine)
        found, message = await door.refused("POST", path, body)
        assert found == status
        assert words in message
        assert state.inventory(lab.machine) == before


async def test_a_body_that_is_no_json_is_refused():
    async with opened() as (_, door):
        status, told = await door.ask("POST", "ssh/snapshot", data="path=tank@a", json=None)
        assert (status, "the body is no JSON" in told["message"]) == (422, True)


async def test_every_verb_of_the_shell_is_there_with_its_own_docstring():
    async with opened() as (_, door):
        _, listed = await door.ask("GET", "")
    by_path = {each["ask"]: each for each in listed}
    assert len(by_path) == len(listed)
    for folder, kind in (("ssh", Ssh), ("sessions", Sessions)):
        for name, each in inspect.getmembers(kind, inspect.isfunction):
            if not name.startswith("_"):
                told = by_path[f"POST /lab/{folder}/{name}"]
                assert told["what"] == each.__doc__.partition("\n")[0]
                assert len(told["takes"]) == len(inspect.signature(each).parameters) - 1
    assert {f"POST /lab/faults/{each}" for each in faults.Kind if each != "error"} <= by_path.keys()
    assert all(each["what"].strip() for each in listed)
    assert by_path["POST /lab/ssh/write"]["takes"] == ["name: str", "size_bytes: int"]
    strike = by_path["POST /lab/zfs/strike"]["takes"]
    assert strike[2:4] == ["state: str | None = None", "read_errors: int = 0"]


def test_every_argument_of_every_command_can_come_as_json():
    for command in Control(LabNas()).commands.values():
        hints = get_type_hints(command._function)
        for name in command.parameters:
            if not command.whole:
                msgspec.json.schema(hints[name])


# What a person might type, right and wrong.
_TEXTS = (
    *("tank", "tank/a", "tank/a@s", "tank@s", "tank/z", "tank/b", "tank/c/d", "tank/", "a@b@c", "", "/", "@"),
    *("x", "org.x:y", "quota", "volsize", "1G", "none", "ONLINE", "SCRUB", "sda", "1-a", "10.0.0.0/8", "nfs"),
)


def something(hint, random):
    """Any value of a type."""
    kinds = {
        str: lambda: random.choice(_TEXTS),
        int: lambda: random.choice((0, 1, -1, 1 << 20, 1 << 60)),
        bool: lambda: random.random() < 0.5,
        float: lambda: random.choice((0.0, 0.1, -1.0)),
        type(None): lambda: None,
        timedelta: lambda: random.choice((0, 60, -5)),
        datetime: lambda: "2026-01-01T00:00:00Z",
    }
    if hint in kinds:
        return kinds[hint]()
    inner, several = get_args(hint), range(random.randint(0, 3))
    if get_origin(hint) is Mapping:
        return {something(inner[0], random): something(inner[1], random) for _ in several}
    if get_origin(hint) is Collection:
        return [something(inner[0], random) for _ in several]
    if get_origin(hint) is tuple:
        return [something(each, random) for each in inner]
    return something(random.choice(inner), random)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_asked_is_done_or_refused_and_leaves_a_state_that_loads(seed):
    random = Random(seed)
    lab = LabNas(random.choice(["24.10", "25.10", "26.0"]))
    lab.zfs.create_pool("tank")
    lab.ssh.create_dataset("tank/a")
    lab.ssh.snapshot("tank/a@s")
    lab.ssh.create_dataset("tank/z", volsize=1 << 30)
    running = ("restart", "stall", "resume")
    commands = [
        each for (_, path), each in Control(lab).commands.items() if not each.whole and path not in running
    ]
    for _ in range(150):
        command = random.choice(commands)
        hints = get_type_hints(command._function)
        given = {
            name: something(hints[name], random)
            for name, each in command.parameters.items()
            if each.default is inspect.Parameter.empty or random.random() < 0.4
        }
        with contextlib.suppress(NasRefusal, Refused, ValueError):
            command.run(**command.arguments(given, loose=False))
    dumped = json.loads(json.dumps(state.dump(lab.machine, secrets=True)))
    other = LabNas(lab.machine.version)
    state.load(other.machine, dumped)
    assert state.inventory(other.machine) == state.inventory(lab.machine)
    check(other.zfs)


async def test_the_state_of_a_large_nas_is_not_too_large():
    async with opened() as (lab, door):
        _, small = await door.ask("GET", "state")
        lab.ssh.create_dataset("tank/a", user={f"x:{number}": "y" * 1000 for number in range(1500)})
        _, large = await door.ask("GET", "state")
        assert (await door.ask("PUT", "state", small))[0] == 200
        assert lab.zfs.find("tank/a") is None
        assert (await door.ask("PUT", "state", large))[0] == 200
        assert len(lab.zfs.dataset("tank/a").user) == 1500


async def test_nodes_come_and_go():
    async with opened("26.0") as (lab, door), logged_in(lab) as client:
        lab.ssh.create_dataset("tank/z", volsize=1 << 30)
        lab.call("iscsi.target.create", {"name": "z"})
        lab.call("nvmet.subsys.create", {"name": "v"})
        await door.post("sessions/login_iscsi", target="z", initiator="iqn.x:a", address="10.0.0.5")
        await door.post("sessions/connect_nvme", subsystem="v", host="nqn.x:a")
        await door.post("sessions/mount_nfs3", path="/mnt/tank/a")
        await door.post("sessions/mount_nfs4", path="/mnt/tank/a/f", address="10.0.0.6")
        await door.post("sessions/connect_smb", share="s")
        await door.post("sessions/open_files", dataset="tank/z", process="qemu")
        reads = {
            "iscsi.global.sessions": "logout_iscsi",
            "nvmet.global.sessions": "disconnect_nvme",
            "nfs.get_nfs3_clients": "unmount_nfs",
            "nfs.get_nfs4_clients": "unmount_nfs",
            "smb.status": "disconnect_smb",
        }
        found = {method: await client.call(method) for method in reads}
        assert all(len(rows) == 1 for rows in found.values())
        assert found["iscsi.global.sessions"][0]["initiator_addr"] == "10.0.0.5"
        assert [each["name"] for each in await client.call("pool.dataset.processes", "tank/z")] == ["qemu"]
        await door.post("sessions/logout_iscsi", target="z")
        await door.post("sessions/disconnect_nvme", subsystem="v")
        await door.post("sessions/unmount_nfs")
        assert len(await client.call("nfs.get_nfs4_clients")) == 1
        await door.post("sessions/unmount_nfs", address="10.0.0.6")
        await door.post("sessions/disconnect_smb", share="s")
        await door.post("sessions/close_files", dataset="tank/z")
        assert [await client.call(method) for method in reads] == [[]] * len(reads)
        assert await client.call("pool.dataset.processes", "tank/z") == []


async def test_pools_fill_degrade_and_go():
    async with opened() as (lab, door):
        told = await door.post("zfs/create_pool", name="fast", size_bytes=1 << 30)
        assert told == {"pool": "fast", "size_bytes": 1 << 30, "state": "ONLINE"}
        disk = next(lab.zfs.pools["fast"].disks()).disk
        await door.post("zfs/strike", name="fast", disk=disk, state="FAULTED", read_errors=3)
        assert lab.zfs.pools["fast"].state != "ONLINE"
        await door.post("zfs/clear_errors", name="fast")
        assert lab.zfs.pools["fast"].state == "ONLINE"
        await door.post("zfs/write", name="fast", size_bytes=1 << 29)
        assert lab.zfs.dataset("fast").referenced_bytes == 1 << 29
        await door.post("zfs/start_scan", name="fast", function="RESILVER", takes="PT2H")
        assert lab.zfs.pools["fast"].scan.takes.total_seconds() == 7200
        await door.post("zfs/export_pool", name="fast")
        assert (await door.ask("GET", "inventory"))[1]["pool"] == ["tank"]
        await door.post("zfs/import_pool", name="fast")
        assert (await door.ask("GET", "inventory"))[1]["pool"] == ["fast", "tank"]


async def test_faults_are_ordered_and_taken_back():
    async with opened() as (lab, door), logged_in(lab) as client:
        await door.post("faults/fail", method="pool.query", nth=2, reason="broken")
        await door.post("faults/lose", collection="sharing.nfs.query")
        await client.call("pool.query")
        assert "broken" in (await client.error("pool.query"))["data"]["reason"]
        await door.post("latency", seconds=0.25)
        await door.post("latency", seconds=0.5, method="pool.query")
        assert [lab.faults.seconds(each) for each in ("core.ping", "pool.query")] == [0.25, 0.5]
        assert (await door.ask("DELETE", "faults"))[0] == 200
        assert (lab.faults.planned, lab.faults.seconds("pool.query")) == ([], 0.0)
        assert (await door.ask("GET", "calls"))[1]["pool.query"] == 2


async def test_a_stalled_nas_still_opens_its_own_door():
    async with opened() as (lab, door), logged_in(lab) as client:
        await door.post("stall")
        await client.send("core.ping", ident="late")
        await door.post("ssh/create_dataset", name="tank/meanwhile")
        assert not lab.awake.is_set()
        await door.post("resume")
        assert (await client.receive())["id"] == "late"


async def test_connections_and_logins_are_lost_and_the_nas_restarts():
    async with opened() as (lab, door):
        async with logged_in(lab) as client:
            await door.post("lose-logins")
            assert (await client.error("pool.query"))["data"]["error"] == 207
            await door.post("drop-connections")
            with pytest.raises(ConnectionError):
                await client.receive()
        boot_id = lab.machine.boot_id
        await door.post("restart")
        async with asyncio.timeout(WITHIN):
            while lab.machine.boot_id == boot_id or not lab.listens:
                await asyncio.sleep(0.01)
        assert (await door.ask("GET", "inventory"))[1]["dataset"] == ["tank"]


async def test_a_state_is_taken_out_and_put_back_and_root_keeps_the_key():
    async with opened() as (lab, door):
        lab.add_user("root", "secret")
        await door.post("ssh/create_dataset", name="tank/a")
        _, shown = await door.ask("GET", "state")
        assert not any(key["secret"] for key in shown["keys"])
        _, whole = await door.ask("GET", "state?secrets=true")
        assert all(key["secret"] for key in whole["keys"])
        await door.post("ssh/destroy", path="tank/a")
        for each in (shown, whole):
            assert (await door.ask("PUT", "state", each))[0] == 200
            assert (await door.ask("GET", "inventory"))[1]["dataset"] == ["tank", "tank/a"]
            assert lab.machine.users["root"].password == "secret"
        status, message = await door.refused("PUT", "state", {"nothing": 1})
        assert (status, message) == (422, "this is no state of a lab NAS: it has no member `format`")


async def test_keys_are_made_and_taken_away():
    async with opened() as (lab, door):
        key = await door.post("nas/add_key", username="truetally", roles=["READONLY_ADMIN"])
        async with connected(lab) as client:
            assert (await client.login(key))["response_type"] == "SUCCESS"
            await door.post("nas/set_roles", text=key, roles=["POOL_READ"])
            assert (await client.error("pool.dataset.query"))["data"]["errname"] == "EACCES"
        await door.post("nas/revoke_key", text=key)
        async with connected(lab) as client:
            assert (await client.login(key))["response_type"] == "EXPIRED"
        (alert,) = lab.machine.alerts
        await door.post("nas/clear_alert", uuid=alert)
        assert lab.machine.alerts == {}
        await door.post("nas/stand_by", urls=["wss://other"])
        assert lab.standby_of == ["wss://other"]
        await door.post("nas/allow_only", networks=["192.0.2.0/24"])
        async with connected(lab) as client:
            assert (await client.socket.receive()).data == 1008
        status, message = await door.refused("POST", "nas/allow_only", {"networks": ["here"]})
        assert (status, "'here'" in message) == (422, True)
