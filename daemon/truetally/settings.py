"""The settings: what an operator may say, with the meaning and the default of each.

They come from one YAML file, overridden by environment variables, and are
checked as a whole before anything starts (`truetally.configuration`).
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from truetally.model.findings import Severity
from truetally.model.refs import TRUENAS_KINDS

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = r"^(\d+(\.\d+)?(ms|s|m|h|d|w))+$"


def _duration(value: Any) -> Any:
    """`90s`, `10m`, `1h30m`, `2d`; a bare number is refused, because nobody knows its unit."""
    if isinstance(value, timedelta):
        return value
    text = str(value).strip()
    if not re.fullmatch(_DURATION, text):
        raise ValueError("a duration is written with its unit, like 90s, 10m, 1h30m or 2d")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhdw])", text)
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError:
        raise ValueError("a duration of more than a thousand million days") from None


def written(duration: timedelta) -> str:
    """A duration as the config file has it: the inverse of reading it."""
    if duration % timedelta(seconds=1):
        return f"{duration // timedelta(milliseconds=1)}ms"
    seconds = duration // timedelta(seconds=1)
    for unit in ("w", "d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{seconds}s"


def _passing(duration: timedelta) -> timedelta:
    if not duration:
        raise ValueError("has to be longer than zero")
    return duration


Duration = Annotated[
    timedelta,
    BeforeValidator(_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION, "examples": ["90s", "10m", "1h30m", "2d"]}),
]
Interval = Annotated[Duration, AfterValidator(_passing)]


def anchored(path: Path, directory: Path) -> Path:
    """The path as it is meant: `~` is the home, a relative one starts at the config file's folder."""
    try:
        return directory / path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path} begins with the home of a user who has none here") from None


def _meant(path: Path, info: ValidationInfo) -> Path:
    if "\0" in str(path):
        raise ValueError("holds a NUL character")
    # Only the loader knows where the config file stands; elsewhere a path is taken as it is.
    directory = (info.context or {}).get("directory")
    return anchored(path, directory) if directory is not None else path


def _existing(path: Path, info: ValidationInfo) -> Path:
    if (info.context or {}).get("directory") is None:
        return path
    try:
        exists, is_directory = path.exists(), path.is_dir()
    except OSError:
        # Whoever checks a configuration need not be who will run with it.
        return path
    if not exists:
        raise ValueError(f"{path} does not exist")
    if is_directory:
        raise ValueError(f"{path} is a directory, not a file")
    return path


AnyPath = Annotated[Path, AfterValidator(_meant)]
ExistingFile = Annotated[AnyPath, AfterValidator(_existing)]
Name = Annotated[str, Field(min_length=1)]
Percent = Annotated[float, Field(gt=0, le=100)]


def _variable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        # It may be the secret itself that stands here by mistake, so it is not repeated.
        raise ValueError("has to be the name of an environment variable: letters, digits and _")
    return name


VariableName = Annotated[Name, AfterValidator(_variable_name)]


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    on_loopback = _loopback(host.removeprefix("[").removesuffix("]"))
    if not on_loopback or not port.isdecimal() or int(port) > 65535:
        raise ValueError("has to be a loopback address with its port, like 127.0.0.1:8080")
    return text


Address = Annotated[str, AfterValidator(_address)]


def _dataset(path: str) -> str:
    if path.startswith("/mnt/") or path == "/mnt":
        raise ValueError("is the name of a dataset, not where it is mounted: leave out /mnt/")
    if path.startswith("/") or path.endswith("/") or "//" in path:
        raise ValueError("is the name of a dataset, like tank/k8s/volumes: no slash before, after or doubled")
    if "@" in path:
        raise ValueError("is the name of a dataset, not of a snapshot: leave out what follows the @")
    return path


Dataset = Annotated[Name, AfterValidator(_dataset)]


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _nas_url(text: str) -> str:
    url = text if "://" in text else f"wss://{text}"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"is no URL ({error}); write it like wss://nas1.example.com") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("holds credentials; write only the host here, and the key under api_key")
    if not host or parts.scheme not in {"ws", "wss", "http", "https"}:
        raise ValueError("is no address of a NAS; write it like wss://nas1.example.com")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError(
            "holds a host name that cannot exist; write it like wss://nas1.example.com"
        ) from None
    if parts.scheme in {"ws", "http"} and not _loopback(host):
        raise ValueError(
            f"{parts.scheme}:// is not encrypted, and TrueNAS revokes for good an API key that arrives so; "
            "write wss://"
        )
    return url


NasUrl = Annotated[str, AfterValidator(_nas_url)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True
    )


class SecretReference(_Section):
    """Where a secret stands: exactly one of `file`, `env` or `credential`."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    file: AnyPath | None = None
    """A file that holds the secret and nothing else; the newline at its end does not count."""
    env: VariableName | None = None
    """The name of an environment variable that holds the secret."""
    credential: Name | None = None
    """The name of a systemd credential (`LoadCredential=` in the unit)."""
    value: Name | None = Field(default=None, repr=False)
    """The secret itself; it works, and is warned about."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"says {' and '.join(given)}, and a secret stands in one place only: keep one")
        if not given:
            raise ValueError("says nothing of where the secret stands: give one of file, env or credential")
        return self


class ClusterSettings(_Section):
    """One Kubernetes or OpenShift cluster."""

    name: Name
    """What this cluster is called in findings and messages; unique among clusters and NAS."""
    kubeconfig: ExistingFile | None = None
    """How to reach it: a kubeconfig file; exec plugins and token files in it work."""
    context: Name | None = None
    """Which context of the kubeconfig; without it, its current-context."""
    in_cluster: bool = False
    """Instead of a kubeconfig: truetally runs in this cluster and uses its own ServiceAccount."""

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if self.kubeconfig and self.in_cluster:
            raise ValueError("has kubeconfig and in_cluster, and there is one way in only: keep one")
        if not self.kubeconfig and not self.in_cluster:
            raise ValueError("has no way in: give kubeconfig, or in_cluster: true")
        if self.context and self.in_cluster:
            raise ValueError("context chooses within a kubeconfig; with in_cluster there is none")
        return self


class RemediatorSettings(_Section):
    """The user that may change a NAS, beside the one that only watches."""

    username: Name
    """Another user than the one that watches."""
    api_key: SecretReference
    """Where its API key stands."""


class NasSettings(_Section):
    """One TrueNAS."""

    name: Name
    """What this NAS is called in findings and messages; unique among clusters and NAS."""
    url: NasUrl
    """Where it answers, like wss://nas1.example.com; unencrypted only on loopback."""
    failover_urls: tuple[NasUrl, ...] = ()
    """Where else it may answer: the other controller of a pair, or a floating address. Nothing that the NAS
    itself says is followed to an address that does not stand here."""
    username: Name
    """The user that the API key belongs to (TrueNAS 25.04 and later bind each key to one)."""
    api_key: SecretReference | None = None
    """Where its API key stands."""
    password: SecretReference | None = None
    """Where the user's password stands, instead of `api_key`. A password opens all that the user may do, also
    in the web interface, and cannot be taken back alone; use it only where there are no API keys."""
    remediator: RemediatorSettings | None = None
    """A second user that may change things; it logs in only while a plan that a person approved is run."""
    ca_file: ExistingFile | None = None
    """The authority that signed its certificate, if the system does not trust it (PEM)."""
    client_certificate: ExistingFile | None = None
    """A certificate to show, where a proxy before the NAS asks for one (PEM)."""
    client_key: ExistingFile | None = None
    """The key of `client_certificate` (PEM)."""
    addresses: tuple[Name, ...] = ()
    """Further host names and addresses that volumes mount from: storage networks, aliases, floating ones."""
    reconcile_every: Interval = timedelta(seconds=60)
    """How often pools, datasets and shares are read again, whatever the events said; what was changed over
    SSH is found by that. A kind that the NAS takes long to list is read for a tenth of the time at most."""
    seldom_every: Interval = timedelta(minutes=10)
    """How often the rest is read again: portals, tasks, alerts, keys, the system itself."""
    snapshots_every: Interval = timedelta(minutes=30)
    """How often all snapshots are read again, which is the costly one. In between, those of a dataset are
    read when the dataset says that they have changed, within `reconcile_every`."""
    intervals: dict[str, Interval] = Field(default_factory=dict)
    """Other intervals for single kinds, by name, like `{Pool: 30s, NfsClient: 5m}`."""
    call_timeout: Interval = timedelta(seconds=60)
    """How long one call may take."""

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if (self.api_key is None) == (self.password is None):
            raise ValueError("give either api_key (better) or password")
        return self

    @field_validator("intervals")
    @classmethod
    def _known_kinds(cls, intervals: dict[str, timedelta]) -> dict[str, timedelta]:
        known = sorted(kind.value for kind in TRUENAS_KINDS)
        if unknown := [name for name in intervals if name not in known]:
            raise ValueError(f"there is no kind {unknown[0]}; the kinds are {', '.join(known)}")
        return intervals

    @model_validator(mode="after")
    def _certificate_with_key(self) -> Self:
        if self.client_key and not self.client_certificate:
            raise ValueError("client_key is of no use without client_certificate")
        return self


class DriverSettings(_Section):
    """One democratic-csi deployment: what truetally cannot see without its secret."""

    driver: Name
    """`csiDriver.name` of the deployment: the provisioner of its StorageClasses."""
    cluster: Name
    """The name of the cluster it runs in, as under `clusters`."""
    nas: Name
    """The name of the NAS it provisions on, as under `nas`."""
    parent: Dataset
    """`zfs.datasetParentName`: the dataset directly under which its volumes are."""
    snapshots_parent: Dataset | None = None
    """`zfs.detachedSnapshotsDatasetParentName`, if it makes detached snapshots."""
    instance_id: Name | None = None
    """`instance_id` of the deployment, if it has one."""
    marker_property: Name | None = None
    """A ZFS user property that `zfs.datasetProperties` sets on its volumes, to tell clusters apart."""
    marker_value: Name | None = None
    """What `marker_property` holds on volumes of this deployment."""
    retains_deleted: bool = False
    """True if its datasets are meant to outlive their volumes; they are then reported as retained."""

    @model_validator(mode="after")
    def _parents_apart(self) -> Self:
        if self.snapshots_parent is None:
            return self
        volumes, snapshots = f"{self.parent}/", f"{self.snapshots_parent}/"
        if volumes.startswith(snapshots) or snapshots.startswith(volumes):
            raise ValueError(
                f"parent {self.parent} and snapshots_parent {self.snapshots_parent} are within each other; "
                "democratic-csi needs them side by side, like tank/k8s/volumes and tank/k8s/snapshots"
            )
        return self

    @model_validator(mode="after")
    def _marker_complete(self) -> Self:
        if (self.marker_property is None) != (self.marker_value is None):
            raise ValueError("marker_property and marker_value go together: give both or neither")
        return self


class RuleSettings(_Section):
    """Thresholds of the rules."""

    grace: Duration = timedelta(hours=1)
    """How old a dataset, share or volume must be before it can be called orphaned."""
    claim_pending_after: Duration = timedelta(minutes=10)
    """How long a claim may be Pending, except while it waits for its first consumer."""
    released_after: Duration = timedelta(minutes=30)
    """How long a volume may be Released or Failed."""
    attachment_stale_after: Duration = timedelta(minutes=10)
    """How long an attachment may outlive the pods and the node it was made for."""
    deletion_stuck_after: Duration = timedelta(minutes=30)
    """How long the deletion of a volume, claim or snapshot may take."""
    claim_unused_after: Duration = timedelta(days=40)
    """How long no pod may have used a claim, counted anew when truetally starts; longer than a month, so
    that a monthly job is not missed."""
    source_unavailable_after: Duration = timedelta(minutes=2)
    """How long a cluster or NAS may be away before that is a finding of its own."""
    pool_full_warning: Percent = 80
    """At how many percent allocated a pool is nearly full; ZFS gets slow beyond."""
    pool_full_critical: Percent = 90
    """At how many percent that is critical."""
    pool_overcommit_factor: Annotated[float, Field(ge=1)] = 2
    """How many times its size a pool may promise to its volumes."""
    volume_full_warning: Percent = 85
    """At how many percent of its quota a volume is nearly full."""
    volume_full_critical: Percent = 95
    """At how many percent that is critical. A zvol, which does not tell what its filesystem has freed, is
    noted here at the earliest, and as information."""
    scrub_overdue_after: Duration = timedelta(days=35)
    """How long ago the last scrub of a pool may be."""
    key_expiry_warning: Duration = timedelta(days=14)
    """How long before truetally's own API key expires that is a finding."""
    key_expiry_critical: Duration = timedelta(days=3)
    """How long before that it is critical."""
    snapshots_per_dataset: Annotated[int, Field(gt=0)] = 512
    """How many snapshots a dataset may have; TrueNAS recommends no more, because Windows shows none then."""
    snapshots_per_volume: Annotated[int, Field(gt=0)] | None = None
    """The same for the dataset of a volume, if it should be another number."""
    snapshot_not_ready_after: Duration = timedelta(minutes=15)
    """How long a VolumeSnapshot may take until it is ready to use."""
    detached_snapshot_not_ready_after: Duration = timedelta(days=1)
    """The same for a detached snapshot, for which all data is copied."""
    retention_slack: Duration = timedelta(days=1)
    """How long a snapshot may outlive its retention; what destroys snapshots comes by now and then only."""
    disabled: tuple[Name, ...] = ()
    """Rules that are not run, by their id."""
    severities: dict[str, Severity] = {}
    """Other severities than the rules' own: rule id to info, warning or critical."""

    @model_validator(mode="after")
    def _critical_comes_last(self) -> Self:
        for what in ("pool", "volume"):
            warning, critical = getattr(self, f"{what}_full_warning"), getattr(self, f"{what}_full_critical")
            if warning > critical:
                raise ValueError(
                    f"{what}_full_warning ({warning:g}) is above {what}_full_critical ({critical:g}), "
                    "so nothing would ever be a warning: exchange them"
                )
        if self.key_expiry_critical > self.key_expiry_warning:
            raise ValueError(
                f"key_expiry_critical ({written(self.key_expiry_critical)}) is longer than "
                f"key_expiry_warning ({written(self.key_expiry_warning)}), so nothing would ever be a "
                "warning: exchange them"
            )
        return self


class RetentionMatch(_Section):
    """Which snapshots a retention is for; `*` stands for any text, and what is left out matches all."""

    namespace: Name | None = None
    """Those of volumes claimed in such a namespace."""
    storage_class: Name | None = None
    """Those of volumes of such a StorageClass."""
    snapshot_class: Name | None = None
    """Those of VolumeSnapshots of such a VolumeSnapshotClass."""
    name: Name | None = None
    """Those of such a dataset, by its path, or of such a volume or claim, by its name."""


class RetentionKeep(_Section):
    """How many snapshots are kept of each period: the youngest periods that have one count."""

    hourly: Annotated[int, Field(ge=0)] = 0
    """Of how many hours a snapshot is kept."""
    daily: Annotated[int, Field(ge=0)] = 0
    """Of how many days."""
    weekly: Annotated[int, Field(ge=0)] = 0
    """Of how many weeks."""
    monthly: Annotated[int, Field(ge=0)] = 0
    """Of how many months."""
    yearly: Annotated[int, Field(ge=0)] = 0
    """Of how many years."""

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        if not any(getattr(self, period) for period in type(self).model_fields):
            raise ValueError("keeps nothing: give at least one of hourly, daily, weekly, monthly, yearly")
        return self


_GRID = re.compile(r"(\d+)x((?:\d+(?:s|m|h|d|w))+)(?:\(keep=(\d+|all)\))?")


def grid_steps(text: str) -> tuple[tuple[timedelta, int | None], ...]:
    """The steps of a grid as zrepl writes it, from the youngest to the oldest.

    Each is a length and how many snapshots are kept in it; None for all. `24x1h` is 24 steps of an hour.

    Raises:
        ValueError: it is no grid.
    """
    steps: list[tuple[timedelta, int | None]] = []
    for part in text.split("|"):
        found = _GRID.fullmatch(part.strip())
        if found is None or not int(found[1]) or not _duration(found[2]):
            raise ValueError(
                f"{part.strip()!r} is no part of a grid; write it like 1x1h(keep=all) | 24x1h | 14x1d"
            )
        kept = None if found[3] == "all" else int(found[3] or 1)
        if len(steps) + int(found[1]) > _LONGEST_GRID:
            raise ValueError(f"has more than {_LONGEST_GRID} steps")
        steps += [(_duration(found[2]), kept)] * int(found[1])
    return tuple(steps)


_LONGEST_GRID = 10_000


def _grid(text: str) -> str:
    grid_steps(text)
    return text


class RetentionSettings(_Section):
    """How long some snapshots are meant to be kept. The first entry that matches a snapshot counts."""

    match: RetentionMatch = RetentionMatch()
    """Which snapshots it is for; without it, all."""
    makers: tuple[Literal["csi", "velero", "task", "sanoid", "zrepl", "manual"], ...] = (
        "csi",
        "task",
        "sanoid",
        "zrepl",
    )
    """Whose snapshots it is for, by who made them."""
    keep: RetentionKeep | None = None
    """How many are kept of each period."""
    grid: Annotated[Name, AfterValidator(_grid)] | None = None
    """Instead of `keep`: the grid of zrepl, like `1x1h(keep=all) | 24x1h | 14x1d`."""
    max_age: Interval | None = None
    """How old a snapshot may become at most."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.keep is not None and self.grid is not None:
            raise ValueError("has keep and grid, and they say the same in two ways: keep one")
        if self.keep is None and self.grid is None and self.max_age is None:
            raise ValueError("says nothing of how long snapshots are kept: give keep, grid or max_age")
        return self


class Exemption(_Section):
    """Findings that are not to be made, with the reason and, if it should end, the date."""

    reason: Name
    """Why; it is shown wherever the exemption takes effect."""
    until: date | None = None
    """The last day it holds, like 2027-03-31; without it, for ever."""
    rule: Name | None = None
    """Only findings of this rule; without it, of all."""
    source: Name | None = None
    """Only things of this cluster or NAS; without it, of all."""
    name: Name
    """What is exempted: a dataset, volume or claim by its name; `*` stands for any text."""


class HistorySettings(_Section):
    """The SQLite history."""

    path: AnyPath = Path("/var/lib/truetally/history.sqlite3")
    """The database file, on a local disk; it is made if it does not exist."""


class ReceiverSettings(_Section):
    """Where messages go: an Apprise URL, by reference because it holds a secret."""

    name: Name
    """What the routes call it."""
    url: SecretReference
    """Where its Apprise URL stands, like slack://… or mailto://…"""
    timeout: Interval = timedelta(seconds=20)
    """How long sending one message may take."""
    resolved: bool = True
    """Whether it is also told what has resolved."""


class RouteSettings(_Section):
    """Which severities go to which receivers; all matching routes are taken."""

    severities: tuple[Severity, ...] = (Severity.WARNING, Severity.CRITICAL)
    """The severities this route takes."""
    receivers: tuple[Name, ...]
    """Who is told, by the names under `receivers`."""


class NotifySettings(_Section):
    """Who is told what."""

    receivers: tuple[ReceiverSettings, ...] = ()
    """Where messages can go."""
    routes: tuple[RouteSettings, ...] = ()
    """Which findings go where."""


class ApiSettings(_Section):
    """The status socket, and optionally a loopback address for health probes."""

    socket: AnyPath = Path("/run/truetally/truetally.sock")
    """Where the command line finds the daemon (mode 0660)."""
    health_address: Address | None = None
    """A loopback address with its port, for /healthz and /readyz; without it, there is only the socket."""


class LogSettings(_Section):
    """How truetally logs."""

    format: Literal["auto", "json", "console"] = "auto"
    """json, console, or auto: console on a terminal and json elsewhere."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""


class Settings(_Section):
    """The whole configuration."""

    clusters: tuple[ClusterSettings, ...] = ()
    """The clusters to watch."""
    nas: tuple[NasSettings, ...] = ()
    """The NAS to watch."""
    drivers: tuple[DriverSettings, ...] = ()
    """The democratic-csi deployments that tie them together."""
    rules: RuleSettings = RuleSettings()
    """When something is a finding."""
    retention: tuple[RetentionSettings, ...] = ()
    """How long snapshots are meant to be kept."""
    exemptions: tuple[Exemption, ...] = ()
    """What is never a finding."""
    history: HistorySettings = HistorySettings()
    """Where findings are remembered."""
    notify: NotifySettings = NotifySettings()
    """Who is told."""
    api: ApiSettings = ApiSettings()
    """Where truetally answers."""
    log: LogSettings = LogSettings()
    """How it logs."""
