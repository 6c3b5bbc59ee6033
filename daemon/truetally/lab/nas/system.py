"""The methods about the session and the system: logins, subscriptions, jobs, services, alerts.

A login that fails is a result, not an error; and a good key that comes over an
unencrypted transport is revoked for good (25.04+, middleware `plugins/auth.py`).
"""

from __future__ import annotations

import errno
import hmac
import uuid
from typing import Any

from truetally.lab.nas.failures import CallError, Invalid
from truetally.lab.nas.machine import ApiKey, Machine, Row, Version
from truetally.lab.nas.query import checked
from truetally.lab.nas.table import METHODS, Caller, filled, grants, method
from truetally.lab.nas.tree import date

_INSECURE = "Attempt to use over an insecure transport"
_MECHANISMS = ("API_KEY_PLAIN", "PASSWORD_PLAIN", "TOKEN_PLAIN", "SCRAM")


def _owner(machine: Machine, text: Any) -> ApiKey | None:
    """The key whose text this is."""
    number, _, secret = text.partition("-") if isinstance(text, str) else ("", "", "")
    key = machine.keys.get(int(number)) if number.isdigit() else None
    return key if key is not None and hmac.compare_digest(key.secret.encode(), secret.encode()) else None


def _try_key(caller: Caller, key: ApiKey | None, username: str | None) -> str:
    if key is None or (username is not None and key.username != username):
        return "AUTH_ERR"
    if key.expired(caller.machine.now()):
        return "EXPIRED"
    if not caller.secure and caller.machine.number >= (25, 4):
        caller.machine.revoke(key, _INSECURE)
        return "EXPIRED"
    if not key.roles:
        return "DENIED" if _version(caller) >= (26, 0) else "AUTH_ERR"
    caller.key = key
    return "SUCCESS"


def _version(caller: Caller) -> Version:
    return min(caller.pinned or caller.machine.number, caller.machine.number)


@method("auth.login_ex", public=True, since=(25, 4))
def login_ex(caller: Caller, login_data: Any) -> Row:
    """Log in; only with an API key and its owner's name."""
    mechanism = login_data.get("mechanism") if isinstance(login_data, dict) else None
    if mechanism not in _MECHANISMS:
        raise Invalid.at("login_data", "Unable to extract tag using discriminator 'mechanism'")
    if mechanism != "API_KEY_PLAIN":
        return {"response_type": "AUTH_ERR"}
    where = f"login_data.{mechanism}"
    members = {"mechanism": "", "username": "", "api_key": "", "login_options": {}}
    given = filled(login_data, members, where=where, required=["username", "api_key"])
    options: Row = {"user_info": True}
    if _version(caller) >= (26, 0):
        options["reconnect_token"] = False
    options = filled(given["login_options"], options, where=f"{where}.login_options")
    answer = _try_key(caller, _owner(caller.machine, given["api_key"]), given["username"])
    if answer != "SUCCESS":
        return {"response_type": answer}
    info = _me(caller) if options["user_info"] else None
    result: Row = {"response_type": answer, "user_info": info, "authenticator": "LEVEL_1"}
    if _version(caller) >= (26, 0):
        result["reconnect_token"] = None
    return result


@method("auth.login_with_api_key", public=True)
def login_with_api_key(caller: Caller, api_key: Any) -> bool:
    """Log in with a key alone; False for whatever reason."""
    return _try_key(caller, _owner(caller.machine, api_key), None) == "SUCCESS"


@method("auth.mechanism_choices", public=True, since=(25, 4))
def mechanism_choices(caller: Caller) -> list[str]:
    """How one can log in."""
    scram = ["SCRAM"] if caller.machine.number >= (26, 0) else []
    return ["API_KEY_PLAIN", "TOKEN_PLAIN", "PASSWORD_PLAIN", *scram]


def _me(caller: Caller) -> Row:
    return {
        "pw_name": caller.username,
        "pw_gecos": caller.username,
        "pw_dir": "/var/empty",
        "pw_shell": "/usr/sbin/nologin",
        "pw_uid": 3000,
        "pw_gid": 3000,
        "grouplist": [3000],
        "sid": None,
        "source": "LOCAL",
        "local": True,
        "attributes": {},
        "two_factor_config": {
            "provisioning_uri": None,
            "secret_configured": False,
            "interval": 30,
            "otp_digits": 6,
        },
        "privilege": {"roles": {"$set": sorted(caller.roles)}, "web_shell": False, "webui_access": False},
        "account_attributes": ["LOCAL", "API_KEY"],
    }


@method("auth.me")
def me(caller: Caller) -> Row:
    """The user who is logged in."""
    return _me(caller)


@method("auth.logout")
def logout(caller: Caller) -> bool:
    """End the login; the socket stays."""
    caller.key = None
    caller.subscriptions.clear()
    return True


@method("core.ping", public=True)
def ping(caller: Caller) -> str:
    """Answer."""
    return "pong"


@method("core.set_options", public=True, since=(25, 4))
def set_options(caller: Caller, options: Any) -> Row | None:
    """Options of this connection."""
    caller.options = filled(options, caller.options, where="options")
    return dict(caller.options) if _version(caller) >= (25, 10) else None


@method("core.subscribe", since=(25, 4))
def core_subscribe(caller: Caller, event: Any) -> str:
    """Subscribe; the answer is what `core.unsubscribe` takes."""
    ident = str(uuid.uuid4())
    subscribe(caller, ident, str(event))
    return ident


def subscribe(caller: Caller, ident: str, name: str) -> None:
    """Subscribe; a full admin may subscribe to what does not exist, and never hears of it."""
    if not may_hear(caller, name.partition(":")[0]):
        raise CallError("Not authorized", errno.EACCES)
    caller.subscriptions[ident] = name


def may_hear(caller: Caller, collection: str) -> bool:
    """Whether a session may subscribe to a collection; without a login, to none."""
    if caller.key is None:
        return False
    allowed = caller.allows("SUBSCRIBE", collection)
    if allowed is not None:
        return allowed
    if caller.full_admin or collection == "core.get_jobs":
        return True
    read = METHODS.get(collection)
    if read is None or not read.exists(caller) or not read.roles:
        return False
    return any(grants(caller.roles, role) for role in read.roles)


@method("core.unsubscribe", since=(25, 4))
def unsubscribe(caller: Caller, ident: Any) -> None:
    """End a subscription."""
    caller.subscriptions.pop(ident, None)


@method("core.get_jobs")
def get_jobs(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """Jobs; all of them for a full admin, one's own for others."""
    query = checked(filters, options, limited=caller.machine.number >= (25, 10))
    return query.apply(row for row in caller.machine.jobs if may_see_job(caller, row))


def may_see_job(caller: Caller, job: Row) -> bool:
    """Whether a job is the caller's own, or the caller may see all."""
    return caller.full_admin or bool(job["credentials"]["data"]["username"] == caller.username)


@method("core.get_methods")
def get_methods(caller: Caller, service: Any = None, target: Any = "WS") -> Row:
    """What can be called here."""
    return {
        name: {"roles": list(each.roles), "require_websocket": False, "job": False}
        for name, each in sorted(METHODS.items())
        if each.exists(caller) and (service is None or name.startswith(f"{service}."))
    }


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
        "version": machine.full_version,
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


@method("interface.query", "NETWORK_INTERFACE_READ")
def interface_query(caller: Caller, filters: Any = (), options: Any = None) -> Any:
    """The network interface with the addresses that the NAS is known by."""
    query = checked(filters, options, limited=caller.machine.number >= (25, 10))
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


def _key_row(machine: Machine, key: ApiKey) -> Row:
    row: Row = {
        "id": key.id,
        "name": f"key-{key.id}",
        "username": key.username,
        "user_identifier": key.username,
        "created_at": date(key.created_at),
        "expires_at": date(key.expires_at) if key.expires_at is not None else None,
        "local": True,
        "revoked": key.revoked,
    }
    if machine.number >= (25, 10):
        row["revoked_reason"] = key.revoked_reason
    if machine.number < (26, 0):
        return row | {"keyhash": "********"}
    return row | {
        "iterations": 500000,
        "salt": "********",
        "stored_key": "********",
        "server_key": "********",
    }
