"""How the middleware shows pools: their devices, what a scrub or resilver does, and how full they are."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from truetally.lab.nas.pool import GROUPS, Pool, Scan, Vdev
from truetally.lab.nas.tree import Row, date, mountpoint


def scan_row(scan: Scan, now: datetime) -> Row:
    """A scrub or resilver as pools and scan events show it."""
    ended, progress, state = scan.ended_at(now), scan.progress(now), scan.state(now)
    return {
        "function": scan.function,
        "state": state,
        "start_time": date(scan.started_at),
        "end_time": date(ended) if ended is not None else None,
        "percentage": round(progress * 100, 4),
        "bytes_to_process": scan.size_bytes,
        "bytes_processed": int(scan.size_bytes * progress),
        "bytes_issued": int(scan.size_bytes * progress),
        "pause": date(scan.paused_at) if scan.paused_at is not None else None,
        "errors": scan.errors,
        "total_secs_left": scan.seconds_left(now) if state == "SCANNING" else None,
    }


_NEVER_SCANNED: Row = dict.fromkeys(
    [
        *("function", "state", "start_time", "end_time", "percentage", "bytes_to_process"),
        *("bytes_processed", "bytes_issued", "pause", "errors", "total_secs_left"),
    ]
)


def vdev_row(vdev: Vdev, pool: Pool) -> Row:
    """A device as `topology` shows it; sizes and counts of what it did are the pool's shares (inferred)."""
    leaf = not vdev.children
    parts = max(sum(1 for _ in pool.disks()), 1)
    row: Row = {
        "name": vdev.disk if leaf else f"{vdev.kind.lower()}-{vdev.guid % 10}",
        "type": vdev.kind,
        "path": f"/dev/disk/by-partuuid/{vdev.guid:032x}" if leaf else None,
        "guid": str(vdev.guid),
        "status": vdev.status,
        "stats": {
            "timestamp": 0,
            "read_errors": vdev.read_errors,
            "write_errors": vdev.write_errors,
            "checksum_errors": vdev.checksum_errors,
            "ops": [0, 0, 0, 0, 0, 0],
            "bytes": [0, 0, 0, 0, 0, 0],
            "size": 0 if leaf else pool.size_bytes,
            "allocated": 0 if leaf else pool.root.used_bytes,
            "fragmentation": 0,
            "self_healed": 0,
            "configured_ashift": 12,
            "logical_ashift": 9,
            "physical_ashift": 12,
        },
        "children": [vdev_row(child, pool) for child in vdev.children],
        "unavail_disk": None,
    }
    if leaf:
        gone = vdev.status in ("UNAVAIL", "REMOVED")
        row["device"] = None if gone else f"{vdev.disk}1"
        row["disk"] = None if gone else vdev.disk
        row["stats"]["size"] = pool.size_bytes // parts if vdev.kind != "DISK" else pool.size_bytes
    return row


def topology_row(pool: Pool) -> Row:
    """All devices of a pool by what they are for."""
    return {name: [vdev_row(each, pool) for each in pool.vdevs.get(name, ())] for name in GROUPS}


def pool_row(
    pool: Pool, *, newest: bool, number: tuple[int, int] = (25, 10), now: datetime | None = None
) -> Row:
    """A pool as `pool.query` shows it; one that is offline has no sizes.

    Args:
        newest: whether the version is 26 or newer.
        number: the version; older ones lack fields, and show nothing where newer ones show null.
        now: what a running scan's progress is read at.
    """
    size = pool.size_bytes if pool.imported else None
    used = pool.root.used_bytes if pool.imported else None
    free = pool.size_bytes - pool.root.used_bytes if pool.imported else None
    row: Row = {
        "id": pool.id,
        "name": pool.name,
        "guid": str(pool.guid),
        "status": pool.state,
        "path": mountpoint(pool.name),
        "scan": _pool_scan(pool, number, now),
        "expand": None if number >= (25, 4) else {},
        "is_upgraded": True,
        "healthy": pool.healthy,
        "warning": pool.imported and not pool.healthy,
        "status_code": pool.status_code,
        "status_detail": pool.status_detail,
        "size": size,
        "allocated": used,
        "free": free,
        "freeing": 0 if pool.imported else None,
        "dedup_table_size": 0 if pool.imported else None,
        "dedup_table_quota": "auto" if pool.imported else None,
        "fragmentation": "3" if pool.imported else None,
        "size_str": str(size) if pool.imported else None,
        "allocated_str": str(used) if pool.imported else None,
        "free_str": str(free) if pool.imported else None,
        "freeing_str": "0" if pool.imported else None,
        "autotrim": {"parsed": "off", "rawvalue": "off", "source": "DEFAULT", "value": "off"},
        "topology": topology_row(pool) if pool.imported else None,
    }
    if newest:
        row["all_sed"] = False
    if number < (25, 4):
        row["topology"] = row["topology"] or {name: [] for name in GROUPS}
        del row["dedup_table_size"], row["dedup_table_quota"]
    if number < (24, 10):
        del row["expand"]
    if number < (23, 10):
        del row["status_code"]
        row |= {"encrypt": 0, "encryptkey": "", "encryptkey_path": None, "is_decrypted": True}
    return row


def _pool_scan(pool: Pool, number: tuple[int, int], now: datetime | None) -> Row | None:
    if pool.scan is not None and pool.imported:
        return scan_row(pool.scan, now if now is not None else pool.scan.started_at)
    return dict(_NEVER_SCANNED) if number < (25, 10) else None


_SCAN_TIMES = ("start_time", "end_time", "pause")


def zpool_row(
    pool: Pool, now: datetime, *, properties: Collection[str] | None, topology: bool, scan: bool
) -> Row:
    """A pool as `zpool.query` (26+) shows it: times in seconds, guids as numbers, and only what is asked for.

    Args:
        properties: which to show; None for none. Those that the lab does not know are left out.
    """
    shown = scan_row(pool.scan, now) if scan and pool.scan is not None else None
    if shown is not None:
        shown |= {name: shown[name] and shown[name]["$date"] // 1000 for name in _SCAN_TIMES}
    return {
        "id": pool.id,
        "name": pool.name,
        "guid": pool.guid,
        "status": pool.state,
        "healthy": pool.healthy,
        "warning": pool.imported and not pool.healthy,
        "status_code": pool.status_code,
        "status_detail": pool.status_detail,
        "is_upgraded": True,
        "all_sed": False,
        "properties": _zpool_properties(pool, properties) if properties is not None else None,
        "topology": _zpool_topology(pool) if topology else None,
        "scan": shown,
        "expand": None,
        "features": None,
    }


def _zpool_properties(pool: Pool, wanted: Collection[str]) -> Row:
    used = pool.root.used_bytes
    known: dict[str, int | str] = {
        "size": pool.size_bytes,
        "allocated": used,
        "free": pool.size_bytes - used,
        "freeing": 0,
        "fragmentation": 3,
        "capacity": 100 * used // pool.size_bytes,
        "health": pool.state,
        "autotrim": "off",
    }
    return {
        name: {"raw": str(value), "source": None, "value": value}
        for name, value in known.items()
        if name in wanted
    }


def _zpool_topology(pool: Pool) -> Row:
    shown = {name: [_zpool_vdev(each) for each in pool.vdevs.get(name, ())] for name in GROUPS}
    shown["spares"] = shown.pop("spare")
    return shown


def _zpool_vdev(vdev: Vdev) -> Row:
    counters = ("read_errors", "write_errors", "checksum_errors")
    return {
        "name": vdev.disk or f"{vdev.kind.lower()}-{vdev.guid % 10}",
        "vdev_type": vdev.kind.lower(),
        "guid": vdev.guid,
        "state": vdev.status,
        "stats": {name: getattr(vdev, name) for name in counters},
        "children": [_zpool_vdev(each) for each in vdev.children],
        "top_guid": None,
        "path": f"/dev/{vdev.disk}1" if vdev.disk else None,
    }
