"""Clients of TrueNAS that nobody here wrote, against the lab: do they get what they know from a real one?

`aiotruenas` and `pytruenas` speak JSON-RPC, `aiotruenas-client` the protocol of `/websocket`. Each runs as a
process of its own with a newer Python, does what its script beside this file says, and tells what came.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from lab_nas.foreign.environments import Unavailable, python_with
from truetally.lab.nas import Driver, LabNas
from truetally.lab.nas.jobs import jobs_of

HERE = Path(__file__).parent
WITHIN = 60.0
OWNER, PERSON, PASSWORD, OTP = "truetally", "anna", "correct horse", "123456"
NEW = ("25.04", "25.10", "26.0", "25.10 over TLS")
OLD = ("22.12", "23.10", "24.04", "24.10", "26.0", "24.10 over TLS")
QUERIES = (
    "pool.query",
    "pool.dataset.query",
    "pool.scrub.query",
    "pool.snapshottask.query",
    "replication.query",
    "sharing.nfs.query",
    "sharing.smb.query",
    "iscsi.global.config",
    "iscsi.global.sessions",
    "iscsi.portal.query",
    "iscsi.initiator.query",
    "iscsi.target.query",
    "iscsi.extent.query",
    "iscsi.targetextent.query",
    "service.query",
    "alert.list",
    "interface.query",
    "system.version",
)
NVMET = ("nvmet.subsys.query", "nvmet.namespace.query", "nvmet.port.query", "nvmet.host.query")
FLAT = ("pool.dataset.query", [[["pool", "in", ["tank"]]], {"extra": {"retrieve_children": False}}])
REFUSED = (
    ("unknown", "pool.nonsense", []),
    ("missing", "sharing.nfs.get_instance", [99]),
    ("no match", "pool.query", [[["name", "=", "nowhere"]], {"get": True}]),
    ("invalid", "pool.query", [[], {"limmit": 1}]),
    ("in use", "pool.dataset.delete", ["tank/k8s"]),
)
# What `aiotruenas` has a model of and the lab has not: apps, machines, certificates, disks …
OUT_OF_SCOPE = {
    f"get_{name}"
    for name in (
        "app", "arc", "certificates", "cloudsync", "container", "cronjob", "directoryservices", "disk",
        "rsync", "vm",
    )
}  # fmt: skip


@dataclass(frozen=True)
class Visit:
    """What a client told of a NAS, and what that NAS told this process itself just before."""

    version: str
    told: dict[str, Any]
    shown: list[tuple[str, Any]]
    datasets: set[str]

    def seen(self, method):
        return dict(self.shown)[method]

    def refused(self, what, *fields):
        return tuple(self.told["refused"][what][field] for field in ("class", *fields))


def environment(lock):
    try:
        return python_with(lock)
    except Unavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"there is no foreign client: {error}", pytrace=False)
        pytest.skip(f"NOT PROVED WITH A FOREIGN CLIENT: {error}")


def furnish(nas):
    """One of everything."""
    nas.zfs.create_pool("tank")
    nas.call("iscsi.portal.create", {"listen": [{"ip": "0.0.0.0"}]})
    nas.call("iscsi.initiator.create", {"comment": "all"})
    for protocol in ("nfs", "smb", "iscsi", "nvmeof"):
        if protocol != "nvmeof" or nas.machine.number >= (25, 10):
            driver = Driver(nas, f"tank/k8s/{protocol}/vols", f"tank/k8s/{protocol}/snaps", protocol)
            handle, _ = driver.create_volume("pvc-1")
            driver.restore("pvc-2", driver.create_snapshot(handle, "snap-1"))
    nas.call("pool.snapshottask.create", {"dataset": "tank/k8s"})
    copy = {"name": "copy", "direction": "PUSH", "transport": "LOCAL", "source_datasets": ["tank/k8s"]}
    copy |= {"target_dataset": "tank/replica", "recursive": False, "retention_policy": "NONE"}
    nas.call("replication.create", copy | {"periodic_snapshot_tasks": [1]})
    nas.machine.raise_alert("ScrubPaused", "WARNING", "The scrub of tank is paused.")
    nas.machine.set_service("snmp", running=False)


@asynccontextmanager
async def furnished(version, tls=None):
    nas = LabNas(version, tls=tls)
    furnish(nas)
    # The old client only hears of the end of a job that it waits for already.
    jobs_of(nas.machine).seconds_of["pool.scrub.scrub"] = 0.3
    await nas.start()
    try:
        yield nas
    finally:
        await nas.stop()


def certified():
    ca, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    return ca, context


def order(nas, authority=None, *, otp=None):
    """What a client's script needs to know."""
    key = nas.add_key(OWNER, ["FULL_ADMIN"])
    few = [("CALL", "*.query"), ("SUBSCRIBE", "*")] if nas.machine.number < (25, 4) else None
    nas.add_user(PERSON, PASSWORD, ["FULL_ADMIN"], otp=otp)
    return {
        "port": nas.port,
        "tls": nas.url.startswith("wss"),
        "authority": authority,
        "username": OWNER,
        "key": key,
        "observer_key": nas.add_key(OWNER, ["READONLY_ADMIN"], allowlist=few),
        "wrong_key": f"{key.partition('-')[0]}-{'x' * 64}",
        "person": [PERSON, PASSWORD, OTP],
        "queries": queries(nas),
        "refused": REFUSED,
    }


def queries(nas):
    new = nas.machine.number >= (25, 10)
    names = [*QUERIES, *(NVMET if new else ()), "pool.snapshot.query" if new else "zfs.snapshot.query"]
    return [*((name, []) for name in names), FLAT]


async def run(python, script, given):
    """What a client's script says, and complains of; whether it ended well."""
    environ = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "TZ": "UTC"}
    if given["authority"]:
        environ["SSL_CERT_FILE"] = given["authority"]
    process = await asyncio.create_subprocess_exec(
        python, "-I", HERE / f"{script}.py",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env=environ,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WITHIN):
            out, err = await process.communicate(json.dumps(given).encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode == 0, out.decode(), err.decode()


async def visit(python, script, case, directory, otp):
    version, _, tls = case.partition(" over ")
    ca, context = certified() if tls else (None, None)
    authority = str(directory / f"{script}-{version}.pem") if ca else None
    if ca:
        ca.cert_pem.write_to_path(authority)
    async with furnished(version, context) as nas:
        given = order(nas, authority, otp=otp)
        shown = [(method, nas.call(method, *params)) for method, params in given["queries"]]
        well, out, err = await run(python, script, given)
        assert well, f"{script} on {case}:\n{err}"
        datasets = {each["id"] for each in nas.call("pool.dataset.query")}
        return Visit(version, json.loads(out), shown, datasets)


def visits(python, script, cases, directory, otp=None):
    """The visits of all cases, at the same time."""

    async def all_of_them():
        return await asyncio.gather(*(visit(python, script, case, directory, otp) for case in cases))

    return dict(zip(cases, asyncio.run(all_of_them()), strict=True))


@pytest.fixture(scope="module")
def json_rpc():
    return environment("json-rpc")


@pytest.fixture(scope="module")
def by_aiotruenas(json_rpc, tmp_path_factory):
    return visits(json_rpc, "with_aiotruenas", NEW, tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def by_pytruenas(json_rpc, tmp_path_factory):
    return visits(json_rpc, "with_pytruenas", NEW, tmp_path_factory.mktemp("ca"), otp=OTP)


@pytest.fixture(scope="module")
def by_old_client(tmp_path_factory):
    return visits(environment("legacy"), "with_aiotruenas_client", OLD, tmp_path_factory.mktemp("ca"))


CLIENTS = [
    *(("by_aiotruenas", case) for case in NEW),
    *(("by_pytruenas", case) for case in NEW),
    *(("by_old_client", case) for case in OLD),
]


@pytest.fixture(params=CLIENTS, ids=lambda each: " ".join(each).replace(" ", "-"))
def any_visit(request):
    fixture, case = request.param
    return request.getfixturevalue(fixture)[case]


@pytest.fixture(params=NEW)
def aiotruenas(request, by_aiotruenas):
    return by_aiotruenas[request.param]


@pytest.fixture(params=NEW)
def pytruenas(request, by_pytruenas):
    return by_pytruenas[request.param]


@pytest.fixture(params=OLD)
def old_client(request, by_old_client):
    return by_old_client[request.param]


# What every client does


def test_every_query_comes_through_as_the_nas_has_it(any_visit):
    for (method, shown), told in zip(any_visit.shown, any_visit.told["queried"], strict=True):
        assert told == json.loads(json.dumps(shown)), method
        assert told or method in ("iscsi.global.sessions", "nvmet.host.query"), method


def test_a_job_is_waited_for(any_visit):
    assert any_visit.told["job"] is None


def test_whoever_makes_a_dataset_hears_of_it(any_visit):
    made, added = any_visit.told["created"], any_visit.told["events"][0]
    assert (added["msg"], added["collection"]) == ("added", "pool.dataset.query")
    assert added["id"] == made["id"] == made["name"]
    assert added["fields"] == made
    assert made["type"] == "FILESYSTEM"


def test_a_dataset_that_was_deleted_is_gone(any_visit):
    assert any_visit.told["created"]["id"] not in any_visit.datasets
    assert "tank/k8s/nfs/vols/pvc-1" in any_visit.datasets


def test_samples_go_on_coming(any_visit):
    first, second = any_visit.told["samples"]
    assert (first["msg"], second["msg"]) == ("added", "added")
    assert first["collection"].startswith("reporting.realtime")
    assert first["fields"].keys() == second["fields"].keys() >= {"memory", "zfs", "cpu"}
    assert first["fields"] != second["fields"]


# The clients of JSON-RPC


@pytest.mark.parametrize("client", ["aiotruenas", "pytruenas"])
@pytest.mark.parametrize("case", NEW)
def test_whoever_deletes_a_dataset_hears_of_it(request, client, case):
    told = request.getfixturevalue(f"by_{client}")[case].told
    removed = told["events"][1]
    assert (removed["msg"], removed["id"]) == ("removed", told["created"]["id"])


def test_refusals_are_the_exceptions_that_aiotruenas_has_for_them(aiotruenas):
    refused = aiotruenas.refused
    assert refused("unknown", "code") == ("TrueNASCallError", -32601)
    assert refused("missing", "code", "errname") == ("TrueNASCallError", -32602, "EINVAL")
    assert "SharingNFS 99 does not exist" in aiotruenas.told["refused"]["missing"]["reason"]
    assert refused("no match", "code", "reason") == ("TrueNASCallError", -32001, "MatchNotFound()")
    assert refused("invalid", "code", "errname") == ("TrueNASCallError", -32602, "EINVAL")
    assert refused("in use", "code", "errname") == ("TrueNASCallError", -32001, "ENOTEMPTY")
    for what in ("not allowed", "not allowed to hear"):
        assert refused(what, "code", "text") == ("TrueNASCallError", -32001, "[EACCES] Not authorized")
    assert refused("wrong key") == ("TrueNASAuthenticationError",)


def test_refusals_are_the_exceptions_that_pytruenas_has_for_them(pytruenas):
    refused = pytruenas.refused
    assert refused("unknown", "text") == ("ClientException", "Method does not exist")
    assert refused("missing", "text") == ("ValidationErrors", "[ENOENT] ALL: SharingNFS 99 does not exist")
    assert refused("no match", "errno") == ("ClientException", 22)
    assert refused("invalid")[0] == "ValidationErrors"
    assert refused("in use", "errno") == ("ClientException", 39)
    for what in ("not allowed", "not allowed to hear"):
        assert refused(what, "errno", "text") == ("ClientException", 13, "[EACCES] Not authorized")
    assert refused("not logged in", "errno") == ("ClientException", 207)
    for what in ("wrong key", "another's key", "wrong otp"):
        assert refused(what, "response_type") == ("AuthenticationError", "AUTH_ERR")


def test_pytruenas_logs_in_with_key_and_owner_or_password_and_one_time_password(pytruenas):
    told = pytruenas.told
    assert (told["me"], told["otp"], told["ping"]) == (OWNER, PERSON, "pong")
    assert told["looks like"] == "APIKeyAuth"


def test_pytruenas_finds_nothing_to_change_in_what_it_has_changed(pytruenas):
    records = pytruenas.told["records"]
    assert records["actions"] == ["create", "update", "nothing"]
    assert records["comments"] == ["first", "second", "second"]
    assert records["share"]["path"] == "/mnt/tank/k8s/nfs/vols/pvc-1"
    assert (records["no share"], records["no filter matches"]) == (None, [])


def test_aiotruenas_can_model_all_that_the_lab_has(aiotruenas):
    models = aiotruenas.told["models"]
    failed = {name for name, each in models.items() if isinstance(each, dict) and "failed" in each}
    # 25.04 does not tell its updates, and 25.10 none of its SMB clients.
    assert failed == OUT_OF_SCOPE | ({"get_update"} if aiotruenas.version == "25.04" else set())
    assert models["stale"] == ["cputemp", *(["smb"] if aiotruenas.version == "25.10" else [])]


def test_no_model_of_aiotruenas_is_left_with_a_field_unknown(aiotruenas):
    models = aiotruenas.told["models"]
    for kind in ("dataset", "pool", "scrub", "service", "snapshottask", "interface"):
        for ident, model in models[f"get_{kind}"].items():
            unknown = {name for name, value in model.items() if value == "unknown"}
            # A zvol has neither.
            expected = {"casesensitivity", "quota"} if model.get("type") == "VOLUME" else set()
            assert unknown <= expected, (kind, ident)


def test_the_models_of_aiotruenas_say_what_the_nas_is_like(aiotruenas):
    models = aiotruenas.told["models"]
    assert aiotruenas.datasets <= models["get_dataset"].keys()
    (pool,) = models["get_pool"].values()
    assert (pool["name"], pool["status"], pool["healthy"], pool["errors"]) == ("tank", "ONLINE", True, 0)
    assert pool["total"] == pool["available"] + models["get_dataset"]["tank"]["used"]
    assert pool["scan_function"] == "SCRUB"
    running = {each["service"]: each["running"] for each in models["get_service"].values()}
    assert running == {
        each["service"]: each["service"] != "snmp" for each in aiotruenas.seen("service.query")
    }
    assert (models["get_alerts"]["count"], models["get_alerts"]["highest_level"]) == (1, "WARNING")
    assert models["get_snapshottask"]["1"]["dataset"] == "tank/k8s"
    assert models["get_replication"]["1"]["target_dataset"] == "tank/replica"
    assert models["get_systemstats"]["load_longterm"] > 0
    assert 0 < models["get_systemstats"]["memory-usage_percent"] < 100
    assert models["version"].startswith(aiotruenas.version)
    assert models["interfaces"] == ["eno1"]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("with_aiotruenas", "TrueNASCertificateVerificationError"),
        ("with_pytruenas", "CERTIFICATE_VERIFY_FAILED"),
    ],
)
async def test_a_certificate_of_an_unknown_authority_is_refused(json_rpc, tmp_path, script, error):
    another, _ = certified()
    another.cert_pem.write_to_path(tmp_path / "another.pem")
    async with furnished("25.10", certified()[1]) as nas:
        well, _, err = await run(json_rpc, script, order(nas, str(tmp_path / "another.pem")))
        assert not well
        assert error in err
        assert nas.faults.calls.total() == 0


@pytest.mark.parametrize(
    ("script", "error"),
    [("with_aiotruenas", "rejected the API key"), ("with_pytruenas", "login_ex failed: EXPIRED")],
)
async def test_a_key_that_comes_from_afar_in_the_clear_is_lost(json_rpc, script, error):
    async with furnished("25.10") as nas:
        nas.remote_address = "192.0.2.7"
        well, _, err = await run(json_rpc, script, given := order(nas))
        assert not well
        assert error in err
        used = [key for key in nas.machine.keys.values() if key.revoked]
        assert [key.text for key in used] == [given["key"]]


# The client of `/websocket`


def test_the_old_client_sees_no_result_where_it_is_refused(old_client):
    assert {old_client.refused(what) for what, *_ in REFUSED} == {("KeyError",)}
    assert old_client.refused("not allowed", "text") == ("KeyError", "'result'")
    assert old_client.refused("wrong key", "text") == ("SecurityError", "Unable to authenticate.")


def test_the_old_client_can_model_pools_and_datasets(old_client):
    models = old_client.told["models"]
    assert models["pools"]["tank"]["status"] == "ONLINE"
    assert models["pools"]["tank"]["vdevs"] == ["cache", "data", "dedup", "log", "spare", "special"]
    assert models["datasets"].keys() == old_client.datasets
    assert models["datasets"]["tank/k8s/iscsi/vols/pvc-1"]["type"] == "VOLUME"
    assert all(each["available"] > 0 and each["ratio"] >= 1 for each in models["datasets"].values())


def test_the_old_client_logs_in_with_a_password_too(old_client):
    assert old_client.told["person"] == old_client.told["models"]["version"]
    assert old_client.version in old_client.told["person"]
