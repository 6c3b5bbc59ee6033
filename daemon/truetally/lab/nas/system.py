"""The methods about the system: versions, boot id, updates, services, alerts, keys, interfaces."""

from __future__ import annotations

from typing import Any

from truetally.lab.nas.machine import ApiKey, Machine, Row
from truetally.lab.nas.query import checked
from truetally.lab.nas.table import METHODS, Caller, asked, grants, method
from truetally.lab.nas.tree import date

# What a key of 22.12 to 24.10 is shown to be allowed that was given roles instead of an allowlist.
_EVERYTHING = [{"method": "*", "resource": "*"}]


@method("system.version")
def version(caller: Caller) -> str:
    """The version with the brand."""
    return caller.machine.branded_version


@method("system.version_short")
def version_short(caller: Caller) -> str:
    """The version alone."""
    return caller.machine.full_version


@method("system.info", "READONLY_ADMIN")
def info(caller: Caller) -> Row:
    """The machine."""
    machine = caller.machine
    uptime = machine.uptime()
    return {
        "version": machine.full_version if machine.number >= (25, 4) else machine.branded_version,
        "buildtime": date(machine.started_at),
        "hostname": machine.hostname,
        "physmem": 68719476736,
        "model": "Lab",
        "cores": 8,
        "physical_cores": 4,
        "loadavg": [0.1, 0.1, 0.1],
        "uptime": str(uptime),
        "uptime_seconds": uptime.total_seconds(),
        "system_serial": None,
        "system_product": None,
        "system_product_version": None,
        "license": None,
        "boottime": date(machine.started_at),
        "datetime": date(machine.now()),
        "timezone": "UTC",
        "system_manufacturer": None,
        "ecc_memory": True,
    }


@method("system.boot_id", public=True, public_since=(24, 10))
def boot_id(caller: Caller) -> str:
    """What changes with every boot."""
    return caller.machine.boot_id


@method("system.product_type", "SYSTEM_PRODUCT_READ", public=True, public_until=(24, 10))
def product_type(caller: Caller) -> str:
    """Whose TrueNAS this is; the lab's has no license."""
    return "COMMUNITY_EDITION" if caller.machine.number >= (25, 4) else "SCALE"


@method("failover.status", "FAILOVER_READ", public=True, gap=((25, 4), (26, 0)), public_until=(25, 4))
def failover_status(caller: Caller) -> str:
    """Which half of an HA pair this is."""
    return "BACKUP" if caller.machine.standby_of else "SINGLE"


@method("failover.licensed", gap=((25, 4), (26, 0)))
def failover_licensed(caller: Caller) -> bool:
    """Whether this is half of an HA pair."""
    return bool(caller.machine.standby_of)


@method("update.status", "SYSTEM_UPDATE_READ", since=(25, 10))
def update_status(caller: Caller) -> Row:
    """What could be updated to: nothing."""
    current = {"train": f"TrueNAS-{caller.machine.version}", "profile": "GENERAL", "matches_profile": True}
    status = {"current_version": current, "new_version": None}
    return {"code": "NORMAL", "status": status, "error": None, "update_download_progress": None}


@method("interface.query", "NETWORK_INTERFACE_READ")
def interface_query(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """The network interface with the addresses that the NAS is known by."""
    query = asked(caller, filters, options)
    return query.apply([_interface(caller.machine)])


def _interface(machine: Machine) -> Row:
    addresses = [
        {"type": "INET6" if ":" in each else "INET", "address": each, "netmask": 64 if ":" in each else 24}
        for each in machine.addresses
    ]
    state: Row = {
        "name": "eno1",
        "orig_name": "eno1",
        "description": "",
        "mtu": 1500,
        "cloned": False,
        "flags": ["UP", "RUNNING"],
        "nd6_flags": [],
        "capabilities": [],
        "link_state": "LINK_STATE_UP",
        "media_type": "",
        "media_subtype": "",
        "active_media_type": "",
        "active_media_subtype": "",
        "supported_media": [],
        "media_options": None,
        "link_address": "02:00:00:00:00:01",
        "permanent_link_address": None,
        "hardware_link_address": "02:00:00:00:00:01",
        "aliases": addresses,
    }
    return {
        "id": "eno1",
        "name": "eno1",
        "fake": False,
        "type": "PHYSICAL",
        "state": state,
        "aliases": addresses,
        "ipv4_dhcp": False,
        "ipv6_auto": False,
        "description": "",
        "mtu": None,
    }


@method("service.query", "SERVICE_READ")
def service_query(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """Services and whether they run."""
    return checked(filters, options).apply(caller.machine.services.values())


@method("alert.list", "ALERT_LIST_READ")
def alert_list(caller: Caller) -> list[Row]:
    """The NAS's own alerts."""
    return list(caller.machine.alerts.values())


@method("api_key.query", "API_KEY_READ")
def api_key_query(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """The API keys, without their secrets."""
    rows = (_key_row(caller.machine, key) for key in caller.machine.keys.values())
    return checked(filters, options).apply(rows)


@method("api_key.my_keys", "API_KEY_READ", "READONLY_ADMIN", since=(25, 4))
def my_keys(caller: Caller) -> list[Row]:
    """The caller's own API keys."""
    machine = caller.machine
    return [_key_row(machine, key) for key in machine.keys.values() if key.username == caller.username]


def _key_row(machine: Machine, key: ApiKey) -> Row:
    row: Row = {"id": key.id, "name": f"key-{key.id}", "created_at": date(key.created_at)}
    if machine.number < (25, 4):
        return row | {"allowlist": _allowlist(key)}
    row |= {
        "username": key.username,
        "user_identifier": key.username,
        "expires_at": date(key.expires_at) if key.expires_at is not None else None,
        "local": True,
        "revoked": key.revoked,
    }
    if machine.number >= (25, 10):
        row["revoked_reason"] = key.revoked_reason
    if machine.number < (26, 0):
        return row | {"keyhash": "********"}
    hidden = dict.fromkeys(("salt", "stored_key", "server_key"), "********")
    return row | {"iterations": key.iterations} | hidden


def _allowlist(key: ApiKey) -> list[Row]:
    if key.allowlist is not None:
        return [grant._asdict() for grant in key.allowlist]
    if "FULL_ADMIN" in key.roles:
        return _EVERYTHING
    granted = [name for name, each in METHODS.items() if any(grants(key.roles, role) for role in each.roles)]
    return [{"method": "CALL", "resource": name} for name in sorted(granted)]
