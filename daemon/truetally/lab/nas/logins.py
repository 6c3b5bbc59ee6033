"""Logging in: by API key, password, one-time password, token and SCRAM.

A login that fails is a result, not an error. A good key that comes over an unencrypted transport is
revoked for good (25.04+, middleware `plugins/auth.py`); with SCRAM (26+) the key never comes at all.
"""

from __future__ import annotations

import errno
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from truetally.lab.nas import scram
from truetally.lab.nas.failures import CallError, Invalid
from truetally.lab.nas.machine import ApiKey, Machine, Row, Token, User, Version
from truetally.lab.nas.table import Caller, Pending, filled, method

_INSECURE = "Attempt to use over an insecure transport"
LOGIN_EX_SINCE: Version = (25, 4)
SCRAM_SINCE: Version = (26, 0)
_AUTH_ERR: Row = {"response_type": "AUTH_ERR"}
_REFUSALS = ("AUTH_ERR", "EXPIRED", "DENIED")
_YES_OR_NO = ("auth.login", "auth.login_with_api_key", "auth.login_with_token")


def owner(machine: Machine, text: Any) -> ApiKey | None:
    """The key whose text this is."""
    number, _, secret = text.partition("-") if isinstance(text, str) else ("", "", "")
    key = machine.keys.get(int(number)) if number.isdigit() else None
    return key if key is not None and hmac.compare_digest(key.secret.encode(), secret.encode()) else None


def user_of(machine: Machine, name: Any, password: Any) -> User | None:
    """The user whose password this is."""
    user = machine.users.get(name) if isinstance(name, str) else None
    if user is None or not isinstance(password, str):
        return None
    return user if hmac.compare_digest(user.password.encode(), password.encode()) else None


def _try_key(caller: Caller, key: ApiKey | None, username: str | None) -> str:
    if key is None or (username is not None and key.username != username):
        return "AUTH_ERR"
    if key.expired(caller.machine.now()):
        return "EXPIRED"
    if not caller.secure and caller.machine.number >= LOGIN_EX_SINCE:
        caller.machine.revoke(key, _INSECURE)
        return "EXPIRED"
    return _enter(caller, key)


def _enter(caller: Caller, credential: ApiKey | User | Token) -> str:
    if not credential.roles and not (isinstance(credential, ApiKey) and credential.allowlist):
        return "DENIED" if _version(caller) >= (26, 0) else "AUTH_ERR"
    # That the standby controller judges the credential before it sends its owner away is inferred.
    if caller.machine.standby_of:
        return "REDIRECT"
    caller.key, caller.logged_in_at = credential, caller.machine.now()
    return "SUCCESS"


def failed(method_name: str, answer: Any) -> bool:
    """Whether this is the answer to a login that was refused; the real NAS takes its time for one."""
    if method_name in _YES_OR_NO:
        return answer is False
    return method_name.startswith("auth.login_ex") and answer["response_type"] in _REFUSALS


def _version(caller: Caller) -> Version:
    return min(caller.pinned or caller.machine.number, caller.machine.number)


@method("auth.login_ex", public=True, since=LOGIN_EX_SINCE)
def login_ex(caller: Caller, login_data: Any) -> Row:
    """Log in by any mechanism, or go on with a login that has several steps."""
    name = login_data.get("mechanism") if isinstance(login_data, dict) else None
    if not isinstance(name, str) or name not in _MECHANISMS:
        raise Invalid.at("login_data", "Unable to extract tag using discriminator 'mechanism'")
    mechanism = _MECHANISMS[name]
    if _version(caller) < mechanism.since:
        text = f"Input tag '{name}' found using 'mechanism' does not match any of the expected tags"
        raise Invalid.at("login_data", text)
    return mechanism.run(caller, _given(caller, login_data, name, mechanism))


@method("auth.login_ex_continue", public=True, since=LOGIN_EX_SINCE)
def login_ex_continue(caller: Caller, login_data: Any) -> Row:
    """Answer OTP_REQUIRED; the same as another `auth.login_ex`."""
    if not isinstance(login_data, dict) or login_data.get("mechanism") != "OTP_TOKEN":
        raise Invalid.at("login_data.mechanism", "Input should be 'OTP_TOKEN'")
    answer: Row = login_ex(caller, login_data)
    return answer


def _given(caller: Caller, data: Row, name: str, mechanism: _Mechanism) -> Row:
    where = f"login_data.{name}"
    members: Row = {"mechanism": "", **dict.fromkeys(mechanism.members, "")}
    if mechanism.options:
        members["login_options"] = {}
    given = filled(data, members, where=where, required=mechanism.members)
    for each in mechanism.members:
        if not isinstance(given[each], str):
            raise Invalid.at(f"{where}.{each}", "Input should be a valid string")
    options: Row = {"user_info": True}
    if _version(caller) >= (26, 0):
        options["reconnect_token"] = False
    given["login_options"] = filled(given.get("login_options", {}), options, where=f"{where}.login_options")
    return given


def _outcome(caller: Caller, answer: str, given: Row) -> Row:
    if answer == "REDIRECT":
        return {"response_type": answer, "urls": list(caller.machine.standby_of)}
    if answer != "SUCCESS":
        return {"response_type": answer}
    caller.pending = None
    info = whoami(caller) if given["login_options"]["user_info"] else None
    result: Row = {"response_type": answer, "user_info": info, "authenticator": "LEVEL_1"}
    if _version(caller) >= (26, 0):
        wanted = given["login_options"]["reconnect_token"]
        result["reconnect_token"] = _new_token(caller, _TOKEN_FOR) if wanted else None
    return result


def _by_key(caller: Caller, given: Row) -> Row:
    answer = _try_key(caller, owner(caller.machine, given["api_key"]), given["username"])
    return _outcome(caller, answer, given)


def _by_password(caller: Caller, given: Row) -> Row:
    user = user_of(caller.machine, given["username"], given["password"])
    if user is None:
        return dict(_AUTH_ERR)
    if user.otp is not None:
        caller.pending = Pending(user=user)
        return {"response_type": "OTP_REQUIRED", "username": user.name}
    return _outcome(caller, _enter(caller, user), given)


def _by_otp(caller: Caller, given: Row) -> Row:
    user = caller.pending.user if caller.pending is not None else None
    if user is None or user.otp is None:
        # The text of this refusal is inferred.
        raise CallError("OTP_TOKEN: no login is in progress that needs a one-time password", errno.EINVAL)
    caller.pending = None
    if not hmac.compare_digest(user.otp.encode(), given["otp_token"].encode()):
        return dict(_AUTH_ERR)
    return _outcome(caller, _enter(caller, user), given)


def _by_token(caller: Caller, given: Row) -> Row:
    token = _token(caller.machine, given["token"])
    return dict(_AUTH_ERR) if token is None else _outcome(caller, _enter(caller, token), given)


def _by_scram(caller: Caller, given: Row) -> Row:
    try:
        if given["scram_type"] == "CLIENT_FIRST_MESSAGE":
            return _scram_first(caller, given["rfc_str"])
        if given["scram_type"] == "CLIENT_FINAL_MESSAGE":
            return _scram_final(caller, given["rfc_str"])
    except scram.BadMessage:
        # What PAM makes of a broken message is inferred.
        return dict(_AUTH_ERR)
    expected = "Input should be 'CLIENT_FIRST_MESSAGE' or 'CLIENT_FINAL_MESSAGE'"
    raise Invalid.at("login_data.SCRAM.scram_type", expected)


def _scram_first(caller: Caller, text: str) -> Row:
    asked = scram.ClientFirst.read(text)
    key = caller.machine.keys.get(asked.key_id)
    if key is None or key.username != asked.username:
        return dict(_AUTH_ERR)
    if key.expired(caller.machine.now()):
        # Told at the first step, as no key of this number is in the user's keyring (inferred).
        return {"response_type": "EXPIRED"}
    exchange = scram.Exchange(asked, scram.Verifier(key))
    caller.pending = Pending(key=key, exchange=exchange)
    return _scram_answer("SERVER_FIRST_RESPONSE", exchange.first, None)


def _scram_final(caller: Caller, text: str) -> Row:
    pending, caller.pending = caller.pending, None
    if pending is None or pending.exchange is None or pending.key is None:
        raise CallError("SCRAM authentication is not in progress")
    final = pending.exchange.finish(text)
    if final is None:
        return dict(_AUTH_ERR)
    answer = _enter(caller, pending.key)
    if answer != "SUCCESS":
        return _outcome(caller, answer, {})
    return _scram_answer("SERVER_FINAL_RESPONSE", final, whoami(caller))


def _scram_answer(kind: str, text: str, info: Row | None) -> Row:
    return {"response_type": "SCRAM_RESPONSE", "scram_type": kind, "rfc_str": text, "user_info": info}


@dataclass(frozen=True, slots=True)
class _Mechanism:
    run: Callable[[Caller, Row], Row]
    members: tuple[str, ...]
    options: bool = True
    since: Version = LOGIN_EX_SINCE


_MECHANISMS = {
    "API_KEY_PLAIN": _Mechanism(_by_key, ("username", "api_key")),
    "PASSWORD_PLAIN": _Mechanism(_by_password, ("username", "password")),
    "OTP_TOKEN": _Mechanism(_by_otp, ("otp_token",)),
    "TOKEN_PLAIN": _Mechanism(_by_token, ("token",)),
    "SCRAM": _Mechanism(_by_scram, ("scram_type", "rfc_str"), options=False, since=SCRAM_SINCE),
}


# The methods that only say yes or no.


@method("auth.login", public=True)
def login(caller: Caller, username: Any, password: Any, otp_token: Any = None) -> bool:
    """Log in with a password, and a one-time password where the user has one."""
    user = user_of(caller.machine, username, password)
    if user is None or (user.otp is not None and user.otp != otp_token):
        return False
    return _enter(caller, user) == "SUCCESS"


@method("auth.login_with_api_key", public=True)
def login_with_api_key(caller: Caller, api_key: Any) -> bool:
    """Log in with a key alone; False for whatever reason."""
    return _try_key(caller, owner(caller.machine, api_key), None) == "SUCCESS"


@method("auth.login_with_token", public=True)
def login_with_token(caller: Caller, token: Any) -> bool:
    """Log in with what `auth.generate_token` gave."""
    found = _token(caller.machine, token)
    return found is not None and _enter(caller, found) == "SUCCESS"


_TOKEN_FOR = timedelta(seconds=600)


@method("auth.generate_token")
def generate_token(
    caller: Caller, ttl: Any = 600, attrs: Any = None, match_origin: Any = True, single_use: Any = False
) -> str:
    """A token that logs the same user in for `ttl` seconds; the lab asks for no origin."""
    lasting = _TOKEN_FOR if ttl is None else timedelta(seconds=float(ttl))
    return _new_token(caller, lasting, single_use=bool(single_use))


def _new_token(caller: Caller, lasting: timedelta, *, single_use: bool = False) -> str:
    text = secrets.token_urlsafe(48)
    until = caller.machine.now() + lasting
    caller.machine.tokens[text] = Token(caller.username, caller.roles, until, single_use)
    return text


def _token(machine: Machine, text: Any) -> Token | None:
    found = machine.tokens.get(text) if isinstance(text, str) else None
    if found is None or found.expires_at <= machine.now():
        return None
    if found.single_use:
        del machine.tokens[text]
    return found


@method("auth.mechanism_choices", public=True, since=LOGIN_EX_SINCE)
def mechanism_choices(caller: Caller) -> list[str]:
    """How one can log in."""
    scrambled = ["SCRAM"] if caller.machine.number >= SCRAM_SINCE else []
    return ["API_KEY_PLAIN", "TOKEN_PLAIN", "PASSWORD_PLAIN", *scrambled]


@method("auth.me")
def me(caller: Caller) -> Row:
    """The user who is logged in."""
    return whoami(caller)


def whoami(caller: Caller) -> Row:
    """The user who is logged in, as the version tells it."""
    number = caller.machine.number
    base: Row = {
        "pw_name": caller.username,
        "pw_gecos": caller.username,
        "pw_dir": "/var/empty",
        "pw_shell": "/usr/sbin/nologin",
        "pw_uid": 3000,
        "pw_gid": 3000,
        "grouplist": [3000],
    }
    user = caller.key if isinstance(caller.key, User) else None
    factor = {"two_factor_config": _NO_OTP | {"secret_configured": user is not None and user.otp is not None}}
    if number < (24, 10):
        attributes: Row = {"attributes": {}} if number >= (23, 10) else {}
        return base | {"sid_info": {}} | attributes | (factor if number >= (24, 4) else {})
    base |= {"sid": None, "source": "LOCAL", "local": True, "attributes": {}} | factor
    if number < LOGIN_EX_SINCE:
        return base
    roles = {"$set": sorted(caller.roles)}
    how = ["API_KEY"] if isinstance(caller.key, ApiKey) else []
    return base | {
        "privilege": {"roles": roles, "web_shell": False, "webui_access": False},
        "account_attributes": ["LOCAL", *how],
    }


_NO_OTP: Row = {"provisioning_uri": None, "secret_configured": False, "interval": 30, "otp_digits": 6}


@method("auth.logout")
def logout(caller: Caller) -> bool:
    """End the login; the socket stays."""
    caller.log_out()
    return True
