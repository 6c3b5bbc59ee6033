"""The sharing methods: NFS and SMB shares, and iSCSI from portal to session."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from truetally.lab.nas.checks import texts
from truetally.lab.nas.failures import CallError, Invalid
from truetally.lab.nas.machine import FOLDED, Machine, Row
from truetally.lab.nas.nvmet import namespaces_under
from truetally.lab.nas.query import checked
from truetally.lab.nas.replication import tasks_under
from truetally.lab.nas.rows import drop, readable, the_row
from truetally.lab.nas.table import Caller, filled, method
from truetally.lab.nas.zfs import Dataset, under

_SMB_LEGACY: Row = {
    "path_suffix": "",
    "home": False,
    "ro": False,
    "browsable": True,
    "timemachine": False,
    "timemachine_quota": 0,
    "recyclebin": False,
    "guestok": False,
    "abe": False,
    "hostsallow": [],
    "hostsdeny": [],
    "aapl_name_mangling": False,
    "acl": True,
    "durablehandle": True,
    "shadowcopy": True,
    "streams": True,
    "fsrvp": False,
    "auxsmbconf": "",
    "afp": False,
}
_SMB_PURPOSES: Row = {
    "purpose": "DEFAULT_SHARE",
    "readonly": False,
    "browsable": True,
    "access_based_share_enumeration": False,
    "audit": {"enable": False, "watch_list": [], "ignore_list": []},
    "options": None,
}
# From 25.10 on these stand under `options`, and which there are depends on the purpose.
_SMB_OPTIONS: Mapping[str, Row] = {
    "DEFAULT_SHARE": {"aapl_name_mangling": False, "hostsallow": [], "hostsdeny": []},
    "LEGACY_SHARE": {
        name: value for name, value in _SMB_LEGACY.items() if name not in ("ro", "browsable", "abe")
    }
    | {"path_suffix": None, "vuid": None},
}
_DEFAULTS: Mapping[str, Row] = {
    "sharing.nfs": {
        "path": "",
        "aliases": [],
        "comment": "",
        "networks": [],
        "hosts": [],
        "ro": False,
        "maproot_user": None,
        "maproot_group": None,
        "mapall_user": None,
        "mapall_group": None,
        "security": [],
        "enabled": True,
        "expose_snapshots": False,
    },
    "sharing.smb": {"name": "", "path": "", "enabled": True, "comment": ""},
    "iscsi.portal": {"listen": [], "comment": ""},
    "iscsi.initiator": {"initiators": [], "comment": ""},
    "iscsi.target": {
        "name": "",
        "alias": None,
        "mode": "ISCSI",
        "groups": [],
        "auth_networks": [],
        "iscsi_parameters": None,
    },
    "iscsi.extent": {
        "name": "",
        "type": "DISK",
        "disk": None,
        "serial": None,
        "path": None,
        "filesize": "0",
        "blocksize": 512,
        "pblocksize": False,
        "avail_threshold": None,
        "comment": "",
        "insecure_tpc": True,
        "xen": False,
        "rpm": "SSD",
        "ro": False,
        "enabled": True,
    },
    "iscsi.targetextent": {"target": None, "lunid": None, "extent": None},
}
_REQUIRED = {
    "sharing.nfs": ["path"],
    "sharing.smb": ["name", "path"],
    "iscsi.portal": ["listen"],
    "iscsi.target": ["name"],
    "iscsi.extent": ["name"],
    "iscsi.targetextent": ["target", "extent"],
}
_ROLES = {
    "sharing.nfs": "SHARING_NFS",
    "sharing.smb": "SHARING_SMB",
    "iscsi.portal": "SHARING_ISCSI_PORTAL",
    "iscsi.initiator": "SHARING_ISCSI_INITIATOR",
    "iscsi.target": "SHARING_ISCSI_TARGET",
    "iscsi.extent": "SHARING_ISCSI_EXTENT",
    "iscsi.targetextent": "SHARING_ISCSI_TARGETEXTENT",
}


def _device(row: Row) -> str:
    """The path that a row shares, with zvols as `zvol/…`."""
    return str(row.get("disk") or row.get("path") or "")


def _dataset_of(machine: Machine, place: str) -> Dataset | None:
    name = place.removeprefix("/mnt/").removeprefix("zvol/")
    while name:
        found = machine.zfs.datasets.get(name)
        if found is not None:
            return found
        name = name.rpartition("/")[0]
    return None


def _shown(machine: Machine, kind: str, row: Row) -> Row:
    """A row as a query shows it: whether its dataset is locked is looked up each time."""
    if kind not in ("sharing.nfs", "sharing.smb", "iscsi.extent"):
        return dict(row)
    place = _device(row)
    dataset = _dataset_of(machine, place)
    shown = {**row, "locked": dataset.locked if dataset is not None else False}
    if machine.number >= (26, 0):
        bare = place.removeprefix("/mnt/").removeprefix("zvol/")
        shown["dataset"] = dataset.name if dataset is not None else None
        shown["relative_path"] = bare.removeprefix(dataset.name).lstrip("/") if dataset is not None else None
        if kind != "iscsi.extent":
            shown["tier"] = None
    return shown


def _create(kind: str, caller: Caller, data: Any) -> Row:
    machine = caller.machine
    given = filled(data, _defaults(machine, kind), where="data", required=_REQUIRED.get(kind, []))
    texts(given, f"{kind.replace('.', '_')}_create", "name", "path" if kind.startswith("sharing") else "name")
    _complete(machine, kind, given)
    row = machine.tables[kind].add(given)
    if kind == "iscsi.portal":
        row["tag"] = row["id"]
    elif kind == "iscsi.target":
        row["rel_tgt_id"] = row["id"]
    shown = _shown(machine, kind, row)
    machine.tell("added", f"{kind}.query", row["id"], _told(machine, kind, shown))
    return shown


def _told(machine: Machine, kind: str, shown: Row) -> Row:
    # The options of an SMB share repeat its purpose in events, and in answers they don't.
    if kind != "sharing.smb" or machine.number < (25, 10):
        return shown
    return {**shown, "options": {"purpose": shown["purpose"], **shown["options"]}}


def _defaults(machine: Machine, kind: str) -> Row:
    """What an object of this version has, with the values it gets where none are given."""
    if kind == "sharing.smb":
        return {**_DEFAULTS[kind], **_smb_defaults(machine)}
    known = {**_DEFAULTS[kind], **(_UNTIL_24_10.get(kind, {}) if machine.number < (25, 4) else {})}
    if kind == "sharing.nfs" and machine.number < (23, 10):
        known["quiet"] = False
    return {name: value for name, value in known.items() if value is not _NOT_YET}


# What the versions before 25.04 have otherwise (their own schemas of `create`).
_NOT_YET = object()
_UNTIL_24_10: Mapping[str, Row] = {
    "sharing.nfs": {"expose_snapshots": _NOT_YET},
    "iscsi.portal": {"discovery_authmethod": "NONE", "discovery_authgroup": None},
    "iscsi.target": {"iscsi_parameters": _NOT_YET},
}


def _smb_defaults(machine: Machine) -> Row:
    if machine.number >= (25, 10):
        return _SMB_PURPOSES
    if machine.number >= (25, 4):
        return {"purpose": "NO_PRESET", **_SMB_LEGACY}
    cluster = {"cluster_volname": ""} if machine.number < (24, 4) else {}
    return {"purpose": "DEFAULT_SHARE", **_SMB_LEGACY, **cluster}


def _complete(machine: Machine, kind: str, given: Row) -> None:
    """Check what the middleware checks against other objects, and fill in what it makes itself."""
    _check_unique(machine, kind, given)
    if kind in ("sharing.nfs", "sharing.smb"):
        _check_path(machine, kind, given["path"])
    elif kind == "iscsi.extent":
        _complete_extent(machine, given)
    elif kind == "iscsi.targetextent":
        _complete_link(machine, given)
    if kind == "sharing.nfs":
        _check_export(machine, given)
    elif kind == "sharing.smb" and machine.number >= (25, 10):
        given["options"] = {**_SMB_OPTIONS.get(given["purpose"], {}), **(given["options"] or {})}
        given["options"].pop("purpose", None)
    elif kind == "sharing.smb":
        given["vuid"] = ""
        if machine.number >= (24, 10):
            given["audit"] = {"enable": False, "watch_list": [], "ignore_list": []}


# A driver that finds one of these in a refusal looks for what is there already, and goes on with it.
_TAKEN = {
    "sharing.smb": ("sharingsmb_create.name", "A share with this name already exists."),
    "iscsi.target": ("iscsi_target_create.name", "Target name already exists"),
    "iscsi.extent": ("iscsi_extent_create.name", "Extent name must be unique"),
}


def _check_unique(machine: Machine, kind: str, given: Row) -> None:
    if kind not in _TAKEN:
        return
    name = str(given["name"])
    table = machine.tables[kind]
    if table.where(FOLDED, name.casefold()) if kind == "sharing.smb" else table.where("name", name):
        where, text = _TAKEN[kind]
        raise Invalid.at(where, text, errno.EEXIST)


def _check_export(machine: Machine, given: Row) -> None:
    """Two shares of one path must be for different networks or hosts."""
    for row in machine.tables["sharing.nfs"].where("path", given["path"]):
        if _overlap(row, given):
            text = "Another NFS share already exports this dataset for some network"
            raise Invalid.at("sharingnfs_create.networks", text)


def _overlap(one: Row, other: Row) -> bool:
    mine, theirs = (set(each["networks"]) | set(each["hosts"]) for each in (one, other))
    return not mine or not theirs or bool(mine & theirs)


def _check_path(machine: Machine, kind: str, path: str) -> None:
    if machine.zfs.find(path.removeprefix("/mnt/")) is None:
        raise Invalid.at(f"{kind}.create.path", "This path does not exist.", errno.ENOENT)


def _complete_extent(machine: Machine, given: Row) -> None:
    number = machine.tables["iscsi.extent"].last + 1
    if given["type"] == "DISK":
        disk = given["disk"] or ""
        if machine.zfs.find(disk.removeprefix("zvol/")) is None:
            raise Invalid.at("iscsi_extent_create.disk", f"Device '/dev/{disk}' does not exist", errno.ENOENT)
        given["path"] = disk
    given["serial"] = given["serial"] or f"{number:015x}"
    given["naa"] = f"0x6589cfc{number:025x}"
    given["vendor"] = "TrueNAS"
    if machine.number >= (25, 10):
        given["product_id"] = "iSCSI Disk"


def _complete_link(machine: Machine, given: Row) -> None:
    for kind in ("target", "extent"):
        if given[kind] not in machine.tables[f"iscsi.{kind}"].rows:
            text = f"iSCSI {kind} {given[kind]} not found"
            raise Invalid.at(f"iscsi_targetextent_create.{kind}", text, errno.ENOENT)
    links = _links(machine, "target", given["target"])
    if any(row["extent"] == given["extent"] for row in links):
        raise Invalid.at("iscsi_targetextent_create.target", "Extent is already in this target.")
    taken = {row["lunid"] for row in links}
    if given["lunid"] is None:
        given["lunid"] = next(lun for lun in range(len(taken) + 1) if lun not in taken)
    elif given["lunid"] in taken:
        raise Invalid.at("iscsi_targetextent_create.lunid", "LUN ID is already being used for this target.")


def _links(machine: Machine, end: str, row_id: int) -> list[Row]:
    return machine.tables["iscsi.targetextent"].where(end, row_id)


def _in_use(machine: Machine, target: Row) -> bool:
    iqn = f"{machine.basename}:{target['name']}"
    return any(session["target"] == iqn for session in machine.sessions)


def _register(kind: str) -> None:
    role = _ROLES[kind]

    def shown(machine: Machine, row: Row) -> Row:
        return _shown(machine, kind, row)

    def create(caller: Caller, data: Any) -> Row:
        return _create(kind, caller, data)

    def update(caller: Caller, id: Any, data: Any) -> Row:  # noqa: A002
        machine, row = caller.machine, the_row(caller.machine, kind, id)
        filled(data, _defaults(machine, kind), where="data")
        machine.tables[kind].change(row["id"], data)
        changed = shown(machine, row)
        machine.tell("changed", f"{kind}.query", row["id"], _told(machine, kind, changed))
        return changed

    readable(kind, f"{role}_READ", shown)
    method(f"{kind}.create", f"{role}_WRITE")(create)
    method(f"{kind}.update", f"{role}_WRITE")(update)
    if kind not in ("iscsi.target", "iscsi.extent", "iscsi.targetextent"):

        def delete(caller: Caller, id: Any) -> bool:  # noqa: A002
            return drop(caller.machine, kind, the_row(caller.machine, kind, id)["id"])

        method(f"{kind}.delete", f"{role}_WRITE")(delete)


for _kind in _DEFAULTS:
    _register(_kind)


@method("iscsi.targetextent.delete", "SHARING_ISCSI_TARGETEXTENT_WRITE")
def link_delete(caller: Caller, id: Any, force: bool = False) -> bool:  # noqa: A002
    """Unlink an extent from a target; refused while an initiator uses it."""
    machine, row = caller.machine, the_row(caller.machine, "iscsi.targetextent", id)
    target = machine.tables["iscsi.target"].rows.get(row["target"])
    if target is not None and _in_use(machine, target) and not force:
        raise CallError(f"Associated target {target['name']} is in use.", errno.EBUSY)
    return drop(machine, "iscsi.targetextent", row["id"])


@method("iscsi.extent.delete", "SHARING_ISCSI_EXTENT_WRITE")
def extent_delete(caller: Caller, id: Any, remove: bool = False, force: bool = False) -> bool:  # noqa: A002
    """Delete an extent and its links."""
    machine, row = caller.machine, the_row(caller.machine, "iscsi.extent", id)
    for link in _links(machine, "extent", row["id"]):
        link_delete(caller, link["id"], force)
    return drop(machine, "iscsi.extent", row["id"])


@method("iscsi.target.delete", "SHARING_ISCSI_TARGET_WRITE")
def target_delete(caller: Caller, id: Any, force: bool = False, delete_extents: bool = False) -> bool:  # noqa: A002
    """Delete a target and its links; refused while an initiator uses it."""
    machine, row = caller.machine, the_row(caller.machine, "iscsi.target", id)
    if _in_use(machine, row) and not force:
        raise CallError(f"Target {row['name']} is in use.", errno.EFAULT)
    for link in _links(machine, "target", row["id"]):
        link_delete(caller, link["id"], force=True)
        if delete_extents:
            extent_delete(caller, link["extent"], force=True)
    return drop(machine, "iscsi.target", row["id"])


@method("iscsi.global.config", "SHARING_ISCSI_GLOBAL_READ")
def global_config(caller: Caller) -> Row:
    """The iSCSI base name."""
    config: Row = {
        "id": 1,
        "basename": caller.machine.basename,
        "isns_servers": [],
        "listen_port": 3260,
        "pool_avail_threshold": None,
        "alua": False,
        "iser": False,
    }
    if caller.machine.number >= (26, 0):
        config |= {"direct_config": None, "mode": 0}
    return config


@method("iscsi.global.sessions", "SHARING_ISCSI_GLOBAL_READ")
def global_sessions(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """Live sessions."""
    return checked(filters, options).apply(caller.machine.sessions)


@method("nfs.get_nfs3_clients", "READONLY_ADMIN", "SHARING_NFS_WRITE")
def nfs3_clients(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """NFSv3 clients with the export that they mounted."""
    return checked(filters, options).apply(caller.machine.nfs3_clients)


@method("nfs.get_nfs4_clients", "READONLY_ADMIN", "SHARING_NFS_WRITE")
def nfs4_clients(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """NFSv4 clients; which export one uses is not told."""
    return checked(filters, options).apply(caller.machine.nfs4_clients)


@method("nfs.client_count", "SHARING_NFS_READ")
def nfs_client_count(caller: Caller) -> int:
    """How many NFS clients there are."""
    return len(caller.machine.nfs3_clients) + len(caller.machine.nfs4_clients)


@method("smb.status", "SHARING_SMB_READ", absent_in=(25, 10))
def smb_status(
    caller: Caller,
    info_level: str = "ALL",
    filters: Any = (),
    options: Any = None,
    status_options: Any = None,
) -> Any:
    """SMB sessions."""
    return checked(filters, options).apply(caller.machine.smb_clients)


def _rows_under(machine: Machine, kind: str, name: str) -> list[Row]:
    tops = (f"/mnt/{name}", f"zvol/{name}")
    return [row for row in machine.tables[kind].rows.values() if under(_device(row), tops)]


def attached(machine: Machine, name: str) -> list[Row]:
    """What `pool.dataset.attachments` tells of a path."""
    labels = {
        "sharing.nfs": ("NFS Share", "nfs", "path"),
        "sharing.smb": ("SMB Share", "cifs", "name"),
        "iscsi.extent": ("iSCSI Extent", "iscsitarget", "name"),
    }
    found: list[Row] = [
        {"type": label, "service": service, "attachments": [row[key] for row in rows]}
        for kind, (label, service, key) in labels.items()
        if (rows := _rows_under(machine, kind, name))
    ]
    namespaces = [row["device_path"] for row in namespaces_under(machine, name)]
    if namespaces:
        found.append({"type": "NVMe-oF Namespace", "service": "nvmet", "attachments": namespaces})
    tasks = tasks_under(machine, name)
    # The names of these delegates are inferred from their classes.
    for kind, label, key in (
        ("pool.snapshottask", "Snapshot Task", "dataset"),
        ("replication", "Replication", "name"),
    ):
        rows = [row[key] for each, row in tasks if each == kind]
        if rows:
            found.append({"type": label, "service": None, "attachments": rows})
    return found


def detach(machine: Machine, name: str) -> None:
    """Remove what is attached to a path, without telling: the delegates write to the database themselves."""
    for kind in ("sharing.nfs", "sharing.smb"):
        for row in _rows_under(machine, kind, name):
            machine.tables[kind].remove(row["id"])
    for extent in _rows_under(machine, "iscsi.extent", name):
        targets = {link["target"] for link in _links(machine, "extent", extent["id"])}
        for link in _links(machine, "extent", extent["id"]):
            machine.tables["iscsi.targetextent"].remove(link["id"])
        machine.tables["iscsi.extent"].remove(extent["id"])
        for target in targets:
            if not _links(machine, "target", target):
                machine.tables["iscsi.target"].remove(target)
    for namespace in namespaces_under(machine, name):
        machine.tables["nvmet.namespace"].remove(namespace["id"])
    for kind, row in tasks_under(machine, name):
        machine.tables[kind].remove(row["id"])
