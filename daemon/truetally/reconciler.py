"""The reconciler: the one writer of the graph, and the clockwork of the rules.

It drains the queue of observations, applies them, judges the subjects that became
dirty, settles the ledger and hands the transitions on to be recorded. It never waits
while it judges; long work yields to the loop between slices. Suspicions that have
matured are confirmed in rounds: the sources are asked again in the order that proves
the rule's point, their answers come back through the same queue, and only then is the
ledger asked to open what still stands.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Protocol

import msgspec
import structlog

from truetally.clock import Clock
from truetally.errors import AccessDenied, CredentialsRefused, SourceUnavailable
from truetally.findings import catalogue
from truetally.findings.ledger import Ledger
from truetally.findings.rule import Clear, Order, Reread, Rule, gaps
from truetally.findings.sources import subjects as source_subjects
from truetally.graph.graph import Changes, Graph
from truetally.graph.world import World
from truetally.model.findings import Finding, State, Transition
from truetally.model.observations import Observation
from truetally.model.refs import KUBERNETES_KINDS, Kind, Ref
from truetally.pace import Pace
from truetally.settings import Settings

log = structlog.get_logger(__name__)

# How long observations are gathered before what they changed is judged.
_DRAIN_SECONDS = 0.1
_QUEUE_BATCHES = 256
_CONFIRM_AT_ONCE = 200
_CONFIRM_RETRY = 30.0
_REVIEW_EVERY = 30.0
# How often everything is judged anew, whatever has changed.
_RESYNC_EVERY = 600.0

_EXPECTED = (SourceUnavailable, AccessDenied, CredentialsRefused)


class ClusterReader(Protocol):
    """What the reconciler asks of a cluster."""

    async def relist(self, kinds: frozenset[Kind]) -> None:
        """Lists the kinds again in full; returns when the lists have been emitted."""
        ...


class NasReader(ClusterReader, Protocol):
    """What the reconciler asks of a NAS."""

    async def reread(self, refs: frozenset[Ref]) -> None:
        """Reads these objects again; returns when what was found has been emitted."""
        ...


class _Confirmed(msgspec.Struct, frozen=True):
    """The sources have been read again for these suspicions; begun at that tick."""

    fingerprints: tuple[str, ...]
    begun_at: float
    problem: str = ""


class _Reload(msgspec.Struct, frozen=True):
    """Other settings, and the sources that are gone or have become others."""

    settings: Settings
    dropped: tuple[str, ...]


_Batch = Sequence[Observation] | _Confirmed | _Reload

Record = Callable[[Sequence[Transition]], Awaitable[None]]


class Reconciler:
    """Applies observations, judges, and publishes transitions."""

    def __init__(
        self, settings: Settings, clock: Clock, record: Record, restored: Iterable[Finding] = ()
    ) -> None:
        self.settings = settings
        self.graph = Graph(settings.rules.grace.total_seconds(), _markers(settings))
        self.ledger = Ledger()
        self.ledger.restore(restored)
        self.batch_seconds = 0.0
        self._clusters: Mapping[str, ClusterReader] = {}
        self._nas: Mapping[str, NasReader] = {}
        self._clock = clock
        self._record = record
        self._queue: asyncio.Queue[_Batch] = asyncio.Queue(_QUEUE_BATCHES)
        self._again: list[tuple[datetime, str, Ref]] = []
        self._again_at: dict[tuple[str, Ref], datetime] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._round: asyncio.Task[None] | None = None
        self._review_at = 0.0
        self._resync_at = clock.ticks() + _RESYNC_EVERY
        self._review_all = True

    @property
    def queue_depth(self) -> int:
        """How many batches wait to be applied."""
        return self._queue.qsize()

    def watch(self, clusters: Mapping[str, ClusterReader], nas: Mapping[str, NasReader]) -> None:
        """Says whom to ask when a suspicion has to be confirmed."""
        self._clusters, self._nas = clusters, nas

    def world(self) -> World:
        """The world at this moment."""
        now, ticks = self._clock.now(), self._clock.ticks()
        return World(self.graph, self.settings, now, ticks, self.ledger.told)

    async def emit(self, observations: Sequence[Observation]) -> None:
        """Takes observations from a source; waits while the queue is full."""
        if observations:
            await self._queue.put(observations)

    async def reload(self, settings: Settings, dropped: Iterable[str]) -> None:
        """Takes other settings: forgets the dropped sources, and judges everything anew.

        It waits its turn in the queue: what a source emits after this call meets the new settings.
        """
        await self._queue.put(_Reload(settings, tuple(dropped)))

    async def run(self) -> None:
        """Works until it is cancelled; a bug in a confirmation ends it as one in the loop itself does."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            while True:
                await self._work(await self._next())

    async def _work(self, batch: _Batch | None) -> None:
        began = time.perf_counter()
        changes = Changes()
        confirmed: _Confirmed | None = None
        while batch is not None:
            if isinstance(batch, _Confirmed):
                # What was read for it stood before it in the queue, and has been applied.
                confirmed = batch
                break
            if isinstance(batch, _Reload):
                self._take(batch, changes)
                break
            await self._apply(batch, changes)
            batch = self._waiting() if time.perf_counter() - began < _DRAIN_SECONDS else None
        await self._judge_changes(changes)
        if confirmed is not None:
            await self._settle_confirmed(confirmed)
        await self._tick()
        self.batch_seconds = time.perf_counter() - began

    def _take(self, reload: _Reload, changes: Changes) -> None:
        self.settings = reload.settings
        for source in reload.dropped:
            self.graph.drop_source(source, changes)
        self.graph.use_markers(_markers(reload.settings))
        self._review_all = True

    async def _next(self) -> _Batch | None:
        now, ticks = self._clock.now(), self._clock.ticks()
        waits = [_REVIEW_EVERY, max(0.0, self._review_at - ticks)]
        if (mature_at := self.ledger.next_at()) is not None and self._round is None:
            waits.append(max(0.0, mature_at - ticks))
        if self._again:
            waits.append(max(0.0, (self._again[0][0] - now).total_seconds()))
        try:
            # Not wait_for(): before Python 3.12 it swallows a cancellation that meets an arriving item.
            async with asyncio.timeout(max(0.01, min(waits))):
                return await self._queue.get()
        except TimeoutError:
            return None

    def _waiting(self) -> _Batch | None:
        return None if self._queue.empty() else self._queue.get_nowait()

    async def _apply(self, batch: Sequence[Observation], changes: Changes) -> None:
        pace = Pace()
        for observation in batch:
            self.graph.apply(observation, changes)
            await pace.breathe()

    # Judging

    async def _judge_changes(self, changes: Changes) -> None:
        world = self.world()
        if self._review_all:
            self._review_all = False
            await self._judge(chain(self._all_of(catalogue.RULES, world), self.ledger.subjects()), world)
            return
        changed = await self._of(changes.refs, world)
        if changes.kinds:
            needed = {kind for _, kind in changes.kinds}
            touched = [
                r for r in catalogue.RULES if r.subject is Kind.SOURCE or not r.needs.isdisjoint(needed)
            ]
            await self._judge(chain(self._all_of(touched, world), self.ledger.subjects(), changed), world)
        else:
            await self._judge(changed, world)

    def _all_of(self, rules: Iterable[Rule], world: World) -> Iterator[tuple[str, Ref]]:
        """All subjects of these rules at the sources where they can be run at all."""
        for rule in rules:
            if rule.subject is Kind.SOURCE:
                yield from ((rule.id, ref) for ref in source_subjects(world))
                continue
            for source in (*world.clusters, *world.nas_names):
                if _can_run(rule, source, world):
                    for name in self.graph.nodes(source, rule.subject):
                        yield rule.id, Ref(source, rule.subject, name)

    async def _of(self, refs: Iterable[Ref], world: World) -> list[tuple[str, Ref]]:
        """The subjects in the chains of what changed, for the rules that can be run."""
        sources = (*world.clusters, *world.nas_names)
        if not any(_can_run(rule, s, world) for rule in catalogue.RULES for s in sources):
            return []
        able: dict[tuple[str, str], bool] = {}
        chains: set[Ref] = set()
        work: list[tuple[str, Ref]] = []
        pace = Pace()
        for ref in refs:
            if ref not in chains:
                related = self.graph.related(ref) - chains
                chains |= related
                for each in related:
                    for rule in catalogue.rules_for(each.kind):
                        where = rule.id, each.source
                        if where not in able:
                            able[where] = _can_run(rule, each.source, world)
                        if able[where]:
                            work.append((rule.id, each))
            await pace.breathe()
        return work

    async def _judge(self, work: Iterable[tuple[str, Ref]], world: World) -> None:
        transitions: list[Transition] = []
        judged: set[tuple[str, Ref]] = set()
        pace = Pace()
        for each in work:
            # A finding of a rule that this version does not have any more stays as it is.
            if each not in judged and (rule := catalogue.BY_ID.get(each[0])) is not None:
                judged.add(each)
                transitions += self._judge_one(rule, each[1], world)
            await pace.breathe()
        await self._publish(transitions)

    def _judge_one(self, rule: Rule, ref: Ref, world: World) -> list[Transition]:
        if rule.id in world.settings.rules.disabled:
            return self.ledger.clear(rule.id, ref, "the rule is disabled", world.now)
        if (exemption := world.exemption(rule.id, ref)) is not None:
            return self.ledger.clear(rule.id, ref, f"exempted: {exemption.reason}", world.now)
        if missing := gaps(rule, ref, world):
            troubled = [gap for gap in missing if not gap.starting]
            known = self.ledger.finding(rule.id, ref)
            if known is None or (known.state is not State.PENDING and not troubled):
                return []
            return self.ledger.hold(rule.id, ref, (troubled or missing)[0].reason, world.now)
        judgement = rule.judge(ref, world)
        if isinstance(judgement, Clear):
            if judgement.again_at is not None and self._again_at.get((rule.id, ref)) != judgement.again_at:
                self._again_at[rule.id, ref] = judgement.again_at
                heapq.heappush(self._again, (judgement.again_at, rule.id, ref))
            return self.ledger.clear(rule.id, ref, judgement.reason, world.now)
        return self.ledger.found(rule, ref, judgement, world)

    async def _publish(self, transitions: Sequence[Transition]) -> None:
        for transition in transitions:
            finding = transition.finding
            log.info(
                "finding changed",
                state=finding.state.value,
                rule=finding.rule,
                subject=str(finding.subject),
                fingerprint=finding.fingerprint,
                reason=transition.reason,
            )
        if transitions:
            await self._record(transitions)

    async def acknowledge(self, fingerprint: str, by: str, reason: str) -> Finding:
        """Somebody has seen a finding.

        Raises:
            NotFound: no open or held finding has this fingerprint.
        """
        transition = self.ledger.acknowledge(fingerprint, by, reason, self._clock.now())
        await self._publish([transition])
        return transition.finding

    # What time brings

    async def _tick(self) -> None:
        world = self.world()
        due: list[tuple[str, Ref]] = []
        while self._again and self._again[0][0] <= world.now:
            _, rule, ref = heapq.heappop(self._again)
            self._again_at.pop((rule, ref), None)
            due.append((rule, ref))
        if world.ticks >= self._review_at:
            # A neighbour may bear on a finding without being linked to it, and a clock may have jumped.
            self._review_at = world.ticks + _REVIEW_EVERY
            due += self.ledger.subjects()
        if world.ticks >= self._resync_at:
            # What is not linked to a subject bears on it as well: its pool, its neighbours, its class.
            self._resync_at = world.ticks + _RESYNC_EVERY
            await self._judge(chain(due, self._all_of(catalogue.RULES, world)), world)
        elif due:
            await self._judge(due, world)
        await self._open_mature(world)

    async def _open_mature(self, world: World) -> None:
        mature = self.ledger.mature(world.ticks)
        transitions: list[Transition] = []
        to_confirm: list[tuple[Finding, Reread]] = []
        for finding in mature:
            rule = catalogue.BY_ID[finding.rule]
            if rule.reread is None:
                transitions += self.ledger.open(finding.fingerprint, world.now)
            elif len(to_confirm) < _CONFIRM_AT_ONCE:
                to_confirm.append((finding, rule.reread(finding.subject, world)))
        await self._publish(transitions)
        if to_confirm and self._round is None and self._tasks is not None:
            for finding, _ in to_confirm:
                self.ledger.confirming(finding.fingerprint)
            self._round = self._tasks.create_task(self._confirm(to_confirm), name="confirm suspicions")

    async def _confirm(self, suspicions: Sequence[tuple[Finding, Reread]]) -> None:
        """Reads the sources again, once for all suspicions of the same order and sources."""
        groups: dict[tuple[Order, str | None, str | None], list[tuple[Finding, Reread]]] = {}
        for finding, reread in suspicions:
            groups.setdefault((reread.order, reread.nas, reread.cluster), []).append((finding, reread))
        for members in groups.values():
            begun_at = self._clock.ticks()
            problem = await self._read_again([reread for _, reread in members])
            fingerprints = tuple(finding.fingerprint for finding, _ in members)
            await self._queue.put(_Confirmed(fingerprints, begun_at, problem))
        self._round = None
        await self._queue.put(())

    async def _read_again(self, rereads: Sequence[Reread]) -> str:
        first = rereads[0]
        objects = frozenset().union(*(r.objects for r in rereads))
        nas_kinds = frozenset().union(*(r.nas_kinds for r in rereads))
        cluster_kinds = frozenset().union(*(r.cluster_kinds for r in rereads)) & KUBERNETES_KINDS
        try:
            if first.order is Order.STORAGE_FIRST:
                await self._read_nas(first.nas, objects, nas_kinds)
                await self._read_clusters(first.cluster, cluster_kinds)
            else:
                await self._read_clusters(first.cluster, cluster_kinds)
                await self._read_nas(first.nas, objects, nas_kinds)
        except _EXPECTED as error:
            return str(error)
        return ""

    async def _read_nas(self, name: str | None, objects: frozenset[Ref], kinds: frozenset[Kind]) -> None:
        if name is None:
            return
        if (nas := self._nas.get(name)) is None:
            raise SourceUnavailable(name, "it is not configured any more")
        # The reading of the object itself has the last word: it cannot miss what a long list might.
        if kinds:
            await nas.relist(kinds)
        if objects:
            await nas.reread(objects)

    async def _read_clusters(self, name: str | None, kinds: frozenset[Kind]) -> None:
        if not kinds:
            return
        names = self._clusters if name is None else [name]
        for each in names:
            if (cluster := self._clusters.get(each)) is None:
                raise SourceUnavailable(each, "it is not configured any more")
            await cluster.relist(kinds)

    async def _settle_confirmed(self, confirmed: _Confirmed) -> None:
        world = self.world()
        transitions: list[Transition] = []
        for fingerprint in confirmed.fingerprints:
            finding = self.ledger.pending(fingerprint)
            if finding is None:
                continue
            rule = catalogue.BY_ID[finding.rule]
            for each in catalogue.rules_for(finding.subject.kind):
                transitions += self._judge_one(each, finding.subject, world)
            if self.ledger.pending(fingerprint) is None:
                continue
            problem = confirmed.problem or rule.confirmed(finding.subject, world, confirmed.begun_at)
            if problem:
                self.ledger.unconfirmed(fingerprint, problem, world.ticks + _CONFIRM_RETRY)
                log.info(
                    "suspicion not confirmed", rule=rule.id, subject=str(finding.subject), reason=problem
                )
            else:
                transitions += self.ledger.open(fingerprint, world.now)
        await self._publish(transitions)


def _markers(settings: Settings) -> tuple[str, ...]:
    return tuple(dict.fromkeys(d.marker_property for d in settings.drivers if d.marker_property))


def _can_run(rule: Rule, source: str, world: World) -> bool:
    """Whether a rule can be run on any subject of a source, as far as its source alone tells.

    A subject in a cluster depends on one NAS as well, which is only known by following it.
    """
    if rule.subject is Kind.SOURCE or (source in world.clusters) is not (rule.subject in KUBERNETES_KINDS):
        return False
    nas = source if source in world.nas_names else None
    return not world.gaps(rule.needs, Ref(source, rule.subject, ""), nas)
