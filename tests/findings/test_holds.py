"""A held snapshot is a use of its dataset, and only the reading of the snapshot itself tells the hold."""

from __future__ import annotations

import pytest

from truetally.findings import catalogue
from truetally.graph.graph import Changes
from truetally.model import truenas
from truetally.model.observations import Listed, Seen
from truetally.model.refs import Kind, Ref
from worlds import CLUSTER, NAS, PATH, a_dataset, a_pool, a_snapshot, ref_of, seen, world

RULE = catalogue.BY_ID["dataset-without-volume"]
SUBJECT = ref_of(a_dataset())


def test_the_snapshots_of_a_dataset_are_read_again_before_it_is_accused():
    assert (
        ref_of(a_snapshot("auto-1")) in RULE.reread(SUBJECT, world(a_dataset(), a_snapshot("auto-1"))).objects
    )


@pytest.mark.parametrize(("holds", "confirmed"), [(None, False), ((), True)])
def test_it_is_not_accused_before_their_holds_are_known(holds, confirmed):
    in_world = world(a_pool(), a_dataset(), a_snapshot("auto-1", holds=holds))
    changes = Changes()
    in_world.graph.apply(seen(a_dataset(), 90.0), changes)
    in_world.graph.apply(Seen(Ref(NAS, Kind.DATASET_USE, PATH), truenas.DatasetUse(), 90.0), changes)
    for kind in RULE.needs:
        in_world.graph.apply(Listed(CLUSTER, kind, frozenset(), 91.0), changes)
    problem = RULE.confirmed(SUBJECT, in_world, 90.0)
    assert (problem == "") is confirmed
    assert confirmed or "auto-1" in problem
