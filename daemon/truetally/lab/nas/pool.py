"""A pool's devices and its scans: what makes it healthy, degraded or faulted, and how far a scrub is.

A scan's progress is not counted but read off the clock, so a lab with a moved clock has
moved scans. What an operator is told of the cause (`status_code`, `status_detail`) is
chosen as `zpool status` chooses: the worst thing first. The choice of texts is inferred.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from truetally.lab.nas.dataset import Dataset
from truetally.lab.nas.failures import CallError

_TIB = 1 << 40
GROUPS = ("data", "log", "cache", "spare", "special", "dedup")
_BAD = ("FAULTED", "UNAVAIL", "REMOVED", "OFFLINE")
_TOLERATED = {"MIRROR": -1, "RAIDZ1": 1, "RAIDZ2": 2, "RAIDZ3": 3}
_DETAILS = {
    "OFFLINE_DEV": "One or more devices has been taken offline by the administrator. Sufficient replicas "
    "exist for the pool to continue functioning in a degraded state.",
    "FAULTED_DEV_R": "One or more devices are faulted in response to persistent errors. Sufficient replicas "
    "exist for the pool to continue functioning in a degraded state.",
    "MISSING_DEV_R": "One or more devices could not be opened. Sufficient replicas exist for the pool to "
    "continue functioning in a degraded state.",
    "MISSING_DEV_NR": "One or more devices could not be opened. There are insufficient replicas for the pool "
    "to continue functioning.",
    "CORRUPT_DATA": "One or more devices has experienced an error resulting in data corruption. Applications "
    "may be affected.",
    "FAILING_DEV": "One or more devices has experienced an unrecoverable error. An attempt was made to "
    "correct the error. Applications are unaffected.",
    "RESILVERING": "One or more devices is currently being resilvered. The pool will continue to function, "
    "possibly in a degraded state.",
}


@dataclass(eq=False, slots=True)
class Vdev:
    """A disk, or a group of disks; a group's state follows from its disks."""

    kind: str
    guid: int
    disk: str = ""
    state: str = "ONLINE"
    read_errors: int = 0
    write_errors: int = 0
    checksum_errors: int = 0
    children: list[Vdev] = field(default_factory=list)

    def disks(self) -> Iterator[Vdev]:
        """The disks in it."""
        if not self.children:
            yield self
        for child in self.children:
            yield from child.disks()

    @property
    def status(self) -> str:
        """Its state; a group is UNAVAIL when it has lost more disks than it can do without."""
        if not self.children:
            return self.state
        lost = sum(each.status in _BAD for each in self.children)
        tolerated = _TOLERATED.get(self.kind, 0)
        tolerated = len(self.children) + tolerated if tolerated < 0 else tolerated
        if lost > tolerated:
            return "UNAVAIL"
        return "ONLINE" if all(each.status == "ONLINE" for each in self.children) else "DEGRADED"


@dataclass(eq=False, slots=True)
class Scan:
    """A scrub or resilver that takes its time.

    Attributes:
        paused_at: since when it stands still.
        idle: how long it stood still before.
        cancelled_at: when somebody stopped it.
        told: whether its end has been told.
    """

    function: str
    started_at: datetime
    takes: timedelta
    size_bytes: int
    errors: int = 0
    paused_at: datetime | None = None
    idle: timedelta = timedelta()
    cancelled_at: datetime | None = None
    told: bool = False

    def progress(self, now: datetime) -> float:
        """How much of it is done, from 0 to 1."""
        until = self.cancelled_at or self.paused_at or now
        return min(max((until - self.started_at - self.idle) / self.takes, 0.0), 1.0) if self.takes else 1.0

    def state(self, now: datetime) -> str:
        """SCANNING, FINISHED or CANCELED."""
        if self.cancelled_at is not None:
            return "CANCELED"
        return "FINISHED" if self.progress(now) >= 1 else "SCANNING"

    def ended_at(self, now: datetime) -> datetime | None:
        """When it ended, if it has."""
        if self.state(now) == "SCANNING":
            return None
        return self.cancelled_at or self.started_at + self.takes + self.idle

    def seconds_left(self, now: datetime) -> int:
        """How long it will still take, if nobody stops it."""
        return int((self.takes * (1 - self.progress(now))).total_seconds())


@dataclass(eq=False, slots=True)
class Pool:
    """A pool; one that is not imported hides its datasets.

    Attributes:
        status: what it says itself; one that is not ONLINE wins over what the devices say.
        data_errors: files that cannot be read any more.
    """

    name: str
    id: int
    guid: int
    root: Dataset
    size_bytes: int = 10 * _TIB
    status: str = "ONLINE"
    imported: bool = True
    vdevs: dict[str, list[Vdev]] = field(default_factory=dict)
    scan: Scan | None = None
    data_errors: int = 0

    def __post_init__(self) -> None:
        if not self.vdevs:
            first = 2 * (self.id - 1)
            disks = [Vdev("DISK", self.guid + 2 + n, disk_name(first + n)) for n in (0, 1)]
            self.vdevs = {name: [] for name in GROUPS}
            self.vdevs["data"].append(Vdev("MIRROR", self.guid + 1, children=disks))

    def disks(self) -> Iterator[Vdev]:
        """All its disks."""
        for name in GROUPS:
            for each in self.vdevs.get(name, ()):
                yield from each.disks()

    def disk(self, name: str) -> Vdev:
        """The disk of this name, or ENOENT."""
        for each in self.disks():
            if each.disk == name:
                return each
        raise CallError(f"the pool {self.name} has no disk {name}", errno.ENOENT)

    @property
    def state(self) -> str:
        """ONLINE, DEGRADED, SUSPENDED…, or OFFLINE if it is not imported."""
        if not self.imported:
            return "OFFLINE"
        if self.status != "ONLINE":
            return self.status
        groups = [each.status for name in ("data", "special", "dedup") for each in self.vdevs.get(name, ())]
        if "UNAVAIL" in groups or any(each in _BAD for each in groups):
            return "UNAVAIL"
        return "DEGRADED" if "DEGRADED" in groups else "ONLINE"

    @property
    def status_code(self) -> str | None:
        """Why it is not well, in ZFS's words; OK if it is, None if it is not imported."""
        if not self.imported:
            return None
        return next(self._troubles(), "OK")

    def _troubles(self) -> Iterator[str]:
        states = {each.state for each in self.disks()}
        if self.state in ("UNAVAIL", "FAULTED", "SUSPENDED"):
            yield "MISSING_DEV_NR"
        if self.data_errors:
            yield "CORRUPT_DATA"
        if states & {"UNAVAIL", "REMOVED"}:
            yield "MISSING_DEV_R"
        if "FAULTED" in states or self.status == "DEGRADED":
            yield "FAULTED_DEV_R"
        if "OFFLINE" in states:
            yield "OFFLINE_DEV"
        if any(each.read_errors or each.write_errors or each.checksum_errors for each in self.disks()):
            yield "FAILING_DEV"

    @property
    def status_detail(self) -> str | None:
        """What `zpool status` says of it."""
        return _DETAILS.get(self.status_code or "")

    @property
    def healthy(self) -> bool:
        """Whether TrueNAS would call it healthy."""
        return self.imported and self.state == "ONLINE" and self.status_code == "OK"


def disk_name(number: int) -> str:
    """The name that Linux gives its n-th disk, from 0: sda, sdb, … sdaa."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return f"sd{letters}"


def group(kind: str, guid: int, disks: Iterable[str]) -> Vdev:
    """A group of disks; a `DISK` is one disk alone."""
    leaves = [Vdev("DISK", guid + number, name) for number, name in enumerate(disks, start=1)]
    return leaves[0] if kind == "DISK" else Vdev(kind, guid, children=leaves)
