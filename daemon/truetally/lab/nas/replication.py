"""Replication and periodic snapshots: tasks that are kept, and copies that are made at once.

A copy is made by a job, and nobody is told of the dataset that appears. Without
`properties` it carries no user property of its source: a detached clone of democratic-csi
stands unmarked under its parent until the driver comes back to mark it.
"""

from __future__ import annotations

import errno
import re
from typing import Any

from truetally.lab.nas.checks import texts
from truetally.lab.nas.failures import CallError, Invalid
from truetally.lab.nas.jobs import jobs_of
from truetally.lab.nas.machine import Machine, Row
from truetally.lab.nas.rows import drop, readable, the_row
from truetally.lab.nas.table import Caller, filled, method
from truetally.lab.nas.zfs import Dataset, Snapshot, under

_SCHEDULE = {"minute": "00", "hour": "*", "dom": "*", "month": "*", "dow": "*"}
_WITHIN = {"begin": "00:00", "end": "23:59"}
_SNAPSHOT_TASK: Row = {
    "dataset": "",
    "recursive": False,
    "lifetime_value": 2,
    "lifetime_unit": "WEEK",
    "enabled": True,
    "exclude": [],
    "naming_schema": "auto-%Y-%m-%d_%H-%M",
    "allow_empty": True,
    "schedule": {},
}
_ONETIME: Row = {
    "direction": "PUSH",
    "transport": "LOCAL",
    "ssh_credentials": None,
    "netcat_active_side": None,
    "netcat_active_side_listen_address": None,
    "netcat_active_side_port_min": None,
    "netcat_active_side_port_max": None,
    "netcat_passive_side_connect_address": None,
    "sudo": False,
    "source_datasets": [],
    "target_dataset": "",
    "recursive": False,
    "exclude": [],
    "properties": True,
    "properties_exclude": [],
    "properties_override": {},
    "replicate": False,
    "encryption": False,
    "encryption_inherit": None,
    "encryption_key": None,
    "encryption_key_format": None,
    "encryption_key_location": None,
    "periodic_snapshot_tasks": [],
    "naming_schema": [],
    "also_include_naming_schema": [],
    "name_regex": None,
    "restrict_schedule": None,
    "allow_from_scratch": False,
    "readonly": "SET",
    "hold_pending_snapshots": False,
    "retention_policy": "NONE",
    "lifetime_value": None,
    "lifetime_unit": None,
    "lifetimes": [],
    "compression": None,
    "speed_limit": None,
    "large_block": True,
    "embed": False,
    "compressed": True,
    "retries": 5,
    "logging_level": None,
}
_TASK: Row = {
    "name": "",
    **_ONETIME,
    "auto": False,
    "schedule": None,
    "only_matching_schedule": False,
    "enabled": True,
}
_REQUIRED = ["direction", "transport", "source_datasets", "target_dataset", "recursive", "retention_policy"]
_PENDING = {"state": "PENDING"}


def _snapshot_task(machine: Machine, row: Row) -> Row:
    return {**row, "vmware_sync": False, "state": dict(_PENDING)}


def _task(machine: Machine, row: Row) -> Row:
    tasks = machine.tables["pool.snapshottask"].rows
    # Inside a replication task the state of a snapshot task is a word (25.10's and 26's schemas).
    periodic = [{**tasks[each], "state": "PENDING"} for each in row["periodic_snapshot_tasks"]]
    extra = {"state": dict(_PENDING), "job": None, "has_encrypted_dataset_keys": False}
    return {**row, "periodic_snapshot_tasks": periodic, **extra}


_SHOWN = {"pool.snapshottask": _snapshot_task, "replication": _task}


def _keep(kind: str, caller: Caller, row_id: int | None, data: Row) -> Row:
    machine = caller.machine
    table = machine.tables[kind]
    row = table.add(data) if row_id is None else table.change(row_id, data)
    shown = _SHOWN[kind](machine, row)
    machine.tell("added" if row_id is None else "changed", f"{kind}.query", row["id"], shown)
    return shown


readable("pool.snapshottask", "SNAPSHOT_TASK_READ", _snapshot_task)
readable("replication", "REPLICATION_TASK_READ", _task)


@method("pool.snapshottask.create", "SNAPSHOT_TASK_WRITE")
def snapshottask_create(caller: Caller, data: Any) -> Row:
    """A new periodic snapshot task; the lab takes no snapshot by itself."""
    given = filled(data, _SNAPSHOT_TASK, where="periodic_snapshot_create", required=["dataset"])
    texts(given, "periodic_snapshot_create", "dataset")
    if caller.machine.zfs.find(given["dataset"]) is None:
        text = f"Dataset {given['dataset']} not found"
        raise Invalid.at("periodic_snapshot_create.dataset", text, errno.ENOENT)
    given["schedule"] = {**_SCHEDULE, **_WITHIN, **given["schedule"]}
    return _keep("pool.snapshottask", caller, None, given)


@method("pool.snapshottask.update", "SNAPSHOT_TASK_WRITE")
def snapshottask_update(caller: Caller, id: Any, data: Any) -> Row:  # noqa: A002
    """Change a periodic snapshot task."""
    row = the_row(caller.machine, "pool.snapshottask", id)
    filled(data, _SNAPSHOT_TASK, where="periodic_snapshot_update")
    return _keep("pool.snapshottask", caller, row["id"], data)


@method("pool.snapshottask.delete", "SNAPSHOT_TASK_WRITE")
def snapshottask_delete(caller: Caller, id: Any, options: Any = None) -> bool:  # noqa: A002
    """Delete a periodic snapshot task; its snapshots stay."""
    filled(options or {}, {"fixate_removal_date": False}, where="options")
    return drop(caller.machine, "pool.snapshottask", the_row(caller.machine, "pool.snapshottask", id)["id"])


@method("pool.snapshottask.run", "SNAPSHOT_TASK_WRITE")
def snapshottask_run(caller: Caller, id: Any) -> int:  # noqa: A002
    """Take the task's snapshot now, as a job; its number. Nobody is told of the snapshot."""
    machine = caller.machine
    task = the_row(machine, "pool.snapshottask", id)
    return jobs_of(machine).start(
        caller, "pool.snapshottask.run", [task["id"]], lambda: _take_periodic(machine, task)
    )


def _take_periodic(machine: Machine, task: Row) -> None:
    leaf = machine.now().strftime(task["naming_schema"])
    top = machine.zfs.dataset(task["dataset"])
    for each in list(top.below()) if task["recursive"] else [top]:
        if each.name not in task["exclude"] and leaf not in each.snapshots:
            machine.zfs.take(each.name, leaf)


@method("replication.create", "REPLICATION_TASK_WRITE")
def replication_create(caller: Caller, data: Any) -> Row:
    """A new replication task; it runs when it is told to."""
    given = filled(data, _TASK, where="replication_create", required=["name", *_REQUIRED])
    known = caller.machine.tables["pool.snapshottask"].rows
    for each in given["periodic_snapshot_tasks"]:
        if each not in known:
            text = f"Periodic snapshot task {each} does not exist"
            raise Invalid.at("replication_create.periodic_snapshot_tasks", text, errno.ENOENT)
    return _keep("replication", caller, None, given)


@method("replication.update", "REPLICATION_TASK_WRITE")
def replication_update(caller: Caller, id: Any, data: Any) -> Row:  # noqa: A002
    """Change a replication task."""
    row = the_row(caller.machine, "replication", id)
    filled(data, _TASK, where="replication_update")
    return _keep("replication", caller, row["id"], data)


@method("replication.delete", "REPLICATION_TASK_WRITE")
def replication_delete(caller: Caller, id: Any) -> bool:  # noqa: A002
    """Delete a replication task; what it copied stays."""
    return drop(caller.machine, "replication", the_row(caller.machine, "replication", id)["id"])


@method("replication.run", "REPLICATION_TASK_WRITE")
def replication_run(caller: Caller, id: Any) -> int:  # noqa: A002
    """Run a task now, as a job; its number."""
    machine = caller.machine
    row = the_row(machine, "replication", id)
    return jobs_of(machine).start(
        caller, "replication.run", [row["id"]], lambda: _replicate(machine, row, scratch=False)
    )


@method("replication.run_onetime", "REPLICATION_TASK_WRITE")
def replication_run_onetime(caller: Caller, data: Any) -> int:
    """Copy datasets once, as a job; its number."""
    machine = caller.machine
    members = {**_ONETIME, "only_from_scratch": False, "exclude_mountpoint_property": True, "mount": True}
    given = filled(data, members, where="replication_run_onetime", required=_REQUIRED)
    return jobs_of(machine).start(
        caller,
        "replication.run_onetime",
        [given],
        lambda: _replicate(machine, given, scratch=given["only_from_scratch"]),
    )


def _replicate(machine: Machine, task: Row, *, scratch: bool) -> None:
    """Copy every source; a target on another machine is not in the lab and only takes what is sent."""
    if task["transport"] != "LOCAL":
        return
    sources, target = task["source_datasets"], task["target_dataset"]
    for name in sources:
        place = target if len(sources) == 1 else f"{target}/{name.rpartition('/')[2]}"
        top = machine.zfs.dataset(name)
        for each in list(top.below()) if task["recursive"] else [top]:
            if each.name not in task["exclude"]:
                _copy(machine, task, each, place + each.name.removeprefix(name), scratch=scratch)


def _copy(machine: Machine, task: Row, source: Dataset, target: str, *, scratch: bool) -> None:
    chosen = [taken for taken in source.snapshots.values() if _chosen(task, taken)]
    if not chosen:
        text = f"Dataset {source.name!r} does not have any matching snapshots to replicate"
        raise CallError(text, errno.ENOENT)
    found = machine.zfs.find(target)
    if found is not None and scratch:
        raise CallError(f"Target dataset {target!r} already exists", errno.EEXIST)
    there = set(found.snapshots) if found is not None else set()
    readonly = True if task["readonly"] == "SET" else None
    for taken in chosen:
        if taken.name not in there:
            machine.zfs.receive(taken.path, target, properties=task["properties"], readonly=readonly)


def _chosen(task: Row, taken: Snapshot) -> bool:
    if task["name_regex"] is not None:
        return re.fullmatch(task["name_regex"], taken.name) is not None
    schemas = [*task["naming_schema"], *task["also_include_naming_schema"]]
    return not schemas or any(_named_by(schema, taken.name) for schema in schemas)


def _named_by(schema: str, name: str) -> bool:
    """Whether a `strftime` schema could have made this name."""
    pattern = re.sub(r"%[A-Za-z]", r"\\d+", re.escape(schema))
    return re.fullmatch(pattern, name) is not None


def tasks_under(machine: Machine, name: str) -> list[tuple[str, Row]]:
    """The tasks that take snapshots of a dataset or below it, or that replicate them from or to there."""
    found = [
        ("pool.snapshottask", row)
        for row in machine.tables["pool.snapshottask"].rows.values()
        if under(row["dataset"], [name])
    ]
    for row in machine.tables["replication"].rows.values():
        places = [*row["source_datasets"], row["target_dataset"]]
        if any(under(each, [name]) for each in places):
            found.append(("replication", row))
    return found
