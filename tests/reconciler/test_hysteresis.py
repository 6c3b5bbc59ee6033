"""Is a reading that wavers around its threshold told once, also over a restart?"""

from __future__ import annotations

from test_reconciler import running

from truetally.model.refs import Kind, Ref
from worlds import NAS, a_pool, ref_of

FULL = "pool-nearly-full"


def filled(percent: float):
    return a_pool(size_bytes=1000, allocated_bytes=round(percent * 10), free_bytes=1000 - round(percent * 10))


async def read(it, percent):
    it.nas.truth[ref_of(filled(percent))] = filled(percent)
    await it.nas.relist(frozenset({Kind.POOL}))
    await it.settle()


def of_fullness(it):
    return [(t.finding.state.value, t.finding.severity.value) for t in it.told if t.finding.rule == FULL]


async def test_a_pool_that_wavers_is_told_once_and_resolved_two_points_below():
    async with running() as it:
        await it.read_all()
        for percent in (79, 80, 79, 81, 78.5):
            await read(it, percent)
        assert of_fullness(it) == [("open", "warning")]
        await read(it, 77.9)
        assert of_fullness(it) == [("open", "warning"), ("resolved", "warning")]


async def test_growing_worse_is_told_at_once_and_growing_better_two_points_below():
    async with running() as it:
        await it.read_all()
        for percent in (80, 90, 89, 87):
            await read(it, percent)
        assert of_fullness(it) == [("open", "warning"), ("open", "critical"), ("open", "warning")]


async def test_what_was_told_before_a_restart_is_taken_back_no_sooner():
    async with running() as it:
        await it.read_all()
        await read(it, 81)
        before = it.reconciler.ledger.findings()
    async with running(restored=before) as it:
        it.nas.truth[ref_of(filled(79))] = filled(79)
        await it.read_all()
        assert of_fullness(it) == []
        assert it.reconciler.ledger.told(FULL, Ref(NAS, Kind.POOL, "tank")) is not None
        await read(it, 77)
        assert of_fullness(it) == [("resolved", "warning")]
