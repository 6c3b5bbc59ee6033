"""The filesystem methods that a CSI driver uses: owners and modes of what datasets hold.

There are no files in the lab: a path exists if a dataset is mounted there, or if it was
made by `filesystem.mkdir`.
"""

from __future__ import annotations

import errno
from typing import Any

from truetally.lab.nas.checks import texts
from truetally.lab.nas.failures import CallError, Invalid
from truetally.lab.nas.jobs import jobs_of
from truetally.lab.nas.machine import Machine, Row
from truetally.lab.nas.table import Caller, filled, method
from truetally.lab.nas.tree import mountpoint

_OWNERS: Row = {"uid": None, "user": None, "gid": None, "group": None}
_SETPERM: Row = {"path": "", "mode": None, **_OWNERS, "options": {}}
_CHOWN: Row = {"path": "", **_OWNERS, "options": {}}
_ROOT = {"uid": 0, "gid": 0, "mode": "755", "directory": False}


def _entry(machine: Machine, path: str) -> Row | None:
    """What was set at a path; None if nothing was."""
    found = machine.tables["filesystem"].where("name", path)
    return found[0] if found else None


def _is_mountpoint(machine: Machine, path: str) -> bool:
    dataset = machine.zfs.find(path.removeprefix("/mnt/"))
    return dataset is not None and dataset.kind == "FILESYSTEM" and not dataset.locked


def _exists(machine: Machine, path: str) -> bool:
    if _is_mountpoint(machine, path):
        return True
    entry = _entry(machine, path)
    return entry is not None and entry["directory"] and _exists(machine, path.rpartition("/")[0])


def _permissions(machine: Machine, path: str) -> Row:
    return {**_ROOT, **(_entry(machine, path) or {})}


def _set(machine: Machine, path: str, changes: Row) -> None:
    entry = _entry(machine, path)
    if entry is None:
        machine.tables["filesystem"].add({"name": path, **_ROOT, **changes})
    else:
        machine.tables["filesystem"].change(entry["id"], changes)


def _change(caller: Caller, name: str, given: Row) -> int:
    texts(given, "data", "path")
    machine, path = caller.machine, given["path"].rstrip("/")

    def work() -> None:
        if not _exists(machine, path):
            raise Invalid.at(f"{name}.path", f"Path {path} not found", errno.ENOENT)
        kept = ("uid", "gid", "mode")
        _set(machine, path, {each: given[each] for each in kept if given.get(each) is not None})

    return jobs_of(machine).start(caller, name, [given], work)


@method("filesystem.setperm", "FILESYSTEM_ATTRS_WRITE")
def setperm(caller: Caller, data: Any) -> int:
    """Set mode and owners of a path, as a job; its number."""
    given = filled(data, _SETPERM, where="data", required=["path"])
    return _change(caller, "filesystem.setperm", given)


@method("filesystem.chown", "FILESYSTEM_ATTRS_WRITE")
def chown(caller: Caller, data: Any) -> int:
    """Set the owners of a path, as a job; its number."""
    given = filled(data, _CHOWN, where="data", required=["path"])
    return _change(caller, "filesystem.chown", given)


def _type_bits(mode: str) -> int:
    return 0o040000 | int(mode, 8)


@method("filesystem.stat", "FILESYSTEM_ATTRS_READ")
def stat(caller: Caller, path: Any) -> Row:
    """What a directory is."""
    machine = caller.machine
    place = str(path).rstrip("/")
    if not _exists(machine, place):
        raise CallError(f"Path {path} not found", errno.ENOENT)
    held, mounted = _permissions(machine, place), _is_mountpoint(machine, place)
    at = machine.started_at.timestamp()
    return {
        "realpath": place,
        "type": "DIRECTORY",
        "size": 2,
        "allocation_size": 512,
        "mode": _type_bits(held["mode"]),
        "mount_id": 1,
        "uid": held["uid"],
        "gid": held["gid"],
        "atime": at,
        "mtime": at,
        "ctime": at,
        "btime": at,
        "dev": 1,
        "inode": 34,
        "nlink": 2,
        "acl": False,
        "is_mountpoint": mounted,
        "is_ctldir": False,
        "attributes": ["MOUNT_ROOT"] if mounted else [],
        "user": "root" if held["uid"] == 0 else None,
        "group": "root" if held["gid"] == 0 else None,
    }


@method("filesystem.mkdir", "FILESYSTEM_DATA_WRITE")
def mkdir(caller: Caller, data: Any) -> Row:
    """Make a directory inside a dataset."""
    machine = caller.machine
    given = filled(data, {"path": "", "options": {}}, where="filesystem_mkdir", required=["path"])
    texts(given, "filesystem_mkdir", "path")
    options = filled(given["options"], {"mode": "755", "raise_chmod_error": True}, where="options")
    path = given["path"].rstrip("/")
    if _exists(machine, path):
        raise CallError(f"{path}: path already exists.", errno.EEXIST)
    if not _exists(machine, path.rpartition("/")[0]):
        raise CallError(f"{path.rpartition('/')[0]}: parent does not exist", errno.ENOENT)
    _set(machine, path, {"directory": True, "mode": options["mode"]})
    return {
        "name": path.rpartition("/")[2],
        "path": path,
        "realpath": path,
        "type": "DIRECTORY",
        "size": 2,
        "allocation_size": 512,
        "mode": _type_bits(options["mode"]),
        "mount_id": 1,
        "acl": False,
        "uid": 0,
        "gid": 0,
        "is_mountpoint": False,
        "is_ctldir": False,
        "attributes": [],
        "xattrs": [],
        "zfs_attrs": ["ARCHIVE"],
    }


def forget(machine: Machine, dataset: str) -> None:
    """Forget what was set below a dataset that is gone."""
    top = mountpoint(dataset)
    for row in list(machine.tables["filesystem"].rows.values()):
        if row["name"] == top or row["name"].startswith(f"{top}/"):
            machine.tables["filesystem"].remove(row["id"])
