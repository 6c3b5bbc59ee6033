"""Pools: whether their disks are well, and whether somebody has looked lately.

A pool that has lost devices may still serve everything (DEGRADED) or nothing at all
(FAULTED, UNAVAIL, SUSPENDED, or OFFLINE when it could not be imported). A scrub is how
ZFS finds out what has rotted; the counters tell of what it and the volumes have met.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from truetally.findings.rule import Clear, Evidence, Judgement, Rule
from truetally.graph.world import World
from truetally.model.findings import Fact, Severity
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import Device, Pool

_UNKNOWN = ("", "UNKNOWN")

# A spare that is AVAIL waits, and one that is INUSE works; neither is ill itself.
_WELL = ("ONLINE", "AVAIL", "INUSE", *_UNKNOWN)

_AT_ONCE = timedelta(0)


def _described(devices: Iterable[Device]) -> tuple[str, ...]:
    return tuple(
        f"{device.role} {device.type.lower() or 'device'} {device.name}: {device.status or 'UNKNOWN'}, "
        f"{device.read_errors} read, {device.write_errors} write, {device.checksum_errors} checksum errors"
        for device in devices
    )


def _has_errors(device: Device) -> bool:
    return bool(device.read_errors or device.write_errors or device.checksum_errors)


def _judge_status(ref: Ref, world: World) -> Judgement:
    pool = world.pool(ref.source, ref.name)
    if pool is None:
        return Clear("the pool is gone")
    if pool.status == "ONLINE":
        return Clear("it is ONLINE")
    if pool.status in _UNKNOWN:
        return Clear("the NAS does not tell its status")
    ill = [device for device in pool.devices if device.status not in _WELL]
    facts: dict[str, Fact] = {
        "status": pool.status,
        "status_detail": pool.status_detail or None,
        "devices": _described(ill),
        "devices_with_errors": _described(d for d in pool.devices if d not in ill and _has_errors(d)),
    }
    names = ", ".join(dict.fromkeys(device.name for device in ill if device.type in ("", "DISK")))
    of = f" (devices {names})" if names else ""
    if pool.status == "DEGRADED":
        return Evidence(f"Pool {ref.name} is DEGRADED{of}: it serves, with less redundancy", facts)
    summary = f"Pool {ref.name} is {pool.status}{of}: its volumes cannot be used"
    return Evidence(summary, facts, severity=Severity.CRITICAL)


POOL_DEGRADED = Rule(
    id="pool-degraded",
    title="Pool that has lost devices or cannot be used",
    fix=(
        "Replace or reconnect the devices that are named, and let the pool resilver. If it cannot be used at "
        "all, bring its devices back and import it; change nothing in Kubernetes until then."
    ),
    severity=Severity.WARNING,
    subject=Kind.POOL,
    needs=frozenset({Kind.POOL}),
    judge=_judge_status,
    pending=lambda _world: _AT_ONCE,
)


def _judge_devices(ref: Ref, world: World) -> Judgement:
    pool = world.pool(ref.source, ref.name)
    if pool is None:
        return Clear("the pool is gone")
    if pool.status != "ONLINE":
        return Clear(f"it is {pool.status}, and pool-degraded names its devices")
    ill = [device for device in pool.devices if _has_errors(device)]
    if not ill:
        return Clear("none of its devices has counted an error")
    facts: dict[str, Fact] = {
        "devices": _described(ill),
        "read_errors": sum(device.read_errors for device in ill),
        "write_errors": sum(device.write_errors for device in ill),
        "checksum_errors": sum(device.checksum_errors for device in ill),
    }
    names = ", ".join(dict.fromkeys(device.name for device in ill))
    return Evidence(f"Devices of pool {ref.name} have counted errors: {names}", facts)


POOL_DEVICE_ERRORS = Rule(
    id="pool-device-errors",
    title="Pool with errors on its devices",
    fix=(
        "Look at the disk's SMART values and its cable, and replace it if the errors come back. "
        "`zpool clear` sets the counters to zero."
    ),
    severity=Severity.WARNING,
    subject=Kind.POOL,
    needs=frozenset({Kind.POOL}),
    judge=_judge_devices,
    pending=lambda _world: _AT_ONCE,
)


def _judge_scrub(ref: Ref, world: World) -> Judgement:
    """ZFS remembers the last scan only, so a resilver hides when the scrub before it was.

    But when even that scan lies too far back, no scrub can have come after it.
    """
    pool = world.pool(ref.source, ref.name)
    if pool is None:
        return Clear("the pool is gone")
    if (missing := _unscannable(pool)) is not None:
        return Clear(missing)
    scan = pool.scan
    if scan is None:
        return Clear("no scrub is known yet")
    if scan.state == "SCANNING":
        return Clear(f"a {scan.function.lower()} is running")
    last_at = scan.ended_at or scan.started_at
    if last_at is None:
        return Clear("the NAS does not tell when its last scan was")
    allowed = world.settings.rules.scrub_overdue_after
    age = world.now - last_at
    if age <= allowed:
        return Clear(f"its last {scan.function.lower()} was {age.days} days ago", last_at + allowed)
    facts: dict[str, Fact] = {
        "last_scan": scan.function,
        "last_scan_state": scan.state,
        "last_scan_at": last_at.isoformat(),
        "days": age.days,
        "allowed_days": round(allowed / timedelta(days=1), 1),
    }
    return Evidence(f"Pool {ref.name} has not been scrubbed for {age.days} days", facts, last_at + allowed)


def _unscannable(pool: Pool) -> str | None:
    return None if pool.status in ("ONLINE", "DEGRADED") else f"it is {pool.status} and cannot be scrubbed"


POOL_SCRUB_OVERDUE = Rule(
    id="pool-scrub-overdue",
    title="Pool that has not been scrubbed for long",
    fix="Start a scrub, and see that the pool's scrub task is enabled and runs at least once a month.",
    severity=Severity.WARNING,
    subject=Kind.POOL,
    needs=frozenset({Kind.POOL}),
    judge=_judge_scrub,
    pending=lambda _world: _AT_ONCE,
)


def _judge_scan_errors(ref: Ref, world: World) -> Judgement:
    pool = world.pool(ref.source, ref.name)
    if pool is None:
        return Clear("the pool is gone")
    scan = pool.scan
    if scan is None:
        return Clear("no scrub is known yet")
    if not scan.errors:
        return Clear(f"its last {scan.function.lower()} has found nothing that it could not repair")
    facts: dict[str, Fact] = {
        "scan": scan.function,
        "state": scan.state,
        "errors": scan.errors,
        "ended_at": scan.ended_at.isoformat() if scan.ended_at else None,
    }
    summary = f"The {scan.function.lower()} of pool {ref.name} has found {scan.errors} errors beyond repair"
    return Evidence(summary, facts)


POOL_SCRUB_ERRORS = Rule(
    id="pool-scrub-errors",
    title="Pool whose scrub has found errors beyond repair",
    fix=(
        "`zpool status -v` names the damaged files and volumes: restore them from a backup or replica, then "
        "scrub again."
    ),
    severity=Severity.CRITICAL,
    subject=Kind.POOL,
    needs=frozenset({Kind.POOL}),
    judge=_judge_scan_errors,
    pending=lambda _world: _AT_ONCE,
)
