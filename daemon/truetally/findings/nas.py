"""The NAS itself: what it cries out about, the key that lets us in, and the services that volumes need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from truetally.csi import democratic_csi as csi
from truetally.csi.democratic_csi import Protocol
from truetally.findings.rule import Clear, Evidence, Judgement, Order, Reread, Rule
from truetally.graph.graph import value_of
from truetally.graph.world import World
from truetally.model import kubernetes as k8s
from truetally.model.findings import Fact, Severity
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Alert, ApiKey, Service

_AT_ONCE = timedelta(0)

# `alert.list` knows INFO, NOTICE, WARNING, ERROR and these.
_GRAVE = ("CRITICAL", "ALERT", "EMERGENCY")
_SHOWN = 200


def _judge_alert(ref: Ref, world: World) -> Judgement:
    alert = value_of(world.node(ref), Alert)
    if alert is None:
        return Clear("the alert is gone")
    if alert.level not in _GRAVE:
        return Clear(f"it is of level {alert.level} only")
    if alert.dismissed:
        return Clear("somebody has dismissed it on the NAS")
    text = _one_line(alert.text)
    facts: dict[str, Fact] = {
        "level": alert.level,
        "class": alert.klass,
        "text": text,
        "at": alert.at.isoformat() if alert.at else None,
    }
    shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return Evidence(f"{ref.source} raises an alert ({alert.level}): {shown}", facts, alert.at)


def _one_line(text: str) -> str:
    """Text that nobody vouches for, as one line of visible characters."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())


NAS_ALERT = Rule(
    id="nas-alert",
    title="Grave alert of a NAS",
    fix="Look at the alert in the web interface of the NAS; dismissing it there resolves this.",
    severity=Severity.INFO,
    subject=Kind.ALERT,
    needs=frozenset({Kind.ALERT}),
    judge=_judge_alert,
    pending=lambda _world: _AT_ONCE,
)


def _judge_key(ref: Ref, world: World) -> Judgement:
    key = value_of(world.node(ref), ApiKey)
    if key is None:
        return Clear("the key is gone")
    ours = next((nas for nas in world.settings.nas if nas.name == ref.source), None)
    if ours is None or ours.api_key is None:
        return Clear("truetally logs in with a password there")
    if key.username != ours.username:
        return Clear("it is no key of truetally's own user")
    if key.revoked:
        return Clear("it is revoked, so it is not the key that lets truetally in")
    if key.expires_at is None:
        return Clear("it never expires")
    rules = world.settings.rules
    left = key.expires_at - world.now
    if left > rules.key_expiry_warning:
        return Clear(f"it expires in {left.days} days", key.expires_at - rules.key_expiry_warning)
    others = _other_keys(ref, key, world)
    if left <= timedelta(0) and others:
        return Clear(f"it has expired, and key {others[0]} of the same user is valid")
    critical = left <= rules.key_expiry_critical
    facts: dict[str, Fact] = {
        "key": _one_line(key.name),
        "id": key.id,
        "username": key.username,
        "expires_at": key.expires_at.isoformat(),
        "days_left": max(0, left.days),
        "other_valid_keys": tuple(others),
    }
    when = f"expires {_day(key.expires_at)}" if left > timedelta(0) else f"expired {_day(key.expires_at)}"
    summary = f"API key {_one_line(key.name)} of truetally's user {key.username} at {ref.source} {when}"
    return Evidence(summary, facts, severity=Severity.CRITICAL if critical else None)


def _day(at: datetime) -> str:
    return f"on {at.astimezone(UTC):%Y-%m-%d at %H:%M} UTC"


def _other_keys(ref: Ref, key: ApiKey, world: World) -> list[str]:
    """The names of the same user's keys that are valid now: truetally cannot tell which one it holds."""
    found = []
    for name, node in sorted(world.graph.nodes(ref.source, Kind.API_KEY).items()):
        other = value_of(node, ApiKey)
        if name == ref.name or other is None or other.username != key.username or other.revoked:
            continue
        if other.expires_at is None or other.expires_at > world.now:
            found.append(_one_line(other.name))
    return found


NAS_KEY_EXPIRES = Rule(
    id="nas-key-expires",
    title="API key of truetally that expires soon",
    fix=(
        "Make a new key for the same user, put it where `api_key` points, reload truetally, and delete the "
        "old key. If it has been replaced already, delete it."
    ),
    severity=Severity.WARNING,
    subject=Kind.API_KEY,
    needs=frozenset({Kind.API_KEY}),
    judge=_judge_key,
    pending=lambda _world: _AT_ONCE,
)

_PROTOCOLS: Mapping[str, Protocol] = {
    "nfs": Protocol.NFS,
    "cifs": Protocol.SMB,
    "iscsitarget": Protocol.ISCSI,
    "nvmet": Protocol.NVMEOF,
}

# A volume that comes while its service is stopped does not touch the service, so that one is looked at again.
_LOOK_AGAIN = timedelta(minutes=10)


def _judge_service(ref: Ref, world: World) -> Judgement:
    service = value_of(world.node(ref), Service)
    if service is None:
        return Clear("the NAS has no such service")
    protocol = _PROTOCOLS.get(service.name)
    if protocol is None:
        return Clear("no volume needs this service")
    if service.state == "RUNNING":
        return Clear("it is running")
    if service.state != "STOPPED":
        return Clear("the NAS does not tell whether it is running")
    volumes = _volumes(world).get((ref.source, protocol), ())
    if not volumes:
        return Clear("it is stopped, and no volume needs it", _next_look(world.now))
    facts: dict[str, Fact] = {
        "service": service.name,
        "state": service.state,
        "starts_with_the_nas": service.enabled,
        "volumes": len(volumes),
        "claims": tuple(volumes[:10]),
    }
    summary = f"Service {service.name} of {ref.source} is stopped, and {len(volumes)} volumes need it"
    return Evidence(summary, facts)


def _next_look(now: datetime) -> datetime:
    """At full steps of the clock, so that a service that is judged often is not noted down as often."""
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + ((now - midnight) // _LOOK_AGAIN + 1) * _LOOK_AGAIN


def _volumes(world: World) -> Mapping[tuple[str, Protocol], Sequence[str]]:
    """The bound volumes by NAS and protocol, each by its claim; worked out once for all services."""
    known = world.memo.get("volumes by protocol")
    if isinstance(known, dict):
        return known
    found: dict[tuple[str, Protocol], list[str]] = {}
    nodes = (node for c in world.clusters for node in world.graph.nodes(c, Kind.PERSISTENT_VOLUME).values())
    for node in nodes:
        volume = value_of(node, k8s.PersistentVolume)
        if volume is None or volume.phase != "Bound" or volume.deleted_at is not None:
            continue
        backend = csi.backend(volume)
        nas = world.nas_at(backend.hosts) if backend is not None else None
        if backend is not None and nas is not None:
            name = f"{volume.claim.namespace}/{volume.claim.name}" if volume.claim else volume.name
            found.setdefault((nas, backend.protocol), []).append(name)
    for names in found.values():
        names.sort()
    world.memo["volumes by protocol"] = found
    return found


def _confirmed_service(ref: Ref, world: World, since: float) -> str:
    node = world.node(ref)
    return "" if node is not None and node.asked_at >= since else "the service has not been read again"


NAS_SERVICE_STOPPED = Rule(
    id="nas-service-stopped",
    title="Stopped service that volumes need",
    fix="Start the service on the NAS, and let it start automatically.",
    severity=Severity.CRITICAL,
    subject=Kind.SERVICE,
    needs=frozenset({Kind.SERVICE, Kind.PERSISTENT_VOLUME}),
    judge=_judge_service,
    # A service is stopped for a moment whenever it is restarted, or the NAS boots.
    pending=lambda _world: timedelta(minutes=2),
    reread=lambda ref, _world: Reread(
        Order.CLUSTER_FIRST, nas=ref.source, nas_kinds=frozenset({Kind.SERVICE})
    ),
    confirmed=_confirmed_service,
)
