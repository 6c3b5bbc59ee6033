"""The method table: what can be called, since when, by whom; independent of the wire.

A method takes its caller and the positional parameters, and returns the result or
raises a refusal. The wire that carried the call (JSON-RPC, `/websocket`, REST) stays outside.
"""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from truetally.lab.nas.failures import ENOTAUTHENTICATED, CallError, Invalid, MethodMissing
from truetally.lab.nas.machine import ApiKey, Machine, Token, User, Version
from truetally.lab.nas.query import Query, checked
from truetally.lab.nas.scram import Exchange

_NEVER: Version = (99, 0)
_SHARING = ("SHARING_NFS_", "SHARING_SMB_", "SHARING_ISCSI_", "SHARING_NVME_TARGET_")
# What a composite role brings besides what its own name matches.
_SHARING_ADMIN = frozenset(("DATASET_READ", "DATASET_WRITE", "SERVICE_READ", "POOL_READ", "READONLY_ADMIN"))
# The methods that an endpoint pinned to 25.04 loses on a newer server: their models came with 25.10
# (middleware 25.10 `api/base/server/legacy_api_method.py`).
_WITHOUT_OLD_MODEL = (
    "core.bulk",
    "core.job_wait",
    "pool.query",
    "pool.get_instance",
    "pool.dataset.",
    "pool.snapshot.",
    "replication.",
    "zfs.",
    "sharing.smb.",
    "service.query",
    "interface.query",
    "system.",
    "nfs.get_",
    "nfs.client_count",
    "smb.status",
    "core.get_",
)

_WITH_OLD_MODEL = ("pool.dataset.destroy_snapshots", "pool.dataset.snapshot_count")

# The methods that are jobs, in every version that has them (25.04 and newer do not tell; taken from 24.10).
JOBS = frozenset(
    (
        "audit.export",
        "core.bulk",
        "core.job_wait",
        "filesystem.chown",
        "filesystem.setacl",
        "filesystem.setperm",
        "pool.dataset.destroy_snapshots",
        "pool.dataset.encryption_summary",
        "pool.dataset.export_key",
        "pool.dataset.lock",
        "pool.dataset.unlock",
        "pool.export",
        "pool.import_find",
        "pool.import_pool",
        "pool.scrub.scrub",
        "replication.run",
        "replication.run_onetime",
        "service.control",
        "zpool.scrub.run",
    )
)

# The arguments that came later than their methods.
_ARGUMENTS_SINCE: Mapping[str, Mapping[str, Version]] = {
    "iscsi.target.delete": {"delete_extents": (25, 4)},
}

# What 25.04 asked more for than the versions after it.
_ROLES_OF_25_04 = {"smb.status": ("READONLY_ADMIN", "SHARING_SMB_WRITE")}


@dataclass(slots=True)
class Pending:
    """A login of a session that has more than one step.

    Attributes:
        user: whose one-time password is asked for.
        key: whose SCRAM proof is asked for, with the exchange.
    """

    user: User | None = None
    key: ApiKey | None = None
    exchange: Exchange | None = None


@dataclass(slots=True)
class Caller:
    """Who calls: the session's login, options and subscriptions.

    Attributes:
        key: what the session has logged in with; None before.
        secure: the transport is encrypted or local; a key used otherwise is revoked.
        logged_in_at: when it did, by the clock of the machine.
        pinned: the version of an `/api/vX` endpoint, None for the current one.
    """

    machine: Machine
    secure: bool = True
    pinned: Version | None = None
    key: ApiKey | User | Token | None = None
    logged_in_at: datetime | None = None
    options: dict[str, bool] = field(
        default_factory=lambda: {"legacy_jobs": True, "private_methods": False, "py_exceptions": False}
    )
    subscriptions: dict[str, str] = field(default_factory=dict)
    pending: Pending | None = None

    def log_out(self) -> None:
        """End the login and all that came with it; the socket stays."""
        self.key = self.logged_in_at = self.pending = None
        self.subscriptions.clear()

    @property
    def roles(self) -> frozenset[str]:
        """The roles of the user who is logged in."""
        return self.key.roles if self.key is not None else frozenset()

    @property
    def full_admin(self) -> bool:
        """Whether nothing is forbidden."""
        return "FULL_ADMIN" in self.roles

    @property
    def username(self) -> str:
        """The user who is logged in."""
        if self.key is None:
            return ""
        return self.key.name if isinstance(self.key, User) else self.key.username

    def allows(self, kind: str, name: str) -> bool | None:
        """What the allowlist of an old API key says; None where there is none and roles count.

        Args:
            kind: CALL or SUBSCRIBE, or the HTTP method of a REST request with its path as `name`.
        """
        allowlist = self.key.allowlist if isinstance(self.key, ApiKey) else None
        if allowlist is None:
            return None
        return any(grant.method in (kind, "*") and fnmatchcase(name, grant.resource) for grant in allowlist)


@dataclass(frozen=True, slots=True)
class Method:
    """One method; `roles` any one of which suffices, none meaning any session.

    Attributes:
        public: it needs no login, from `public_since` to before `public_until`.
        gap: the versions that had lost it, from the first to before the second.
    """

    name: str
    run: Callable[..., Any]
    roles: tuple[str, ...] = ()
    public: bool = False
    since: Version = (0, 0)
    until: Version = _NEVER
    absent_in: Version | None = None
    gap: tuple[Version, Version] | None = None
    public_since: Version = (0, 0)
    public_until: Version = _NEVER

    @property
    def job(self) -> bool:
        """Whether a call only starts a job: it runs to the job's number."""
        return self.name in JOBS

    def accepts(self, version: Version) -> list[inspect.Parameter]:
        """What it takes in a version."""
        later = _ARGUMENTS_SINCE.get(self.name, {})
        accepted = list(inspect.signature(self.run).parameters.values())[1:]
        return [each for each in accepted if later.get(each.name, version) <= version]

    def is_public(self, caller: Caller) -> bool:
        """Whether it needs no login here."""
        return self.public and self.public_since <= caller.machine.number < self.public_until

    def exists(self, caller: Caller) -> bool:
        """Whether the caller's version and endpoint have it."""
        number, pinned = caller.machine.number, caller.pinned
        if not self._is_in(number):
            return False
        if pinned is None or pinned >= number:
            return True
        modelled = not self.name.startswith(_WITHOUT_OLD_MODEL) or self.name in _WITH_OLD_MODEL
        return self._is_in(pinned) and (modelled or pinned >= (25, 10) or number < (25, 10))

    def _is_in(self, version: Version) -> bool:
        if not self.since <= version < self.until or version == self.absent_in:
            return False
        return self.gap is None or not self.gap[0] <= version < self.gap[1]


METHODS: dict[str, Method] = {}


def method(
    name: str,
    *roles: str,
    public: bool = False,
    since: Version = (0, 0),
    until: Version = _NEVER,
    absent_in: Version | None = None,
    gap: tuple[Version, Version] | None = None,
    public_since: Version = (0, 0),
    public_until: Version = _NEVER,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the table."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        METHODS[name] = Method(
            name, run, roles, public, since, until, absent_in, gap, public_since, public_until
        )
        return run

    return register


def grants(roles: Iterable[str], needed: str) -> bool:
    """Whether roles include the needed one, by the rules of the role manager."""
    return any(_implies(role, needed) for role in roles)


def _implies(role: str, needed: str) -> bool:
    if role in (needed, "FULL_ADMIN"):
        return True
    if role == "READONLY_ADMIN":
        return needed.endswith("_READ")
    if role in ("SHARING_ADMIN", "SHARING_READ", "SHARING_WRITE"):
        write = role != "SHARING_READ"
        shares = needed.startswith(_SHARING) and (write or needed.endswith("_READ"))
        return shares or (role == "SHARING_ADMIN" and needed in _SHARING_ADMIN)
    stem, _, kind = role.rpartition("_")
    same = needed.startswith(f"{stem}_")
    return same and (needed.endswith("_READ") if kind == "READ" else kind == "WRITE" and _not_delete(needed))


def _not_delete(needed: str) -> bool:
    return needed.endswith(("_READ", "_WRITE"))


def find(caller: Caller, name: str) -> Method:
    """The method as this caller may reach it, or the refusal."""
    found = METHODS.get(name)
    if found is None or not found.exists(caller):
        raise MethodMissing(name, service_known=_has_service(caller, name.rpartition(".")[0]))
    if found.is_public(caller):
        return found
    if caller.key is None:
        raise CallError("Not authenticated", ENOTAUTHENTICATED)
    if not _permitted(caller, found):
        raise CallError("Not authorized", errno.EACCES)
    return found


def _has_service(caller: Caller, service: str) -> bool:
    return any(name.startswith(f"{service}.") and each.exists(caller) for name, each in METHODS.items())


def _permitted(caller: Caller, found: Method) -> bool:
    allowed = caller.allows("CALL", found.name)
    if allowed is not None:
        return allowed or not found.roles
    # From 25.10 on zfs.snapshot.* is private: it still answers, to a FULL_ADMIN only.
    if found.name.startswith("zfs.snapshot.") and caller.machine.number >= (25, 10):
        return caller.full_admin
    roles = found.roles
    if caller.machine.number < (25, 10):
        roles = _ROLES_OF_25_04.get(found.name, roles)
    return not roles or any(grants(caller.roles, role) for role in roles)


def call(caller: Caller, name: str, params: Sequence[Any]) -> Any:
    """Run a method for a caller."""
    found = find(caller, name)
    accepted = found.accepts(caller.machine.number)
    needed = sum(1 for each in accepted if each.default is inspect.Parameter.empty)
    if len(params) > len(accepted):
        raise Invalid.at("", f"Too many arguments (expected {len(accepted)}, found {len(params)})")
    if len(params) < needed:
        raise Invalid.at(accepted[len(params)].name, "Field required")
    return found.run(caller, *params)


def asked(caller: Caller, filters: Any, options: Any) -> Query:
    """The query that filters and options mean in the caller's version, which may limit it, or Invalid."""
    return checked(filters, options, limited=caller.machine.number >= (25, 10))


def filled(
    given: Any, defaults: Mapping[str, Any], *, where: str, required: Iterable[str] = ()
) -> dict[str, Any]:
    """An object with its defaults; unknown and missing members are refused as the real models do."""
    if not isinstance(given, dict):
        raise Invalid.at(where, "Input should be a valid dictionary")
    for name in given:
        if name not in defaults:
            raise Invalid.at(f"{where}.{name}", "Extra inputs are not permitted")
    for name in required:
        if name not in given:
            raise Invalid.at(f"{where}.{name}", "Field required")
    return {**defaults, **given}
