"""What a source saw, and when it had asked.

The order of evidence is told by `asked_at`, the monotonic second in which the
request was sent (for a watch event: in which it was received). What was asked
later is at least as true as what was asked before, and a jump of the wall clock
cannot change that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

import msgspec

from truetally.model.kubernetes import KubernetesObject
from truetally.model.refs import Kind, Ref
from truetally.model.truenas import TruenasObject

Value = KubernetesObject | TruenasObject


class Seen(msgspec.Struct, frozen=True, gc=False):
    """The object exists and looks like this."""

    ref: Ref
    value: Value
    asked_at: float


class Gone(msgspec.Struct, frozen=True, gc=False):
    """The source says positively that the object does not exist."""

    ref: Ref
    asked_at: float


class Listed(msgspec.Struct, frozen=True, gc=False):
    """A full list of a kind has ended: what is not in `names` is gone, and the kind is complete.

    The values have come before, as Seen. `absent` says that the source does not know the kind at all (a CRD
    that is not installed): then it is complete, and empty.
    """

    source: str
    kind: Kind
    names: frozenset[str]
    asked_at: float
    absent: bool = False


class Trouble(StrEnum):
    """Why a kind cannot be read.

    UNTOLD: this version of the source has such objects and no way to tell them; nobody can mend that, so
    it is no finding, but a rule that needs the kind is held.
    """

    UNREACHABLE = "unreachable"
    DENIED = "denied"
    CREDENTIALS = "credentials"
    FAILED = "failed"
    UNTOLD = "untold"


class Lost(msgspec.Struct, frozen=True, gc=False):
    """A kind is no longer complete; what was known of it is kept, and proves no absence.

    Attributes:
        reason: one sentence for the operator: what is wrong and what to do.
    """

    source: str
    kind: Kind
    trouble: Trouble
    reason: str
    asked_at: float


Observation = Seen | Gone | Listed | Lost

Emit = Callable[[Sequence[Observation]], Awaitable[None]]
"""Hands observations to the reconciler, in order; waits while its queue is full."""


class SourceState(StrEnum):
    """What a source is doing."""

    STARTING = "starting"
    CONNECTED = "connected"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"


class SourceStatus(msgspec.Struct, frozen=True, gc=False):
    """A source as `truetally status` shows it. `detail` is one sentence for the operator."""

    name: str
    kind: str
    state: SourceState
    detail: str = ""
    version: str = ""
    reconnects: int = 0
    last_heard_seconds_ago: float | None = None
