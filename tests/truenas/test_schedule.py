"""When is a kind read again, and which snapshots after a change?"""

from __future__ import annotations

from datetime import timedelta

import pytest

from truenas.scripted import nas_settings
from truetally.model.refs import Kind
from truetally.sources.truenas.schedule import Schedule, SnapshotChanges, Told, interval


def settings(**changes):
    return nas_settings(1, **changes)


def test_by_default_datasets_are_read_every_minute_and_snapshots_every_half_hour():
    assert interval(Kind.DATASET, settings()) == 60
    assert interval(Kind.NFS_SHARE, settings()) == 60
    assert interval(Kind.ALERT, settings()) == 600
    assert interval(Kind.SNAPSHOT, settings()) == 1800


def test_a_kind_can_have_an_interval_of_its_own():
    own = settings(intervals={"Pool": "30s", "Snapshot": "2h"})
    assert interval(Kind.POOL, own) == 30
    assert interval(Kind.SNAPSHOT, own) == 7200
    assert interval(Kind.DATASET, own) == 60


def test_a_kind_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValueError, match=r"there is no kind Datasets; the kinds are .*Dataset"):
        settings(intervals={"Datasets": "30s"})


def test_a_list_that_takes_long_is_asked_for_a_tenth_of_the_time():
    assert interval(Kind.DATASET, settings(), took=5) == 60
    assert interval(Kind.DATASET, settings(), took=20) == 200


def test_what_is_due_first_is_read_first():
    it = Schedule([Kind.ALERT, Kind.DATASET, Kind.SNAPSHOT], settings(), now=100)
    assert it.next() == (Kind.DATASET, 160)
    it.done(Kind.DATASET, 160, 162)
    assert it.next() == (Kind.DATASET, 220)


def test_what_changes_while_it_is_listed_waits_no_longer_than_the_interval():
    it = Schedule([Kind.DATASET], settings(), now=0)
    it.done(Kind.DATASET, began=60, ended=65)
    assert it.next() == (Kind.DATASET, 120)


def test_a_kind_that_failed_is_tried_again_soon_however_seldom_it_is_read():
    it = Schedule([Kind.SNAPSHOT], settings(), now=0, failing={Kind.SNAPSHOT})
    assert it.next() == (Kind.SNAPSHOT, 60)
    it.done(Kind.SNAPSHOT, 60, 61, failed=True)
    assert it.next() == (Kind.SNAPSHOT, 120)
    it.done(Kind.SNAPSHOT, 120, 121)
    assert it.next() == (Kind.SNAPSHOT, 120 + timedelta(minutes=30).total_seconds())


def test_snapshots_of_whose_changes_nobody_tells_are_read_as_often_as_the_rest():
    it = Schedule([Kind.SNAPSHOT], settings(), now=0, blind={Kind.SNAPSHOT})
    assert it.next() == (Kind.SNAPSHOT, 600)
    it.done(Kind.SNAPSHOT, 600, 610, blind=True)
    assert it.next() == (Kind.SNAPSHOT, 1200)
    it.done(Kind.SNAPSHOT, 1200, 1300, blind=True)
    assert it.next() == (Kind.SNAPSHOT, 2200)


def test_no_reading_is_later_than_configured_and_two_clients_differ():
    early = Schedule([Kind.DATASET], settings(), now=0, chance=0.0).next()[1]
    late = Schedule([Kind.DATASET], settings(), now=0, chance=1.0).next()[1]
    assert 54 <= early < late <= 60


def told(**datasets):
    """What datasets say: the second of the last change, or that and the origin."""
    return {f"tank/{n}": Told(says) if isinstance(says, int) else Told(*says) for n, says in datasets.items()}


def settled(**datasets) -> SnapshotChanges:
    it = SnapshotChanges()
    it.prime(told(**datasets), 0)
    it.take(told(**datasets), 10)
    return it


def test_snapshots_are_read_where_the_dataset_says_that_they_changed():
    it = settled(a=10, b=10)
    assert it.take(told(a=10, b=10), 60) == []
    assert it.take(told(a=10, b=11), 120) == ["tank/b"]


def test_they_are_read_again_because_another_change_in_the_same_second_looks_like_none():
    it = settled(a=10)
    assert it.take(told(a=11), 60) == ["tank/a"]
    assert it.take(told(a=11), 120) == ["tank/a"]
    assert it.take(told(a=11), 180) == []


def test_however_quickly_it_is_read_the_second_has_to_be_over():
    it = settled(a=10)
    reads = [it.take(told(a=11), 60 + n / 10) for n in range(30)]
    assert reads[:20] == [["tank/a"]] * 20
    assert reads[-1] == []


def test_what_had_just_changed_when_all_was_read_is_read_once_more():
    it = SnapshotChanges()
    it.prime(told(a=100, b=99, c=50), 0)
    assert it.take(told(a=100, b=99, c=50), 60) == ["tank/a", "tank/b"]
    assert it.take(told(a=100, b=99, c=50), 120) == []


def test_a_new_dataset_is_read():
    assert settled(a=10).take(told(a=10, b=5), 60) == ["tank/b"]


def test_a_dataset_that_is_gone_is_not_asked_for():
    it = settled(a=10)
    it.take(told(a=11), 60)
    assert it.take({}, 61) == []


def test_a_promotion_concerns_the_clone_and_where_it_came_from():
    it = settled(a=10, clone=(10, "tank/a@first"))
    assert it.take(told(a=(10, "tank/clone@first"), clone=10), 60) == ["tank/a", "tank/clone"]


def test_what_could_not_be_read_is_read_the_next_time():
    it = settled(a=10)
    it.forget(["tank/a"])
    assert it.take(told(a=10), 60) == ["tank/a"]
