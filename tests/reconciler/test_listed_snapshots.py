"""Does the daemon list snapshots from memory, and call one orphaned only after it was proven?"""

from __future__ import annotations

from datetime import timedelta

import pytest
from test_hidden_findings import tally
from test_reconciler import running

from truetally.csi import democratic_csi as csi
from truetally.errors import NotFound
from truetally.model.snapshots import SnapshotOrder, SnapshotVerdict
from worlds import (
    NAME,
    NAS,
    PATH,
    SNAPSHOT_UID,
    a_claim,
    a_dataset,
    a_share,
    a_snapshot,
    a_volume,
    properties,
)

OWN = a_snapshot(user_properties=properties(**{csi.SNAPSHOT_NAME: f"snapshot-{SNAPSHOT_UID}"}))
VOLUME = (a_volume(), a_claim())
PRESSING = {"grace": "1m"}


async def listed(it, **asked):
    question = {"source": None, "volume": None, "verdict": None, "older_than": None} | asked
    return await tally(it).snapshots(**({"order": SnapshotOrder.NAME} | question))


async def test_a_snapshot_is_suspected_first_and_orphaned_once_it_is_proven():
    async with running(a_dataset(), OWN, in_cluster=VOLUME, rules=PRESSING) as it:
        await it.read_all()
        assert [each.verdict for each in (await listed(it)).snapshots] == ["suspected"]
        assert (await listed(it, verdict=SnapshotVerdict.ORPHANED)).snapshots == ()
        await it.wait(70)
        (found,) = (await listed(it, verdict=SnapshotVerdict.ORPHANED)).snapshots
        assert (found.path, found.volume, found.findings) == (OWN.path, NAME, 1)


async def test_snapshots_are_chosen_by_volume_age_and_source_and_ordered():
    large = a_snapshot("large", used_bytes=9)
    ageless = a_snapshot("ageless", created_at=None)
    async with running(a_dataset(snapshots_bytes=20), large, ageless, in_cluster=VOLUME) as it:
        await it.read_all()

        async def names(**asked) -> list[str]:
            return [each.name for each in (await listed(it, **asked)).snapshots]

        assert await names() == ["ageless", "large"]
        assert await names(order=SnapshotOrder.SIZE) == ["large", "ageless"]
        assert await names(older_than=timedelta(days=1)) == ["large"]
        assert await names(older_than=timedelta(days=4000)) == []
        assert await names(volume="default/data") == ["ageless", "large"]
        assert await names(source="elsewhere") == []
        assert await names(volume=PATH, verdict=SnapshotVerdict.ORPHANED) == []
        answer = await listed(it)
        assert (answer.returns_at_least_bytes, answer.returns_at_most_bytes) == (20, 20)


@pytest.mark.parametrize("told", [True, False])
async def test_overdue_snapshots_are_told_once_they_have_been_read_singly(told):
    """Only a single reading tells holds and promised ends; where even that does not, nothing is told."""
    old = a_snapshot("zrepl_1", user_properties={} if told else None)
    week = [{"max_age": "7d", "makers": ["zrepl"]}]
    async with running(a_dataset(), a_share(), old, in_cluster=VOLUME, rules=PRESSING, retention=week) as it:
        await it.read_all()
        await it.wait(70)
        assert (NAS, "reread") in it.order
        assert it.states() == ([("snapshot-retention", "open")] if told else [])
        assert [each.verdict for each in (await listed(it)).snapshots] == ["overdue" if told else "kept"]


async def test_a_volume_that_nobody_knows_is_refused_with_the_nearest_name():
    async with running(a_dataset(), OWN, in_cluster=VOLUME) as it:
        await it.read_all()
        with pytest.raises(NotFound, match="no volume, claim or dataset"):
            await listed(it, volume=NAME[:-1])
