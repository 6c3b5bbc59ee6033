"""Every answer of the lab against the schemas that were dumped from the real middleware."""

import json
import os
from pathlib import Path

import jsonschema
import pytest

from lab_nas.nas_client import logged_in
from truetally.lab.nas.methods import METHODS

_CONTRACT = Path(
    os.environ.get("TRUETALLY_CONTRACT", Path(__file__).parents[2].parent / "shared" / "contract")
)
pytestmark = pytest.mark.skipif(
    not _CONTRACT.is_dir(),
    reason="NOT CHECKED against the middleware's schemas: set TRUETALLY_CONTRACT to their folder",
)

_QUERIES = [
    "pool.query",
    "pool.dataset.query",
    "pool.snapshot.query",
    "zfs.resource.query",
    "zfs.resource.snapshot.query",
    "sharing.nfs.query",
    "sharing.smb.query",
    "iscsi.global.config",
    "iscsi.global.sessions",
    "iscsi.target.query",
    "iscsi.extent.query",
    "iscsi.targetextent.query",
    "iscsi.portal.query",
    "iscsi.initiator.query",
    "nfs.get_nfs3_clients",
    "nfs.get_nfs4_clients",
    "nfs.client_count",
    "smb.status",
    "service.query",
    "alert.list",
    "core.get_jobs",
    "core.get_methods",
    "auth.me",
    "auth.mechanism_choices",
    "system.info",
    "system.version",
    "system.version_short",
    "interface.query",
    "api_key.query",
    "core.ping",
    "pool.snapshottask.query",
    "replication.query",
    "nvmet.global.config",
    "nvmet.global.sessions",
    "nvmet.subsys.query",
    "nvmet.namespace.query",
    "nvmet.port.query",
    "nvmet.host.query",
    "nvmet.port_subsys.query",
    "nvmet.host_subsys.query",
]
_NVMET = [
    ("nvmet.port.create", {"addr_trtype": "TCP", "addr_traddr": "10.0.0.1"}),
    ("nvmet.host.create", {"hostnqn": "nqn.2014-08.org.nvmexpress:uuid:a"}),
    ("nvmet.subsys.create", {"name": "n"}),
    ("nvmet.namespace.create", {"device_type": "ZVOL", "device_path": "zvol/tank/k8s/n", "subsys_id": 1}),
    ("nvmet.port_subsys.create", {"port_id": 1, "subsys_id": 1}),
    ("nvmet.host_subsys.create", {"host_id": 1, "subsys_id": 1}),
    ("nvmet.subsys.update", 1, {"allow_any_host": True}),
    ("nvmet.namespace.update", 1, {"enabled": False}),
    ("nvmet.subsys.query", [], {"extra": {"verbose": True}}),
]
_NVMET_END = [
    ("nvmet.host_subsys.delete", 1),
    ("nvmet.port_subsys.delete", 1),
    ("nvmet.namespace.delete", 1),
    ("nvmet.subsys.delete", 1, {"force": True}),
    ("nvmet.host.delete", 1),
    ("nvmet.port.delete", 1),
]
_REPLICATION = {
    "name": "r",
    "direction": "PUSH",
    "transport": "LOCAL",
    "source_datasets": ["tank/k8s/a"],
    "target_dataset": "tank/replica",
    "recursive": False,
    "retention_policy": "NONE",
    "periodic_snapshot_tasks": [1],
}


def _result_schema(version, method):
    file = _CONTRACT / version / f"{method}.json"
    return json.loads(file.read_text())["result"] if file.exists() else None


def _event_schema(version, collection, msg):
    file = _CONTRACT / version / "events" / f"{collection}.json"
    if not file.exists():
        return None
    return json.loads(file.read_text())["schemas"]["properties"].get(msg.upper())


def _plain(value):
    """EJSON dates and sets as the schemas speak of them, before they were encoded."""
    if isinstance(value, dict):
        if set(value) == {"$date"}:
            return "2026-01-01T00:00:00+00:00"
        if set(value) == {"$set"}:
            return value["$set"]
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _check(version, method, value):
    schema = _result_schema(version, method)
    if schema is not None:
        jsonschema.Draft202012Validator(_without_discriminators(schema)).validate(_plain(value))
    return schema is not None


def _without_discriminators(schema):
    # The dump has resolved away what the discriminators point to; without them `oneOf` has
    # members that overlap (an SMB share's options).
    if isinstance(schema, dict):
        return {
            "anyOf" if key == "oneOf" else key: _without_discriminators(each)
            for key, each in schema.items()
            if key != "discriminator"
        }
    return [_without_discriminators(each) for each in schema] if isinstance(schema, list) else schema


async def _a_full_life(client, version):
    """Change everything there is once; the results by method."""
    snapshots = "zfs.snapshot" if version == "25.04" else "pool.snapshot"
    steps = [
        ("pool.dataset.create", {"name": "tank/k8s/a", "user_properties": [{"key": "a:b", "value": "c"}]}),
        ("pool.dataset.create", {"name": "tank/k8s/z", "type": "VOLUME", "volsize": 1 << 30}),
        ("pool.dataset.update", "tank/k8s/a", {"refquota": 1 << 30}),
        (f"{snapshots}.create", {"dataset": "tank/k8s/a", "name": "s"}),
        (f"{snapshots}.clone", {"snapshot": "tank/k8s/a@s", "dataset_dst": "tank/k8s/c"}),
        (f"{snapshots}.hold", "tank/k8s/a@s"),
        ("sharing.nfs.create", {"path": "/mnt/tank/k8s/a"}),
        ("sharing.smb.create", {"name": "a", "path": "/mnt/tank/k8s/a"}),
        ("iscsi.portal.create", {"listen": [{"ip": "0.0.0.0"} | _port(version)]}),
        ("iscsi.initiator.create", {"comment": "x"}),
        ("iscsi.target.create", {"name": "z", "groups": [_group()]}),
        ("iscsi.extent.create", {"name": "z", "disk": "zvol/tank/k8s/z"}),
        ("iscsi.targetextent.create", {"target": 1, "extent": 1}),
        ("pool.dataset.get_instance", "tank/k8s/a"),
        ("pool.dataset.attachments", "tank/k8s/a"),
        ("pool.dataset.processes", "tank/k8s/a"),
        ("pool.dataset.create", {"name": "tank/k8s/n", "type": "VOLUME", "volsize": 1 << 30}),
        ("pool.snapshottask.create", {"dataset": "tank/k8s/a"}),
        ("replication.create", _REPLICATION),
        ("filesystem.stat", "/mnt/tank/k8s/a"),
        ("filesystem.mkdir", {"path": "/mnt/tank/k8s/a/inside"}),
        *(_NVMET if version != "25.04" else []),
        ("pool.dataset.attachments", "tank/k8s"),
    ]
    endings = [
        (f"{snapshots}.release", "tank/k8s/a@s"),
        ("iscsi.targetextent.delete", 1, True),
        ("iscsi.extent.delete", 1),
        ("iscsi.target.delete", 1, True),
        ("sharing.smb.delete", 1),
        ("sharing.nfs.delete", 1),
        ("pool.dataset.delete", "tank/k8s/c"),
        (f"{snapshots}.delete", "tank/k8s/a@s"),
        ("pool.dataset.delete", "tank/k8s/z"),
        ("replication.delete", 1),
        ("pool.snapshottask.delete", 1),
        *(_NVMET_END if version != "25.04" else []),
    ]
    done = [(name, await client.call(name, *arguments)) for name, *arguments in steps]
    done += [(name, await client.call(name)) for name in _QUERIES if _exists(version, name)]
    return done + [(name, await client.call(name, *arguments)) for name, *arguments in endings]


def _port(version):
    # Its listeners are shown with a port, and asked for without one.
    return {"port": 3260}


def _group():
    return {"portal": 1, "initiator": None, "authmethod": "NONE", "auth": None}


def _exists(version, name):
    if name == "smb.status":
        return version != "25.10"
    if name in ("pool.snapshot.query", "zfs.resource.query", "core.get_methods") or name.startswith("nvmet."):
        return version != "25.04"
    return name != "zfs.resource.snapshot.query" or version == "26.0"


async def test_every_answer_fits_the_real_schema(any_nas):
    version = any_nas.machine.version
    any_nas.machine.raise_alert("PoolUpgraded", "NOTICE", "x")
    any_nas.machine.start_job("pool.scrub.scrub", ["tank"])
    any_nas.machine.connect_initiator("z", "iqn.1993-08.org.debian:01:a")
    any_nas.machine.nfs3_clients.append({"ip": "10.0.0.1", "export": "/mnt/tank/k8s/a"})
    any_nas.machine.nfs4_clients.append({"id": "1", "info": {"address": "10.0.0.1:700"}, "states": []})
    async with logged_in(any_nas) as client:
        checked = [
            name for name, value in await _a_full_life(client, version) if _check(version, name, value)
        ]
    assert len(set(checked)) >= {"25.04": 20, "25.10": 70, "26.0": 70}[version]


async def test_every_event_fits_the_real_schema(any_nas):
    version = any_nas.machine.version
    async with logged_in(any_nas) as client:
        await client.call("core.subscribe", "*")
        await _a_full_life(client, version)
        any_nas.machine.raise_alert("PoolUpgraded", "NOTICE", "x")
        await client.call("core.ping")
    checked = set()
    for event in client.events:
        schema = _event_schema(version, event["collection"], event["msg"])
        # 25.04's schemas tell fields that its generic events never carry, and all schemas call an
        # alert's id an integer while its uuid is sent.
        if (
            schema is None
            or event["collection"] == "alert.list"
            or (version == "25.04" and "fields" not in event)
        ):
            continue
        told = {key: event[key] for key in ("id", "fields") if key in event}
        jsonschema.Draft202012Validator(_without_discriminators(schema)).validate(_plain(told))
        checked.add((event["collection"], event["msg"]))
    assert len(checked) >= (0 if version == "25.04" else 30)


@pytest.mark.parametrize("version", ["25.04", "25.10", "26.0"])
def test_every_method_asks_for_the_roles_that_the_real_one_asks_for(version):
    asked, real = {}, {}
    for name, each in METHODS.items():
        file = _CONTRACT / version / f"{name}.json"
        # Private methods (zfs.snapshot.* of 25.10) are in no dump; public ones ask for nothing.
        if file.exists() and not each.public:
            asked[name] = sorted(each.roles)
            real[name] = sorted(json.loads(file.read_text())["roles"] or [])
    assert asked == real
