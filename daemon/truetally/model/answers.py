"""Answers: what truetally says of itself and of storage when it is asked.

They are the JSON of the status socket, field for field. A field is never
renamed and never changes its meaning; new fields come with a default, so that
a command line of today understands a daemon of yesterday.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from truetally.model.findings import Finding, Severity, Transition
from truetally.model.refs import Ref


class IncompleteKind(msgspec.Struct, frozen=True):
    """A kind that a source cannot list in full now, so that nothing is concluded from its absence."""

    kind: str
    trouble: str = ""
    reason: str = ""


class SourceAnswer(msgspec.Struct, frozen=True):
    """A cluster or NAS: how we stand with it, and what of it we know in full.

    Attributes:
        kind: `cluster` or `nas`.
        state: a `SourceState`.
        detail: one sentence for the operator.
    """

    name: str
    kind: str
    state: str
    detail: str = ""
    version: str = ""
    reconnects: int = 0
    complete: tuple[str, ...] = ()
    incomplete: tuple[IncompleteKind, ...] = ()


class ReceiverAnswer(msgspec.Struct, frozen=True):
    """A receiver of messages, and how its messages fared since the daemon started."""

    name: str
    state: str
    detail: str = ""
    delivered: int = 0
    failed: int = 0
    waiting: int = 0


class StatusAnswer(msgspec.Struct, frozen=True):
    """The daemon as a whole.

    Attributes:
        ready_detail: what is still missing, while it is not ready.
        findings: how many, by state.
        objects: how many, by kind.
        queue_depth: observations that wait for the reconciler.
        worst_loop_lag_seconds: the longest that anything had to wait for its turn in the last minutes.
        history: `ok`, or what is wrong with the database.
        held: findings that cannot be checked now.
        warnings: what an operator should mend in the configuration or around it.
    """

    version: str
    started_at: datetime
    uptime_seconds: float
    ready: bool
    ready_detail: str = ""
    sources: tuple[SourceAnswer, ...] = ()
    findings: dict[str, int] = {}
    objects: dict[str, int] = {}
    volumes: int = 0
    queue_depth: int = 0
    last_batch_seconds: float = 0.0
    worst_loop_lag_seconds: float = 0.0
    history: str = "ok"
    notify: tuple[ReceiverAnswer, ...] = ()
    held: int = 0
    config_file: str = ""
    warnings: tuple[str, ...] = ()


class Link(msgspec.Struct, frozen=True):
    """An object of a volume's chain, and what proves that it belongs to it.

    Attributes:
        role: what it is to the volume, like `claim`, `dataset`, `share`.
        strength: `exact`, `weak`, or empty for the subject itself.
        state: how the object is, like `Bound`, or `unknown` when it cannot be read.
    """

    ref: Ref
    role: str
    proof: str = ""
    strength: str = ""
    detail: str = ""
    state: str = ""


class Explanation(msgspec.Struct, frozen=True):
    """All that both sides know of one volume, and why there is a finding or why there isn't.

    Attributes:
        why: the conditions, each with ✓ (holds), ✗ (doesn't) or ? (cannot be checked) before it.
    """

    subject: Ref
    verdict: str
    why: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    findings: tuple[Finding, ...] = ()


class VolumeAnswer(msgspec.Struct, frozen=True):
    """One volume, in a line; what one side doesn't know of it is empty or None."""

    cluster: str = ""
    namespace: str = ""
    claim: str = ""
    volume: str = ""
    storage_class: str = ""
    phase: str = ""
    nas: str = ""
    dataset: str = ""
    protocol: str = ""
    capacity_bytes: int | None = None
    used_bytes: int | None = None
    snapshots: int = 0
    state: str = ""
    findings: int = 0


class SnapshotAnswer(msgspec.Struct, frozen=True):
    """One ZFS snapshot, or one detached snapshot of democratic-csi, which is a dataset.

    Attributes:
        dataset: what it is a snapshot of; of a detached one the dataset that it lies in.
        path: its whole name on the NAS.
        maker: who made it, a `Maker`; `how` says what tells so.
        used_bytes: what it alone keeps; several together keep more.
        holds: None if the NAS was not asked.
        volume_snapshot: `namespace/name`.
        verdict: a `SnapshotVerdict`.
    """

    nas: str
    dataset: str
    name: str
    path: str = ""
    maker: str = ""
    how: str = ""
    created_at: datetime | None = None
    used_bytes: int | None = None
    referenced_bytes: int | None = None
    holds: tuple[str, ...] | None = None
    clones: tuple[str, ...] = ()
    cluster: str = ""
    volume: str = ""
    namespace: str = ""
    claim: str = ""
    volume_snapshot: str = ""
    content: str = ""
    tasks: tuple[str, ...] = ()
    verdict: str = ""
    findings: int = 0
    detached: bool = False


class CheckedItem(msgspec.Struct, frozen=True):
    """One thing that `truetally validate` looked at.

    Attributes:
        outcome: `ok`, `unknown`, `warning` or `error`.
        fix: what to do; empty if nothing is to be done.
    """

    check: str
    about: str
    outcome: str
    found: str
    fix: str = ""


class ValidationAnswer(msgspec.Struct, frozen=True):
    """Everything that was looked at; while truetally is not ready, more may be unknown than need be."""

    items: tuple[CheckedItem, ...]
    ready: bool = True
    ready_detail: str = ""


class RuleAnswer(msgspec.Struct, frozen=True):
    """A rule: what it looks for, what it needs to know for that, and how to mend what it finds."""

    id: str
    title: str
    severity: Severity
    needs: tuple[str, ...] = ()
    fix: str = ""
    enabled: bool = True


class FindingsAnswer(msgspec.Struct, frozen=True):
    """A list of findings; while truetally is not ready, more may come and none is an all-clear."""

    findings: tuple[Finding, ...]
    ready: bool = True
    ready_detail: str = ""


class TransitionsAnswer(msgspec.Struct, frozen=True):
    """What has become of a finding, oldest first."""

    transitions: tuple[Transition, ...]


class ExplanationsAnswer(msgspec.Struct, frozen=True):
    """One explanation for each thing of that name: several sources may have one."""

    explanations: tuple[Explanation, ...]


class VolumesAnswer(msgspec.Struct, frozen=True):
    """A list of volumes; `ready` as with findings."""

    volumes: tuple[VolumeAnswer, ...]
    ready: bool = True
    ready_detail: str = ""


class SnapshotsAnswer(msgspec.Struct, frozen=True):
    """A list of snapshots; `ready` as with findings.

    Attributes:
        returns_at_least_bytes: what would come back if all listed ones were destroyed, as far as it is sure.
        returns_at_most_bytes: the most that could; None where the NAS does not tell enough.
    """

    snapshots: tuple[SnapshotAnswer, ...]
    returns_at_least_bytes: int = 0
    returns_at_most_bytes: int | None = None
    ready: bool = True
    ready_detail: str = ""


class RulesAnswer(msgspec.Struct, frozen=True):
    """All rules."""

    rules: tuple[RuleAnswer, ...]


class Problem(msgspec.Struct, frozen=True):
    """What went wrong with a question, as RFC 9457 has it (`application/problem+json`).

    Attributes:
        nearest: names that were probably meant.
    """

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    nearest: tuple[str, ...] = ()
