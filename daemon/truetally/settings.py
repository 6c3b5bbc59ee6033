"""The settings: one YAML file, overridden by environment variables, checked before anything starts."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from truetally.model.findings import Severity

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _duration(value: Any) -> Any:
    """`90s`, `10m`, `1h30m`, `2d`; a bare number is refused, because nobody knows its unit."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if not re.fullmatch(r"(\d+(\.\d+)?(ms|s|m|h|d|w))+", text):
        raise ValueError("a duration is written like 90s, 10m, 1h30m or 2d")
    return timedelta(
        seconds=sum(float(n) * _UNITS[u] for n, _, u in re.findall(r"(\d+(\.\d+)?)(ms|[smhdw])", text))
    )


Duration = Annotated[timedelta, BeforeValidator(_duration)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretReference(_Section):
    """Where a secret stands: exactly one of `file`, `env` or `credential` (systemd `LoadCredential=`)."""

    file: Path | None = None
    env: str | None = None
    credential: str | None = None
    value: str | None = Field(default=None, repr=False, description="inline; works, and is warned about")


class ClusterSettings(_Section):
    """One Kubernetes or OpenShift cluster."""

    name: str
    kubeconfig: Path | None = None
    context: str | None = None
    in_cluster: bool = False


class NasSettings(_Section):
    """One TrueNAS."""

    name: str
    url: str
    username: str
    api_key: SecretReference
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    addresses: tuple[str, ...] = ()
    reconcile_every: Duration = timedelta(seconds=60)
    snapshots_every: Duration = timedelta(minutes=10)
    call_timeout: Duration = timedelta(seconds=60)


class DriverSettings(_Section):
    """One democratic-csi deployment: what truetally cannot see without its secret."""

    driver: str
    cluster: str
    nas: str
    parent: str
    snapshots_parent: str | None = None
    instance_id: str | None = None
    marker_property: str | None = None
    marker_value: str | None = None
    retains_deleted: bool = False


class RuleSettings(_Section):
    """Thresholds of the rules."""

    grace: Duration = timedelta(hours=1)
    claim_pending_after: Duration = timedelta(minutes=10)
    released_after: Duration = timedelta(minutes=30)
    attachment_stale_after: Duration = timedelta(minutes=10)
    source_unavailable_after: Duration = timedelta(minutes=2)
    disabled: tuple[str, ...] = ()
    severities: dict[str, Severity] = {}


class Exemption(_Section):
    """Findings that are not to be made, with the reason and, if it should end, the date."""

    reason: str
    until: date | None = None
    rule: str | None = None
    source: str | None = None
    name: str


class HistorySettings(_Section):
    """The SQLite history."""

    path: Path = Path("/var/lib/truetally/history.sqlite3")


class ReceiverSettings(_Section):
    """Where messages go: an Apprise URL, by reference because it holds a secret."""

    name: str
    url: SecretReference
    timeout: Duration = timedelta(seconds=20)
    resolved: bool = True


class RouteSettings(_Section):
    """Which severities go to which receivers; all matching routes are taken."""

    severities: tuple[Severity, ...] = (Severity.WARNING, Severity.CRITICAL)
    receivers: tuple[str, ...]


class NotifySettings(_Section):
    """Who is told what."""

    receivers: tuple[ReceiverSettings, ...] = ()
    routes: tuple[RouteSettings, ...] = ()


class ApiSettings(_Section):
    """The status socket, and optionally a loopback address for health probes."""

    socket: Path = Path("/run/truetally/truetally.sock")
    health_address: str | None = None


class LogSettings(_Section):
    """How truetally logs."""

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(_Section):
    """The whole configuration."""

    clusters: tuple[ClusterSettings, ...] = ()
    nas: tuple[NasSettings, ...] = ()
    drivers: tuple[DriverSettings, ...] = ()
    rules: RuleSettings = RuleSettings()
    exemptions: tuple[Exemption, ...] = ()
    history: HistorySettings = HistorySettings()
    notify: NotifySettings = NotifySettings()
    api: ApiSettings = ApiSettings()
    log: LogSettings = LogSettings()
