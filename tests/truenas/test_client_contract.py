"""Every request that truetally can send, and every value it makes of an answer, against the real schemas."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from recorded import RecordingSession, generation_of

from truetally.errors import TruetallyError
from truetally.lab.nas import LabNas
from truetally.lab.nas.nvmet import connect_host
from truetally.model.refs import TRUENAS_KINDS, Kind
from truetally.sources.truenas import inventory
from truetally.sources.truenas.calls import CallFailed, Fault
from truetally.sources.truenas.hints import followed
from truetally.sources.truenas.queries import EVERY, QUERIES, Missing, needed, needed_to_remediate

_CONTRACT = Path(
    os.environ.get("TRUETALLY_CONTRACT", Path(__file__).parents[2].parent / "shared" / "contract")
)
pytestmark = pytest.mark.skipif(
    not _CONTRACT.is_dir(),
    reason="NOT CHECKED against the middleware's schemas: set TRUETALLY_CONTRACT to their folder",
)
TRAINS = ["22.12", "23.10", "24.04", "24.10", "25.04", "25.10", "26.0"]
WITH_ROLES = ["25.04", "25.10", "26.0"]
VOLUME, ZVOL, NVME = "tank/k8s/pvc-1", "tank/k8s/pvc-2", "tank/k8s/pvc-3"
_SINGLE = [*(k for k in EVERY if k is not Kind.SYSTEM), Kind.DATASET_USE, Kind.PERFORMANCE]


SNAPSHOT_TASK = {
    "dataset": "tank/k8s",
    "recursive": True,
    "lifetime_value": 2,
    "lifetime_unit": "WEEK",
    "naming_schema": "auto-%Y-%m-%d_%H-%M",
    "schedule": {"minute": "0", "hour": "3", "dom": "*", "month": "*", "dow": "*"},
}
REPLICATION = {
    "name": "copy",
    "direction": "PUSH",
    "transport": "LOCAL",
    "source_datasets": ["tank/k8s"],
    "target_dataset": "tank/copy",
    "recursive": True,
    "auto": False,
    "retention_policy": "NONE",
    "name_regex": ".*",
}


def _schema(train: str, method: str) -> dict[str, Any] | None:
    file = _CONTRACT / train / f"{method}.json"
    return json.loads(file.read_text()) if file.exists() else None


def _old(schema: Any) -> Any:
    """The dialect of 24.10 and before as JSON Schema: `items` lists what the items may be."""
    if isinstance(schema, list):
        return [_old(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {k: _old(v) for k, v in schema.items() if not k.startswith("_") and k not in ("items", "default")}
    if schema.get("items"):
        found["items"] = {"anyOf": _old(schema["items"])}
    if "properties" in schema:
        found["properties"] = {k: _old(v) for k, v in schema["properties"].items()}
        found["required"] = [k for k, v in schema["properties"].items() if v.get("_required_")]
    return found


def _check_request(train: str, method: str, params: list[Any]) -> bool:
    """Whether there is a schema to check against; raises if the request does not fit it."""
    schema = _schema(train, method)
    if schema is None:
        return False
    if "args" in schema:
        jsonschema.Draft202012Validator(schema["args"]).validate(params)
        required = len(schema["args"].get("prefixItems", []))
        assert len(params) <= required
    else:
        accepts = schema["accepts"] or []
        assert len(params) <= len(accepts), method
        for given, each in zip(params, accepts, strict=False):
            jsonschema.Draft202012Validator(_old(each)).validate(given)
    return True


def _furnished(train: str) -> LabNas:
    """A NAS with something of every kind that the lab can have."""
    nas = LabNas(train)
    nas.zfs.create_pool("tank")
    nas.ssh.create_dataset("tank/k8s")
    nas.ssh.create_dataset(VOLUME, user={"democratic-csi:managed_resource": "true"})
    nas.ssh.create_dataset(ZVOL, volsize=1 << 30)
    nas.ssh.create_dataset(NVME, volsize=1 << 30)
    nas.ssh.snapshot(f"{VOLUME}@auto-1")
    nas.ssh.snapshot(f"{VOLUME}@auto-2")
    nas.call("sharing.nfs.create", {"path": f"/mnt/{VOLUME}"})
    nas.call("sharing.smb.create", {"name": "a", "path": f"/mnt/{VOLUME}"})
    nas.call("iscsi.portal.create", {"listen": [{"ip": "0.0.0.0"}]})
    nas.call("iscsi.initiator.create", {"comment": "x"})
    group = {"portal": 1, "initiator": 1, "authmethod": "NONE", "auth": None}
    nas.call("iscsi.target.create", {"name": "z", "groups": [group]})
    nas.call("iscsi.extent.create", {"name": "z", "disk": f"zvol/{ZVOL}"})
    nas.call("iscsi.targetextent.create", {"target": 1, "extent": 1})
    nas.machine.connect_initiator("z", "iqn.1993-08.org.debian:01:a")
    nas.machine.nfs3_clients.append({"ip": "10.0.0.1", "export": f"/mnt/{VOLUME}"})
    nas.machine.nfs4_clients.append({"id": "1", "info": {"address": "10.0.0.2:700"}, "states": []})
    nas.machine.smb_clients.append({"service": "a", "machine": "10.0.0.3", "session_id": "7"})
    nas.machine.raise_alert("PoolUpgraded", "NOTICE", "x")
    nas.call("pool.snapshottask.create", SNAPSHOT_TASK)
    nas.call("replication.create", REPLICATION)
    if nas.machine.number >= (25, 10):
        _furnish_nvme(nas)
    nas.add_key("root")
    return nas


def _furnish_nvme(nas: LabNas) -> None:
    nas.call("nvmet.subsys.create", {"name": "s", "allow_any_host": False})
    nas.call("nvmet.namespace.create", {"subsys_id": 1, "device_type": "ZVOL", "device_path": f"zvol/{NVME}"})
    nas.call("nvmet.port.create", {"addr_trtype": "TCP", "addr_traddr": "10.0.0.1", "addr_trsvcid": 4420})
    nas.call("nvmet.host.create", {"hostnqn": "nqn.2014-08.org.nvmexpress:uuid:1"})
    nas.call("nvmet.host_subsys.create", {"host_id": 1, "subsys_id": 1})
    nas.call("nvmet.port_subsys.create", {"port_id": 1, "subsys_id": 1})
    connect_host(nas.machine, 1, "nqn.2014-08.org.nvmexpress:uuid:1")


def _lab_answers(nas: LabNas):
    """What the lab says; of what it lacks, an answer made from the schema."""

    def answer(method: str, *params: Any) -> Any:
        try:
            return nas.call(method, *params)
        except Exception as error:
            made = _made(nas.machine.version, method)
            return made if made is not None else CallFailed(Fault.NO_METHOD, str(error))

    return answer


def _made(train: str, method: str, *, last: bool = False) -> Any:
    if method == "reporting.netdata_graphs":
        return [{"name": "disk", "vertical_label": "Kibibytes/s", "identifiers": ["sda"]}]
    schema = _schema(train, method)
    if schema is None:
        return None
    found = schema["result"] if "result" in schema else (schema["returns"] or [None])[0]
    return _sample(found, last=last) if found is not None else None


def _sample(schema: Any, *, last: bool) -> Any:
    """A value that fits a schema: the first or the last of its alternatives, all of its fields."""
    if not isinstance(schema, dict):
        return None
    for key in ("anyOf", "oneOf"):
        if key in schema:
            # A query answers a list before all else; elsewhere the last alternative is often null.
            lists = [each for each in schema[key] if each.get("type") == "array"]
            choice = lists[0] if lists else schema[key][-1 if last else 0]
            return _sample(choice, last=last)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][-1 if last else 0]
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[-1 if last else 0]
    match kind:
        case "object":
            return {k: _sample(v, last=last) for k, v in schema.get("properties", {}).items()}
        case "array":
            items = schema.get("items")
            items = items[0] if isinstance(items, list) and items else items
            return [_sample(items, last=last)] if items else []
        case "string":
            return {"$date": 1_700_000_000_000} if schema.get("format") == "date-time" else "1"
        case "integer" | "number":
            return 1
        case "boolean":
            return True
    return None


async def _everything(session: RecordingSession) -> dict[Kind, dict[str, Any]]:
    """All that can be asked, each once."""
    found: dict[Kind, dict[str, Any]] = {}
    for kind in EVERY:
        try:
            found[kind] = {
                name: value async for page in inventory.listing(kind, session, "nas1") for name, value in page
            }
        except inventory.NotTold:
            continue
    for kind in _SINGLE:
        name = VOLUME if kind is Kind.DATASET_USE else next(iter(found.get(kind, {})), "1")
        try:
            await inventory.read(kind, name, session, "nas1")
            if kind is Kind.DATASET_USE:
                for zvol in (ZVOL, NVME):
                    await inventory.read(kind, zvol, session, "nas1")
        except (inventory.NotTold, CallFailed, TruetallyError):
            continue
    some = found[Kind.SNAPSHOT]
    for held in ({}, some):
        async for _ in inventory.snapshots_of(session, [VOLUME, ZVOL], held):
            pass
    return found


@pytest.mark.parametrize("train", TRAINS)
async def test_every_request_fits_the_real_schema(train):
    session = RecordingSession(train, _lab_answers(_furnished(train)))
    await _everything(session)
    checked = {method for method, params in session.asked if _check_request(train, method, params)}
    assert len(checked) >= {"25.04": 14, "25.10": 35, "26.0": 36}.get(train, 28), sorted(checked)


@pytest.mark.parametrize("train", TRAINS)
async def test_what_the_lab_answers_is_decoded_kind_by_kind(train):
    session = RecordingSession(train, _lab_answers(_furnished(train)))
    found = await _everything(session)
    told = {kind for kind in TRUENAS_KINDS if not inventory.absent(kind, session.generation)}
    told -= {Kind.SMB_CLIENT} if train == "25.10" else set()
    assert {kind for kind, values in found.items() if values} == told


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("train", TRAINS)
async def test_an_answer_of_any_allowed_shape_is_decoded(train, last):
    """Every field that may be null is null once, and every one that may be told is told once."""

    def answer(method: str, *params: Any) -> Any:
        made = _made(train, method, last=last)
        return made if isinstance(made, list) and all(made) and "id" in str(made) else []

    session = RecordingSession(train, answer)
    decoded = set()
    for kind in QUERIES:
        try:
            async for page in inventory.listing(kind, session, "nas1"):
                decoded |= {kind for _ in page}
        except inventory.NotTold:
            continue
    assert len(decoded) >= {"25.04": 8, "25.10": 18, "26.0": 19}.get(train, 0), sorted(decoded)


@pytest.mark.parametrize("train", WITH_ROLES)
def test_the_roles_that_we_say_are_needed_are_those_that_the_real_methods_ask_for(train):
    generation = generation_of(train)
    wrong = {}
    for need in [*needed(generation), *needed_to_remediate(generation)]:
        file = f"events/{need.method}" if need.subscription else need.method
        schema = _schema(train, file)
        if schema is None:
            continue
        real = schema["roles"] or []
        # Any session may where there are no roles; only FULL_ADMIN may what has none and is not public.
        if not set(need.roles) <= set(real) or bool(need.roles) != bool(real):
            wrong[need.method] = (need.roles, real)
    assert wrong == {}


@pytest.mark.parametrize("train", ["25.10", "26.0"])
def test_what_we_subscribe_to_exists(train):
    known = {file.stem for file in (_CONTRACT / train / "events").iterdir()}
    ours = {each.name for each in followed(generation_of(train).since)}
    # The dump has only the events whose models it found.
    assert ours - known <= {"failover.status", "system.reboot.info", "zfs.pool.scan"}


@pytest.mark.parametrize("train", TRAINS)
def test_what_we_say_is_missing_is_missing_and_what_we_ask_for_is_there(train):
    wrong = []
    for query in QUERIES.values():
        for part in query.parts():
            way = part.way(generation_of(train))
            methods = {each.method for each in part.ways if not isinstance(each, Missing)}
            if isinstance(way, Missing):
                wrong += [m for m in methods if _schema(train, m) is not None]
            elif train != "25.04" and _schema(train, way.method) is None:
                wrong.append(way.method)
    assert wrong == []
