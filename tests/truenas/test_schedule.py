"""When is a kind read again?"""

from __future__ import annotations

from datetime import timedelta

import pytest

from truenas.scripted import nas_settings
from truetally.model.refs import Kind
from truetally.sources.truenas.schedule import Schedule, interval


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
