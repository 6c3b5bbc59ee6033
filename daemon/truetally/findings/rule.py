"""What a rule is: one declaration and one pure function.

A rule judges what is, never the event that woke it. It answers with Evidence, or with
Clear and the reason. Evidence of a rule that accuses is only a suspicion: it has to
stand for the rule's grace, and then be confirmed by reading the subject again at both
sources, in the order that proves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum

import msgspec

from truetally.graph.world import Gap, World
from truetally.model.findings import Fact, Severity
from truetally.model.refs import Kind, Ref


class Evidence(msgspec.Struct, frozen=True):
    """Why a rule finds something.

    Attributes:
        facts: what a person can check by hand.
        since: since when the objects themselves say it is so; None if only truetally has watched it.
        severity: if it is not the rule's own.
    """

    summary: str
    facts: Mapping[str, Fact] = {}
    since: datetime | None = None
    severity: Severity | None = None


class Clear(msgspec.Struct, frozen=True):
    """Why a rule finds nothing; `again_at` when time alone may change that."""

    reason: str
    again_at: datetime | None = None


Judgement = Evidence | Clear


class Order(StrEnum):
    """In which order the sources are read again before a suspicion is believed.

    STORAGE_FIRST: the NAS, then every cluster: whatever refers to the dataset by then is seen.
    CLUSTER_FIRST: the cluster, then the NAS: a volume deleted by then is no longer missed.
    """

    STORAGE_FIRST = "storage first"
    CLUSTER_FIRST = "cluster first"


class Reread(msgspec.Struct, frozen=True):
    """What to read again to confirm a suspicion.

    Attributes:
        nas: the NAS to ask; None for a suspicion about Kubernetes alone.
        objects: objects of the NAS to read one by one.
        nas_kinds: kinds of the NAS to list in full.
        cluster_kinds: kinds to list in full in every cluster, or only in `cluster` if that is given.
    """

    order: Order
    nas: str | None = None
    objects: frozenset[Ref] = frozenset()
    nas_kinds: frozenset[Kind] = frozenset()
    cluster_kinds: frozenset[Kind] = frozenset()
    cluster: str | None = None


class Within(StrEnum):
    """Of what a hidden finding has to be a part, for the finding that hides it.

    SOURCE: of the cluster or NAS that cannot be read as a whole, or it depends on that NAS.
    POOL: of the pool that its data is in, while that pool cannot be used.
    """

    SOURCE = "source"
    POOL = "pool"


class Inhibition(msgspec.Struct, frozen=True):
    """A rule whose findings hide those of another: who reads them need not read these.

    Nothing is judged otherwise for it. It says only what is worth to be shown and told.
    """

    rule: str
    within: Within


USUAL = (Inhibition("source-unavailable", Within.SOURCE), Inhibition("pool-degraded", Within.POOL))
"""What hides the findings of every rule that does not say otherwise."""


class Rule(msgspec.Struct, frozen=True):
    """One thing that truetally can find.

    Attributes:
        id: the stable name, as in config and history.
        fix: what a person should do about it.
        subject: the kind of object it judges.
        needs: kinds that must be complete, or the rule is not run and its findings are held.
        judge: the pure verdict on one subject.
        pending: how long it must stand before it is opened.
        nas_of: the NAS that a subject in a cluster depends on.
        reread: what to read again before it opens; None for a rule that calls nothing unused or gone.
        confirmed: empty if, after the re-reading that was begun at the given tick, the evidence is newer and
            complete; otherwise the reason why it is not.
        hidden_by: the rules whose findings hide its own (see `inhibition.py`).
    """

    id: str
    title: str
    fix: str
    severity: Severity
    subject: Kind
    needs: frozenset[Kind]
    judge: Callable[[Ref, World], Judgement]
    pending: Callable[[World], timedelta]
    nas_of: Callable[[Ref, World], str | None] = lambda subject, _world: subject.source
    reread: Callable[[Ref, World], Reread] | None = None
    confirmed: Callable[[Ref, World, float], str] = lambda _subject, _world, _since: ""
    hidden_by: tuple[Inhibition, ...] = USUAL


def gaps(rule: Rule, subject: Ref, world: World) -> tuple[Gap, ...]:
    """Why the rule cannot be run on a subject now; empty if it can."""
    return world.gaps(rule.needs, subject, rule.nas_of(subject, world))
