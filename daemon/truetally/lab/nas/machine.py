"""One NAS, as its middleware knows it: ZFS, shares, iSCSI, services, alerts, keys and jobs.

Nothing here knows of the wire. Whoever changes the machine through its methods
makes events; whoever changes ZFS underneath (SSH, replication, a CSI driver over
SSH) makes none but the removals that the kernel reports.
"""

from __future__ import annotations

import errno
import secrets
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

from truetally.clock import Clock, SystemClock
from truetally.lab.nas.failures import CallError
from truetally.lab.nas.tree import date
from truetally.lab.nas.zfs import Zfs

Row = dict[str, Any]
Version = tuple[int, int]
_ALPHABET = string.ascii_letters + string.digits
# What a new key is hashed with: the least that the real server and client accept, as this is a lab (the real
# default is 500,000).
ITERATIONS = 50_000
# Whose key and password the lab tells at its start.
ADMINISTRATOR = "root"
BASENAME = "iqn.2005-10.org.freenas.ctl"
VERSIONS: Mapping[str, Version] = {
    "22.12": (22, 12),
    "23.10": (23, 10),
    "24.04": (24, 4),
    "24.10": (24, 10),
    "25.04": (25, 4),
    "25.10": (25, 10),
    "26.0": (26, 0),
}
_FULL_VERSIONS = {
    "22.12": "22.12.4.2",
    "23.10": "23.10.2",
    "24.04": "24.04.2.5",
    "24.10": "24.10.2.4",
    "25.04": "25.04.2.6",
    "25.10": "25.10.5",
    "26.0": "26.0.0",
}
TABLES = (
    "sharing.nfs",
    "sharing.smb",
    "iscsi.portal",
    "iscsi.initiator",
    "iscsi.target",
    "iscsi.extent",
    "iscsi.targetextent",
    "nvmet.global",
    "nvmet.subsys",
    "nvmet.namespace",
    "nvmet.port",
    "nvmet.host",
    "nvmet.port_subsys",
    "nvmet.host_subsys",
    "nvmet.session",
    "pool.snapshottask",
    "replication",
    "filesystem",
)


class Grant(NamedTuple):
    """One entry of an allowlist: a kind of request (or `*`), and a glob of what it may name."""

    method: str
    resource: str


@dataclass(slots=True)
class User:
    """Who logs in with a password.

    Attributes:
        otp: the one-time password that is asked for after the other one, if any.
    """

    name: str
    password: str
    roles: frozenset[str]
    otp: str | None = None


@dataclass(slots=True)
class ApiKey:
    """A key. From 25.04 on it is a user's, and may do what the user's roles say.

    Attributes:
        allowlist: what a key of 22.12 to 24.10 may do; None is what its roles would let it.
        salt: of the SCRAM verifier, with the number of `iterations` (26+).
    """

    id: int
    username: str
    secret: str
    roles: frozenset[str]
    created_at: datetime
    expires_at: datetime | None = None
    revoked: bool = False
    revoked_reason: str | None = None
    allowlist: tuple[Grant, ...] | None = None
    salt: bytes = field(default_factory=lambda: secrets.token_bytes(16))
    iterations: int = ITERATIONS

    @property
    def text(self) -> str:
        """What the user keeps: the id and the secret."""
        return f"{self.id}-{self.secret}"

    def expired(self, now: datetime) -> bool:
        """Whether it may not be used any more."""
        return self.revoked or (self.expires_at is not None and self.expires_at <= now)


@dataclass(frozen=True, slots=True)
class Event:
    """What a subscriber of `collection` is told; `fields` only where the version sends them."""

    msg: str
    collection: str
    id: Any = None
    fields: Row | None = None
    extra: Row | None = None

    def params(self) -> Row:
        """The params of `collection_update`."""
        told: Row = {"msg": self.msg, "collection": self.collection}
        if self.id is not None:
            told["id"] = self.id
        if self.fields is not None:
            told["fields"] = self.fields
        if self.extra is not None:
            told["extra"] = self.extra
        return told


@dataclass(frozen=True, slots=True)
class Token:
    """What `auth.generate_token` gave: a login of the same user for a while."""

    username: str
    roles: frozenset[str]
    expires_at: datetime
    single_use: bool = False


def _secret() -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(64))


INDEXED = ("name", "path", "target", "extent", "subsys_id", "device_path", "hostnqn")
# The index of names for those who do not tell large letters from small ones.
FOLDED = "folded name"


def _keys(row: Row) -> Iterator[tuple[str, Any]]:
    yield from ((name, row[name]) for name in INDEXED if name in row)
    if "name" in row:
        yield FOLDED, str(row["name"]).casefold()


def _services(version: Version) -> tuple[str, ...]:
    return ("nfs", "cifs", "iscsitarget", "ssh", "snmp", *(["nvmet"] if version >= (25, 10) else []))


class Table:
    """The rows of one kind by id, indexed by what they are looked up by; ids are never used twice."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.last = 0
        self._index: dict[tuple[str, Any], set[int]] = {}

    def add(self, row: Row) -> Row:
        """Keep a row under the next id."""
        self.last += 1
        kept = {"id": self.last, **row}
        self.rows[self.last] = kept
        self._enter(kept)
        return kept

    def change(self, row_id: int, changes: Row) -> Row:
        """Change a row."""
        row = self.rows[row_id]
        self._leave(row)
        row.update(changes)
        self._enter(row)
        return row

    def remove(self, row_id: int) -> None:
        """Forget a row, if it is there."""
        row = self.rows.pop(row_id, None)
        if row is not None:
            self._leave(row)

    def where(self, field: str, value: Any) -> list[Row]:
        """The rows with this value in an indexed field, or with this name but for its case (FOLDED)."""
        return [self.rows[row_id] for row_id in sorted(self._index.get((field, value), ()))]

    def _enter(self, row: Row) -> None:
        for key in _keys(row):
            self._index.setdefault(key, set()).add(row["id"])

    def _leave(self, row: Row) -> None:
        for key in _keys(row):
            self._index[key].discard(row["id"])
            if not self._index[key]:
                del self._index[key]


class Machine:
    """The state of one NAS and the events that changing it makes."""

    def __init__(
        self, version: str = "25.10", *, hostname: str = "lab-nas", now: Clock | Callable[[], datetime] | None
    ) -> None:
        if version not in VERSIONS:
            raise ValueError(f"the lab knows no TrueNAS {version}; use one of {', '.join(VERSIONS)}")
        self.version = version
        self.number: Version = VERSIONS[version]
        self.hostname = hostname
        clock = SystemClock() if now is None else now
        self.now: Callable[[], datetime] = clock if callable(clock) else clock.now
        self.started_at = self.now()
        self.zfs = Zfs(self.now)
        self.tables = {name: Table() for name in TABLES}
        self.keys: dict[int, ApiKey] = {}
        self.users: dict[str, User] = {}
        self.tokens: dict[str, Token] = {}
        self.boot_id = str(uuid4())
        self.standby_of: list[str] = []
        self.addresses = ["127.0.0.1"]
        self.basename = BASENAME
        self.sessions: list[Row] = []
        self.nfs3_clients: list[Row] = []
        self.nfs4_clients: list[Row] = []
        self.smb_clients: list[Row] = []
        self.processes: dict[str, list[Row]] = {}
        self.jobs: list[Row] = []
        self.alerts: dict[str, Row] = {}
        self.services = {
            name: {"id": number, "service": name, "enable": True, "state": "RUNNING", "pids": [1000 + number]}
            for number, name in enumerate(_services(self.number), start=1)
        }
        self.listeners: list[Callable[[Event], None]] = []

    @property
    def full_version(self) -> str:
        """`system.version_short`."""
        return _FULL_VERSIONS[self.version]

    @property
    def branded_version(self) -> str:
        """`system.version`; up to 24.10 the brand had another word."""
        brand = "TrueNAS" if self.number >= (25, 4) else "TrueNAS-SCALE"
        return f"{brand}-{self.full_version}"

    @property
    def crud_fields(self) -> bool:
        """Whether generic CRUD events carry the object."""
        return self.number < (23, 10) or self.number >= (25, 10)

    @property
    def old_engine(self) -> bool:
        """Whether datasets are read by py-libzfs."""
        return self.number < (25, 10)

    def emit(self, event: Event) -> None:
        """Tell everyone who listens."""
        for listener in list(self.listeners):
            listener(event)

    def tell(self, msg: str, collection: str, row_id: Any, fields: Row | None = None) -> None:
        """Emit a generic CRUD event; from 23.10 to 25.04 it carries nothing but the id.

        22.12 tells a removal twice, first as a change that has cleared the object.
        """
        known = fields if self.crud_fields and msg != "removed" else None
        if msg == "removed" and self.number < (23, 10):
            self.emit(Event("changed", collection, row_id, extra={"cleared": True}))
        self.emit(Event(msg, collection, row_id, known))

    def removed(self, paths: Iterable[str]) -> None:
        """Emit what the kernel's history tells of destroyed datasets and (id with `@`) snapshots."""
        for path in paths:
            self.emit(Event("removed", "pool.dataset.query", path))

    def add_key(
        self,
        username: str = "truetally",
        roles: Iterable[str] = ("READONLY_ADMIN",),
        *,
        expires_at: datetime | None = None,
        allowlist: Iterable[tuple[str, str]] | None = None,
        text: str | None = None,
    ) -> ApiKey:
        """A new API key.

        Args:
            allowlist: (method, resource glob) pairs, for 22.12 to 24.10.
            text: the whole key, `id-secret`, instead of one by chance.

        Raises:
            ValueError: the text is not such a key.
        """
        number, secret = max(self.keys, default=0) + 1, _secret()
        if text is not None:
            given, _, secret = text.partition("-")
            if not given.isdecimal() or not secret:
                raise ValueError("an API key is a number, a dash and the secret, like 1-abc")
            number = int(given)
        granted = None if allowlist is None else tuple(Grant(*each) for each in allowlist)
        self.keys[number] = ApiKey(
            number, username, secret, frozenset(roles), self.now(), expires_at, allowlist=granted
        )
        return self.keys[number]

    def add_user(
        self, name: str, password: str, roles: Iterable[str] = ("FULL_ADMIN",), *, otp: str | None = None
    ) -> User:
        """A user who logs in with a password, or another password for one who is there."""
        self.users[name] = User(name, password, frozenset(roles), otp)
        return self.users[name]

    def revoke(self, key: ApiKey, reason: str = "Revoked by an administrator") -> None:
        """Take a key away for good."""
        key.revoked, key.revoked_reason = True, reason
        key.expires_at = datetime.fromtimestamp(0, UTC)
        self.raise_alert(
            "ApiKeyRevoked", "WARNING", f"API key {key.id} of {key.username} was revoked: {reason}"
        )

    def raise_alert(self, klass: str, level: str, text: str) -> Row:
        """An alert of the NAS, told to subscribers."""
        uuid = f"00000000-0000-4000-8000-{len(self.alerts) + 1:012d}"
        at = date(self.now())
        row = {
            "id": uuid,
            "uuid": uuid,
            "source": "",
            "klass": klass,
            "args": None,
            "node": "Controller A",
            "key": f'"{klass}"',
            "datetime": at,
            "last_occurrence": at,
            "dismissed": False,
            "mail": None,
            "text": text,
            "level": level,
            "formatted": text,
            "one_shot": False,
        }
        self.alerts[uuid] = row
        self.emit(Event("added", "alert.list", uuid, row))
        return row

    def clear_alert(self, uuid: str) -> None:
        """The alert's cause is gone."""
        if self.alerts.pop(uuid, None) is None:
            raise CallError(f"there is no alert {uuid}", errno.ENOENT)
        self.emit(Event("removed", "alert.list", uuid))

    def start_job(
        self, method: str, arguments: list[Any], *, username: str = "root", api_key: str = ""
    ) -> Row:
        """A job that runs until `finish_job`."""
        row: Row = {
            "id": len(self.jobs) + 1,
            "message_ids": [],
            "method": method,
            "arguments": arguments,
            "transient": False,
            "description": None,
            "abortable": False,
            "logs_path": None,
            "logs_excerpt": None,
            "progress": {"percent": 0, "description": "", "extra": None},
            "result": None,
            "result_encoding_error": None,
            "error": None,
            "exception": None,
            "exc_info": None,
            "state": "RUNNING",
            "time_started": date(self.now()),
            "time_finished": None,
            "credentials": {
                "type": "API_KEY" if api_key else "LOGIN_PASSWORD",
                "data": {"username": username},
            },
        }
        self.jobs.append(row)
        self.emit(Event("added", "core.get_jobs", row["id"], row))
        return row

    def finish_job(self, job: Row, result: Any = None) -> None:
        """Let a job succeed."""
        job.update(state="SUCCESS", result=result, time_finished=date(self.now()))
        self.emit(Event("changed", "core.get_jobs", job["id"], dict(job)))

    def set_service(self, name: str, *, running: bool) -> None:
        """Start or stop a service through the API: the event of this has no id."""
        row = self.services.get(name)
        if row is None:
            raise CallError(f"there is no service {name}; there are {', '.join(self.services)}", errno.ENOENT)
        row.update(state="RUNNING" if running else "STOPPED", pids=[1000] if running else [])
        self.emit(Event("changed", "service.query", None, dict(row)))

    def connect_initiator(self, target: str, initiator: str, address: str = "10.0.0.11") -> Row:
        """A live iSCSI session of an initiator at a target."""
        row = {
            "initiator": initiator,
            "initiator_addr": address,
            "initiator_alias": None,
            "target": f"{self.basename}:{target}",
            "target_alias": "",
            "header_digest": None,
            "data_digest": None,
            "max_data_segment_length": 262144,
            "max_receive_data_segment_length": 262144,
            "max_xmit_data_segment_length": 262144,
            "max_burst_length": 262144,
            "first_burst_length": 65536,
            "immediate_data": True,
            "iser": False,
            "offload": False,
        }
        self.sessions.append(row)
        return row

    def disconnect_initiators(self, target: str) -> None:
        """End all sessions at a target."""
        iqn = f"{self.basename}:{target}"
        self.sessions[:] = [session for session in self.sessions if session["target"] != iqn]

    def uptime(self) -> timedelta:
        """Since when the machine runs."""
        return self.now() - self.started_at
