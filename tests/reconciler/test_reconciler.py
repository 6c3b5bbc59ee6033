"""Does what the sources say become what is told, in the right order and never too early?

The sources are scripted at their edge: they hold a truth, and answer requests to be read
again by emitting it. Time is set by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from truetally.errors import SourceUnavailable
from truetally.model.findings import State
from truetally.model.observations import Gone, Listed, Lost, Seen, Trouble
from truetally.model.refs import KUBERNETES_KINDS, TRUENAS_KINDS, Kind, Ref
from truetally.model.truenas import DatasetUse
from truetally.reconciler import Reconciler
from worlds import CLUSTER, NAS, NOW, PATH, a_dataset, a_pool, a_volume, ref_of, settings

ORPHAN = "dataset-without-volume"
GONE_RULE = "volume-without-dataset"
HOUR = 3600.0


class HandSetClock:
    def __init__(self):
        self.at = 1000.0
        self.jump = timedelta(0)

    def now(self):
        return NOW + timedelta(seconds=self.at - 1000.0) + self.jump

    def ticks(self):
        return self.at


class Scripted:
    """A source that holds the truth and tells it when asked."""

    def __init__(self, name, kinds, *values):
        self.name, self.kinds = name, kinds
        self.truth = {ref_of(v, name): v for v in values}
        self.use = DatasetUse()
        self.fails = None
        self.before_answer = lambda: None
        self.asked = []

    def connect(self, emit, clock, order):
        self.emit, self.clock, self.order = emit, clock, order

    async def relist(self, kinds):
        await self._answer("relist", kinds)
        at = self.clock.ticks()
        for kind in kinds & self.kinds:
            here = {r: v for r, v in self.truth.items() if r.kind is kind}
            await self.emit([Seen(r, v, at) for r, v in here.items()])
            await self.emit([Listed(self.name, kind, frozenset(r.name for r in here), at)])

    async def reread(self, refs):
        await self._answer("reread", refs)
        for ref in refs:
            await self.emit([self._one(ref)])

    async def _answer(self, verb, what):
        self.clock.at += 1.0
        self.order.append((self.name, verb))
        self.asked.append(what)
        self.before_answer()
        if self.fails:
            raise SourceUnavailable(self.name, self.fails)

    def _one(self, ref):
        if ref.kind is Kind.DATASET_USE:
            return Seen(ref, self.use, self.clock.ticks())
        value = self.truth.get(ref)
        return Gone(ref, self.clock.ticks()) if value is None else Seen(ref, value, self.clock.ticks())


class Running:
    def __init__(self, reconciler, clock, cluster, nas, told, order, task):
        self.reconciler, self.clock, self.cluster, self.nas = reconciler, clock, cluster, nas
        self.told, self.order, self.task = told, order, task

    async def settle(self):
        """Until everything that was emitted has been judged, and no confirmation is under way."""
        for _ in range(200):
            await self.reconciler.emit([Gone(Ref(NAS, Kind.ALERT, "nobody"), 0.0)])
            await asyncio.sleep(0)
            if self.reconciler.queue_depth == 0 and self.reconciler._round is None:
                await asyncio.sleep(0.002)
                if self.reconciler.queue_depth == 0 and self.reconciler._round is None:
                    return
        raise AssertionError("it does not come to rest")

    async def read_all(self):
        await self.nas.relist(self.nas.kinds)
        await self.cluster.relist(self.cluster.kinds)
        await self.settle()
        self.order.clear()

    async def wait(self, seconds):
        self.clock.at += seconds
        await self.settle()

    def states(self):
        return [(t.finding.rule, t.finding.state.value) for t in self.told]


@asynccontextmanager
async def running(*on_nas, in_cluster=(), restored=(), **config) -> AsyncIterator[Running]:
    clock, told, order = HandSetClock(), [], []

    async def record(transitions):
        told.extend(transitions)

    reconciler = Reconciler(settings(**config), clock, record, restored)
    cluster = Scripted(CLUSTER, KUBERNETES_KINDS, *in_cluster)
    nas = Scripted(NAS, TRUENAS_KINDS, a_pool(), a_dataset("tank", user_properties={}), *on_nas)
    for source in (cluster, nas):
        source.connect(reconciler.emit, clock, order)
    reconciler.watch({CLUSTER: cluster}, {NAS: nas})
    task = asyncio.create_task(reconciler.run())
    try:
        yield Running(reconciler, clock, cluster, nas, told, order, task)
        assert not task.done(), "the reconciler has ended"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_orphan_is_told_after_its_grace_and_once():
    async with running(a_dataset()) as it:
        await it.read_all()
        await it.wait(HOUR - 10)
        assert it.told == []
        await it.wait(11)
        assert it.states() == [(ORPHAN, "open")]
        await it.wait(HOUR)
        assert it.states() == [(ORPHAN, "open")]


async def test_the_nas_is_read_again_first_and_every_cluster_after_it():
    async with running(a_dataset()) as it:
        await it.read_all()
        await it.wait(HOUR + 1)
        assert it.order == [(NAS, "relist"), (NAS, "reread"), (CLUSTER, "relist")]


async def test_a_volume_that_the_watch_has_missed_is_found_by_the_reading_before_the_accusation():
    async with running(a_dataset()) as it:
        await it.read_all()
        it.cluster.truth[ref_of(a_volume())] = a_volume()
        await it.wait(HOUR + 1)
        assert it.told == []


async def test_a_dataset_that_somebody_uses_is_not_accused():
    async with running(a_dataset()) as it:
        it.nas.use = DatasetUse(clients=("10.0.0.7",))
        await it.read_all()
        await it.wait(HOUR + 1)
        assert it.told == []
        it.nas.use = DatasetUse()
        await it.wait(HOUR)
        await it.wait(HOUR + 1)
        assert it.states() == [(ORPHAN, "open")]


@pytest.mark.parametrize("which", ["cluster", "nas"])
async def test_while_a_source_cannot_be_read_again_nobody_is_accused(which):
    async with running(a_dataset()) as it:
        await it.read_all()
        source = getattr(it, which)
        source.fails = "connection refused"
        await it.wait(HOUR + 1)
        assert it.told == []
        assert "connection refused" in it.reconciler.ledger.findings()[0].note
        source.fails = None
        await it.wait(31)
        assert it.states() == [(ORPHAN, "open")]


async def test_when_its_dataset_is_destroyed_the_finding_is_resolved():
    async with running(a_dataset()) as it:
        await it.read_all()
        await it.wait(HOUR + 1)
        del it.nas.truth[ref_of(a_dataset())]
        await it.nas.relist(frozenset({Kind.DATASET}))
        await it.settle()
        assert it.states() == [(ORPHAN, "open"), (ORPHAN, "resolved")]
        assert it.told[-1].finding.note == "the dataset is gone"


async def test_a_nas_that_is_lost_holds_its_findings_and_resolves_none():
    async with running(a_dataset()) as it:
        await it.read_all()
        await it.wait(HOUR + 1)
        lost = [Lost(NAS, kind, Trouble.UNREACHABLE, "it is off", it.clock.ticks()) for kind in TRUENAS_KINDS]
        await it.reconciler.emit(lost)
        await it.settle()
        await it.wait(130)
        assert it.states() == [(ORPHAN, "open"), (ORPHAN, "held"), ("source-unavailable", "open")]
        await it.nas.relist(TRUENAS_KINDS)
        await it.settle()
        assert it.states()[3:] in (
            [(ORPHAN, "open"), ("source-unavailable", "resolved")],
            [("source-unavailable", "resolved"), (ORPHAN, "open")],
        )


async def test_a_clock_that_jumps_ahead_opens_nothing():
    async with running(a_dataset()) as it:
        await it.read_all()
        it.clock.jump = timedelta(days=3)
        await it.wait(60)
        assert it.told == []


async def test_a_list_that_has_suddenly_lost_most_volumes_accuses_nobody():
    names = [f"pvc-3b4f5f0e-8f1a-4c8a-9d0e-0000000000{n:02d}" for n in range(40)]
    parent = PATH.rpartition("/")[0]
    datasets = [a_dataset(f"{parent}/{name}") for name in names]
    volumes = [a_volume(name, claim=None) for name in names]
    async with running(*datasets, in_cluster=volumes) as it:
        await it.read_all()
        it.cluster.truth = {}
        await it.cluster.relist(frozenset({Kind.PERSISTENT_VOLUME}))
        await it.settle()
        await it.wait(HOUR - 60)
        assert it.told == []


async def test_after_a_restart_an_open_finding_is_neither_repeated_nor_forgotten():
    async with running(a_dataset()) as it:
        await it.read_all()
        await it.wait(HOUR + 1)
        before = it.reconciler.ledger.findings()
    async with running(a_dataset(), restored=before) as again:
        await again.read_all()
        await again.wait(2 * HOUR)
        assert again.told == []
        assert [f.state for f in again.reconciler.ledger.findings()] == [State.OPEN]


async def test_what_was_mended_while_truetally_was_down_is_resolved():
    async with running(a_dataset()) as it:
        await it.read_all()
        await it.wait(HOUR + 1)
        before = it.reconciler.ledger.findings()
    async with running(restored=before) as again:
        await again.read_all()
        assert again.states() == [(ORPHAN, "resolved")]


async def test_a_volume_whose_dataset_is_gone_is_told_after_cluster_and_then_nas_were_read_again():
    async with running(in_cluster=[a_volume()]) as it:
        await it.read_all()
        await it.wait(301)
        assert it.states() == [(GONE_RULE, "open")]
        assert it.order == [(CLUSTER, "relist"), (NAS, "relist")]


async def test_what_a_thing_that_is_not_linked_to_it_had_kept_from_being_found_is_found_a_little_later():
    async with running(a_dataset()) as it:
        it.nas.truth[ref_of(a_pool())] = a_pool(status="OFFLINE")
        await it.read_all()
        await it.wait(HOUR)
        it.nas.truth[ref_of(a_pool())] = a_pool()
        await it.nas.relist(frozenset({Kind.POOL}))
        await it.settle()
        await it.wait(600)
        await it.wait(HOUR + 1)
        assert (ORPHAN, "open") in it.states()


async def test_a_bug_in_a_confirmation_ends_the_reconciler():
    with pytest.raises(ExceptionGroup) as caught:
        await _run_into_a_bug()
    assert caught.group_contains(ZeroDivisionError)


async def _run_into_a_bug():
    async with running(a_dataset()) as it:
        await it.read_all()
        it.nas.before_answer = lambda: 1 // 0
        it.clock.at += HOUR + 1
        await it.reconciler.emit([Gone(Ref(NAS, Kind.ALERT, "nobody"), 0.0)])
        await asyncio.wait_for(asyncio.shield(it.task), 5)


async def test_other_settings_forget_a_source_that_has_become_another():
    async with running(a_dataset()) as it:
        await it.read_all()
        await it.wait(HOUR + 1)
        await it.reconciler.reload(it.reconciler.settings, [NAS])
        await it.settle()
        assert it.reconciler.graph.count(Kind.DATASET) == 0
        assert it.states() == [(ORPHAN, "open")]
        del it.nas.truth[ref_of(a_dataset())]
        await it.nas.relist(TRUENAS_KINDS)
        await it.settle()
        assert it.states() == [(ORPHAN, "open"), (ORPHAN, "resolved")]


async def test_a_rule_that_is_disabled_resolves_what_it_had_found():
    async with running(a_dataset()) as it:
        await it.read_all()
        await it.wait(HOUR + 1)
        await it.reconciler.reload(settings(rules={"disabled": [ORPHAN]}), [])
        await it.settle()
        assert it.told[-1].finding.note == "the rule is disabled"


async def test_an_exemption_that_is_added_resolves_what_it_covers():
    async with running(a_dataset()) as it:
        await it.read_all()
        await it.wait(HOUR + 1)
        exempt = {"name": "tank/*", "reason": "archive of 2025"}
        await it.reconciler.reload(settings(exemptions=[exempt]), [])
        await it.settle()
        assert it.told[-1].finding.note == "exempted: archive of 2025"
