"""Snapshots in words: who makes them, and what truetally says of one."""

from __future__ import annotations

from enum import StrEnum


class Maker(StrEnum):
    """Who made a ZFS snapshot, as far as its name and what refers to it tell.

    CSI: democratic-csi, for a VolumeSnapshot. DETACHED: the same, as a dataset of its own. VELERO: the same,
    for a VolumeSnapshot of Velero. CLONE_SOURCE: democratic-csi, to clone or copy from. TASK: a periodic
    snapshot task of TrueNAS. REPLICATION: it came with a replication or serves one. MANUAL: a person, or a
    program that truetally doesn't know.
    """

    CSI = "csi"
    DETACHED = "detached"
    VELERO = "velero"
    CLONE_SOURCE = "clone-source"
    TASK = "task"
    SANOID = "sanoid"
    ZREPL = "zrepl"
    REPLICATION = "replication"
    MANUAL = "manual"


class SnapshotVerdict(StrEnum):
    """What truetally says of a snapshot.

    ORPHANED: proven, there is an open finding. SUSPECTED: it may be, and is not proven yet. UNKNOWN: it was
    found to be, and cannot be checked now. DEFERRED: destroyed already, it waits for its last clone or hold.
    OVERDUE: beyond its retention, and there is an open finding on its dataset. REFERENCED: Kubernetes has an
    object of it. KEPT: nothing is known against it.
    """

    ORPHANED = "orphaned"
    SUSPECTED = "suspected"
    UNKNOWN = "unknown"
    DEFERRED = "deferred"
    OVERDUE = "overdue"
    REFERENCED = "referenced"
    KEPT = "kept"


class SnapshotOrder(StrEnum):
    """In which order snapshots are listed: by their dataset and age, or the largest first."""

    NAME = "name"
    SIZE = "size"
