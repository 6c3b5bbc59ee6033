"""NVMe-oF (25.10+): subsystems with namespaces, ports that show them, hosts that may see them.

A namespace is deleted with the dataset that it shares; its subsystem stays, empty. A
subsystem that still has namespaces or ports is only deleted with `force`.
"""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from truetally.lab.nas.checks import texts
from truetally.lab.nas.failures import Invalid
from truetally.lab.nas.machine import INDEXED, Machine, Row
from truetally.lab.nas.query import checked
from truetally.lab.nas.rows import drop, readable, the_row
from truetally.lab.nas.table import Caller, filled, method
from truetally.lab.nas.zfs import under

_SINCE = (25, 10)
_READ = "SHARING_NVME_TARGET_READ"
_WRITE = "SHARING_NVME_TARGET_WRITE"
_LONGEST_NQN = 223

_DEFAULTS: Mapping[str, Row] = {
    "nvmet.subsys": {
        "name": "",
        "subnqn": None,
        "allow_any_host": False,
        "pi_enable": None,
        "qid_max": None,
        "ieee_oui": None,
        "ana": None,
    },
    "nvmet.namespace": {
        "nsid": None,
        "device_type": "ZVOL",
        "device_path": "",
        "filesize": None,
        "enabled": True,
        "subsys_id": 0,
    },
    "nvmet.port": {
        "addr_trtype": "TCP",
        "addr_trsvcid": 4420,
        "addr_traddr": "",
        "inline_data_size": None,
        "max_queue_size": None,
        "pi_enable": None,
        "enabled": True,
    },
    "nvmet.host": {
        "hostnqn": "",
        "dhchap_key": None,
        "dhchap_ctrl_key": None,
        "dhchap_dhgroup": None,
        "dhchap_hash": "SHA-256",
    },
    "nvmet.port_subsys": {"port_id": 0, "subsys_id": 0},
    "nvmet.host_subsys": {"host_id": 0, "subsys_id": 0},
}
_REQUIRED = {
    "nvmet.subsys": ["name"],
    "nvmet.namespace": ["device_type", "device_path", "subsys_id"],
    "nvmet.port": ["addr_trtype", "addr_traddr"],
    "nvmet.host": ["hostnqn"],
    "nvmet.port_subsys": ["port_id", "subsys_id"],
    "nvmet.host_subsys": ["host_id", "subsys_id"],
}


def _rows(machine: Machine, kind: str) -> list[Row]:
    return list(machine.tables[kind].rows.values())


def _config(machine: Machine) -> Row:
    found = _rows(machine, "nvmet.global")
    if found:
        return found[0]
    base = f"nqn.2011-06.com.truenas:uuid:{uuid.uuid5(uuid.NAMESPACE_DNS, machine.hostname)}"
    switches = {"kernel": True, "ana": False, "rdma": False, "xport_referral": True}
    return machine.tables["nvmet.global"].add({"basenqn": base, **switches})


def _subsys(machine: Machine, row_id: int) -> Row:
    return dict(machine.tables["nvmet.subsys"].rows[row_id])


def _shown(machine: Machine, kind: str, row: Row, *, verbose: bool = False) -> Row:
    """A row as a query shows it: what it refers to stands in it whole."""
    shown = dict(row)
    if kind == "nvmet.subsys" and verbose:
        shown |= _belonging(machine, row["id"])
    if "subsys_id" in shown:
        shown["subsys"] = _subsys(machine, shown.pop("subsys_id"))
    for end in ("port", "host"):
        if f"{end}_id" in shown:
            shown[end] = dict(machine.tables[f"nvmet.{end}"].rows[shown.pop(f"{end}_id")])
    if kind == "nvmet.namespace":
        shown |= _place(machine, row)
    return shown


def _belonging(machine: Machine, subsys: int) -> Row:
    """The ids of all that belongs to a subsystem, which a query tells with `extra.verbose` only."""

    def of(kind: str, key: str) -> list[int]:
        return [row[key] for row in machine.tables[kind].where("subsys_id", subsys)]

    return {
        "hosts": of("nvmet.host_subsys", "host_id"),
        "namespaces": of("nvmet.namespace", "id"),
        "ports": of("nvmet.port_subsys", "port_id"),
    }


def _place(machine: Machine, row: Row) -> Row:
    name = str(row["device_path"]).removeprefix("zvol/").removeprefix("/mnt/")
    dataset = machine.zfs.datasets.get(name)
    told: Row = {"locked": dataset.locked if dataset is not None else False}
    if machine.number >= (26, 0):
        is_file = row["device_type"] == "FILE"
        told["dataset"] = name.rpartition("/")[0] if is_file else None
        told["relative_path"] = name.rpartition("/")[2] if is_file else None
    return told


def _exists(machine: Machine, kind: str, field: str, row_id: Any, what: str, where: str) -> None:
    if row_id not in machine.tables[kind].rows:
        raise Invalid.at(f"{where}.{field}", f"No {what} with ID {row_id}")


def _taken(machine: Machine, kind: str, row_id: int | None, **values: Any) -> Row | None:
    """Another row with these values."""
    table = machine.tables[kind]
    known = next((name for name in INDEXED if isinstance(values.get(name), str | int)), None)
    for row in table.where(known, values[known]) if known is not None else table.rows.values():
        if row["id"] != row_id and all(row[name] == value for name, value in values.items()):
            return row
    return None


def _check_subsys(machine: Machine, given: Row, where: str, row_id: int | None) -> None:
    if _taken(machine, "nvmet.subsys", row_id, name=given["name"]) is not None:
        raise Invalid.at(f"{where}.name", "Object with this name already exists", errno.EEXIST)
    base = _config(machine)["basenqn"]
    given["subnqn"] = given.get("subnqn") or f"{base}:{given['name']}"[:_LONGEST_NQN]
    given.setdefault("serial", f"{uuid.uuid4().hex[:20]}")


def _check_namespace(machine: Machine, given: Row, where: str, row_id: int | None) -> None:
    _exists(machine, "nvmet.subsys", "subsys_id", given["subsys_id"], "subsystem", where)
    subsys, nsid, path = given["subsys_id"], given["nsid"], given["device_path"]
    if nsid is not None and _taken(machine, "nvmet.namespace", row_id, subsys_id=subsys, nsid=nsid):
        text = f"This record already exists (Subsystem ID: {subsys}/NSID: {nsid})"
        raise Invalid.at(f"{where}.nsid", text)
    _check_device(machine, given, where)
    other = _taken(machine, "nvmet.namespace", row_id, device_path=path)
    if other is not None:
        name = _subsys(machine, other["subsys_id"])["name"]
        raise Invalid.at(f"{where}.device_path", f"This device_path already used by subsystem: {name}")
    # The path of an extent on a zvol is its disk.
    for extent in machine.tables["iscsi.extent"].where("path", path):
        text = f"This device_path already used by iSCSI extent: {extent['name']}"
        raise Invalid.at(f"{where}.device_path", text)
    used = {row["nsid"] for row in machine.tables["nvmet.namespace"].where("subsys_id", subsys)}
    given["nsid"] = nsid or next(number for number in range(1, len(used) + 2) if number not in used)
    given.setdefault("device_uuid", str(uuid.uuid4()))
    given.setdefault("device_nguid", str(uuid.uuid4()))


def _check_device(machine: Machine, given: Row, where: str) -> None:
    path = given["device_path"]
    if given["device_type"] != "ZVOL":
        return
    if not path.startswith("zvol/"):
        text = f'ZVOL device_path must start with "zvol/": {path}'
        raise Invalid.at(f"{where}.device_path", text)
    dataset = machine.zfs.find(path.removeprefix("zvol/"))
    if dataset is None or dataset.kind != "VOLUME":
        raise Invalid.at(f"{where}.device_path", f"ZVOL device_path must be a block device: {path}")


def _check_port(machine: Machine, given: Row, where: str, row_id: int | None) -> None:
    same = {name: given[name] for name in ("addr_trtype", "addr_traddr", "addr_trsvcid")}
    if _taken(machine, "nvmet.port", row_id, **same) is not None:
        text = "There already is a port using the same transport and address"
        raise Invalid.at(f"{where}.addr_traddr", text)
    given["addr_adrfam"] = "IPV6" if ":" in given["addr_traddr"] else "IPV4"
    given.setdefault("index", machine.tables["nvmet.port"].last + 1)


def _check_host(machine: Machine, given: Row, where: str, row_id: int | None) -> None:
    if _taken(machine, "nvmet.host", row_id, hostnqn=given["hostnqn"]) is not None:
        raise Invalid.at(f"{where}.hostnqn", "Object with this hostnqn already exists", errno.EEXIST)


def _check_port_link(machine: Machine, given: Row, where: str, row_id: int | None) -> None:
    _exists(machine, "nvmet.port", "port_id", given["port_id"], "port", where)
    _exists(machine, "nvmet.subsys", "subsys_id", given["subsys_id"], "subsystem", where)


def _check_host_link(machine: Machine, given: Row, where: str, row_id: int | None) -> None:
    _exists(machine, "nvmet.host", "host_id", given["host_id"], "host", where)
    _exists(machine, "nvmet.subsys", "subsys_id", given["subsys_id"], "subsystem", where)
    host, subsys = given["host_id"], given["subsys_id"]
    if _taken(machine, "nvmet.host_subsys", row_id, host_id=host, subsys_id=subsys) is not None:
        text = f"This record already exists (Host ID: {host}/Subsystem ID: {subsys})"
        raise Invalid.at(f"{where}.host_id", text)


_CHECKS: Mapping[str, Callable[[Machine, Row, str, int | None], None]] = {
    "nvmet.subsys": _check_subsys,
    "nvmet.namespace": _check_namespace,
    "nvmet.port": _check_port,
    "nvmet.host": _check_host,
    "nvmet.port_subsys": _check_port_link,
    "nvmet.host_subsys": _check_host_link,
}


def _defaults(machine: Machine, kind: str) -> Row:
    if kind == "nvmet.host" and machine.number >= (26, 0):
        return {**_DEFAULTS[kind], "description": ""}
    return dict(_DEFAULTS[kind])


def _linked_already(machine: Machine, kind: str, given: Row) -> Row | None:
    # The recorded driver links a port again on a retry and is answered 200, though the source of 25.10
    # has a "This record already exists" for it, which the driver would understand as well.
    if kind != "nvmet.port_subsys":
        return None
    return _taken(machine, kind, None, port_id=given["port_id"], subsys_id=given["subsys_id"])


def _create(kind: str, caller: Caller, data: Any) -> Row:
    machine, where = caller.machine, f"{kind.replace('.', '_')}_create"
    given = filled(data, _defaults(machine, kind), where=where, required=_REQUIRED[kind])
    texts(given, where, "name", "device_path", "addr_traddr", "hostnqn")
    _CHECKS[kind](machine, given, where, None)
    known = _linked_already(machine, kind, given)
    if known is not None:
        return _shown(machine, kind, known)
    row = machine.tables[kind].add(given)
    shown = _shown(machine, kind, row)
    machine.tell("added", f"{kind}.query", row["id"], shown)
    return shown


def _update(kind: str, caller: Caller, row_id: Any, data: Any) -> Row:
    machine, where = caller.machine, f"{kind.replace('.', '_')}_update"
    row = the_row(machine, kind, row_id)
    filled(data, _defaults(machine, kind), where=where)
    changed = {**row, **data}
    _CHECKS[kind](machine, changed, where, row["id"])
    machine.tables[kind].change(row["id"], changed)
    shown = _shown(machine, kind, row)
    machine.tell("changed", f"{kind}.query", row["id"], shown)
    return shown


def _register(kind: str) -> None:
    def shown(machine: Machine, row: Row) -> Row:
        return _shown(machine, kind, row)

    def verbose(machine: Machine, row: Row) -> Row:
        return _shown(machine, kind, row, verbose=True)

    def create(caller: Caller, data: Any) -> Row:
        return _create(kind, caller, data)

    def update(caller: Caller, id: Any, data: Any) -> Row:  # noqa: A002
        return _update(kind, caller, id, data)

    readable(kind, _READ, shown, verbose=verbose, since=_SINCE)
    method(f"{kind}.create", _WRITE, since=_SINCE)(create)
    method(f"{kind}.update", _WRITE, since=_SINCE)(update)


for _kind in _DEFAULTS:
    _register(_kind)


@method("nvmet.global.config", _READ, since=_SINCE)
def global_config(caller: Caller) -> Row:
    """The NVMe-oF target as a whole; `basenqn` is what the names of subsystems begin with."""
    return dict(_config(caller.machine))


@method("nvmet.global.update", _WRITE, since=_SINCE)
def global_update(caller: Caller, data: Any) -> Row:
    """Change the target's settings; subsystems that are there keep their names."""
    config = _config(caller.machine)
    given = filled(data, {name: value for name, value in config.items() if name != "id"}, where="data")
    caller.machine.tables["nvmet.global"].change(config["id"], given)
    return dict(config)


def connect_host(machine: Machine, subsys: int, hostnqn: str, address: str = "10.0.0.11") -> Row:
    """A live session of a host at a subsystem, through the first port that shows it."""
    links = machine.tables["nvmet.port_subsys"].where("subsys_id", subsys)
    port = links[0]["port_id"] if links else 1
    number = machine.tables["nvmet.session"].last + 1
    session = {"host_traddr": address, "hostnqn": hostnqn, "subsys_id": subsys, "port_id": port}
    return machine.tables["nvmet.session"].add({**session, "ctrl": number})


def disconnect_hosts(machine: Machine, subsys: int) -> None:
    """End all sessions at a subsystem."""
    table = machine.tables["nvmet.session"]
    for row in table.where("subsys_id", subsys):
        table.remove(row["id"])


def _sessions(machine: Machine) -> list[Row]:
    known = machine.tables["nvmet.subsys"].rows
    live = [row for row in _rows(machine, "nvmet.session") if row["subsys_id"] in known]
    return [{name: value for name, value in row.items() if name != "id"} for row in live]


@method("nvmet.global.sessions", _READ, since=_SINCE)
def global_sessions(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """Live sessions: which host is connected to which subsystem through which port."""
    return checked(filters, options, limited=True).apply(_sessions(caller.machine))


@method("nvmet.namespace.delete", _WRITE, since=_SINCE)
def namespace_delete(caller: Caller, id: Any, options: Any = None) -> bool:  # noqa: A002
    """Show a device no more; the zvol stays."""
    filled(options or {}, {"remove": False}, where="options")
    row = the_row(caller.machine, "nvmet.namespace", id)
    return drop(caller.machine, "nvmet.namespace", row["id"])


@method("nvmet.subsys.delete", _WRITE, since=_SINCE)
def subsys_delete(caller: Caller, id: Any, options: Any = None) -> bool:  # noqa: A002
    """Delete a subsystem; one with namespaces or ports only with `force`, and they are not told of."""
    given = filled(options or {}, {"force": False}, where="options")
    machine = caller.machine
    row = the_row(machine, "nvmet.subsys", id)
    belonging = {
        kind: machine.tables[kind].where("subsys_id", row["id"])
        for kind in ("nvmet.namespace", "nvmet.port_subsys", "nvmet.host_subsys")
    }
    if not given["force"]:
        _refuse_belonging(row, belonging["nvmet.namespace"], belonging["nvmet.port_subsys"])
    for kind, rows in belonging.items():
        for each in rows:
            machine.tables[kind].remove(each["id"])
    return drop(machine, "nvmet.subsys", row["id"])


def _refuse_belonging(subsys: Row, namespaces: list[Row], ports: list[Row]) -> None:
    where, mistakes = "nvmet_subsys_delete.id", []
    if namespaces:
        names = ",".join(str(row["nsid"]) for row in namespaces[:3])
        count = "1 namespace" if len(namespaces) == 1 else f"{len(namespaces)} namespaces"
        mistakes.append((where, f"Subsystem {subsys['name']} contains {count}: {names}", errno.EINVAL))
    if ports:
        what = "port" if len(ports) == 1 else "ports"
        text = f"Subsystem {subsys['name']} visible on {len(ports)} {what}"
        mistakes.append((where, text, errno.EINVAL))
    if mistakes:
        raise Invalid(mistakes)


def _delete_end(caller: Caller, end: str, row_id: Any, options: Any) -> bool:
    machine, kind, links = caller.machine, f"nvmet.{end}", f"nvmet.{end}_subsys"
    given = filled(options or {}, {"force": False}, where="options")
    row = the_row(machine, kind, row_id)
    used = [each for each in _rows(machine, links) if each[f"{end}_id"] == row["id"]]
    if used and not given["force"]:
        text = f"{end.capitalize()} {row['id']} is used by {len(used)} subsystem(s)"
        raise Invalid.at(f"nvmet_{end}_delete.id", text)
    for each in used:
        machine.tables[links].remove(each["id"])
    return drop(machine, kind, row["id"])


@method("nvmet.port.delete", _WRITE, since=_SINCE)
def port_delete(caller: Caller, id: Any, options: Any = None) -> bool:  # noqa: A002
    """Close a port; one that shows subsystems only with `force`."""
    return _delete_end(caller, "port", id, options)


@method("nvmet.host.delete", _WRITE, since=_SINCE)
def host_delete(caller: Caller, id: Any, options: Any = None) -> bool:  # noqa: A002
    """Forget a host; one that is admitted somewhere only with `force`."""
    return _delete_end(caller, "host", id, options)


@method("nvmet.port_subsys.delete", _WRITE, since=_SINCE)
def port_subsys_delete(caller: Caller, id: Any) -> bool:  # noqa: A002
    """Show a subsystem on a port no more."""
    row = the_row(caller.machine, "nvmet.port_subsys", id)
    return drop(caller.machine, "nvmet.port_subsys", row["id"])


@method("nvmet.host_subsys.delete", _WRITE, since=_SINCE)
def host_subsys_delete(caller: Caller, id: Any) -> bool:  # noqa: A002
    """Admit a host to a subsystem no more."""
    row = the_row(caller.machine, "nvmet.host_subsys", id)
    return drop(caller.machine, "nvmet.host_subsys", row["id"])


def namespaces_under(machine: Machine, name: str) -> list[Row]:
    """The namespaces whose device is a dataset or stands below it."""
    tops = (f"zvol/{name}", f"/mnt/{name}")
    return [row for row in _rows(machine, "nvmet.namespace") if under(str(row["device_path"]), tops)]
