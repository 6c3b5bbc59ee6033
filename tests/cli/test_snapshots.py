"""`truetally snapshots`: what it asks, and how it shows the answer."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from api.fake_tally import a_snapshot
from truetally.model.snapshots import SnapshotOrder, SnapshotVerdict

pytestmark = pytest.mark.usefixtures("daemon")


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ((), (None, None, None, None, SnapshotOrder.NAME)),
        (("--volume", "pvc-1"), (None, "pvc-1", None, None, SnapshotOrder.NAME)),
        (("--orphaned",), (None, None, SnapshotVerdict.ORPHANED, None, SnapshotOrder.NAME)),
        (("--older-than", "30d"), (None, None, None, timedelta(days=30), SnapshotOrder.NAME)),
        (("--by-size", "--source", "nas1"), ("nas1", None, None, None, SnapshotOrder.SIZE)),
    ],
)
def test_every_option_is_asked_of_the_daemon(truetally, tally, words, asked):
    assert truetally("snapshots", *words).exit_code == 0
    assert tally.asked == [asked]


def test_the_table_tells_whose_a_snapshot_is_and_what_keeps_it(truetally):
    heading, row, _, space = truetally("snapshots").stdout.splitlines()
    assert heading.startswith("NAS   DATASET ")
    assert heading.rstrip().endswith("VERDICT")
    for expected in ("media/data", "media/nightly", "csi", "1 MiB", "5 GiB", "1 clone", "referenced"):
        assert expected in row
    assert space == "Without all of these, between 1 MiB and 3 MiB would come back."


@pytest.mark.parametrize(
    ("space", "said"), [((2**20, None), "at least 1 MiB would"), ((2**20, 2**20), "these, 1 MiB would")]
)
def test_space_is_told_as_surely_as_it_is_known(truetally, tally, space, said):
    tally.space = space
    assert said in truetally("snapshots").stdout


def test_clones_and_holds_are_counted(truetally, tally):
    tally.snapshots_known = [a_snapshot(clones=("a", "b"), holds=("keep",)), a_snapshot(clones=())]
    _, both, neither, *_ = truetally("snapshots").stdout.splitlines()
    assert "2 clones, 1 hold" in both
    assert "clone" not in neither


def test_none_is_said_in_words(truetally, tally):
    tally.snapshots_known = []
    assert truetally("snapshots").stdout == "No such snapshots.\n"
    assert json.loads(truetally("snapshots", "-o", "json").stdout)["snapshots"] == []


def test_a_list_of_a_daemon_that_is_not_ready_is_no_full_one(truetally, tally):
    tally.readiness = (False, "nas1 is still listed")
    result = truetally("snapshots")
    assert result.exit_code == 0
    assert "more may come: nas1 is still listed" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--older-than", "30"), 2, "like 90s, 10m"),
        (("--older-than", "soon"), 2, "'soon'"),
        (("--volume", "pvc-2"), 4, "did you mean pvc-1?"),
        (("--source", "nas2", "--orphaned"), 2, "did you mean nas1?"),
    ],
)
def test_a_mistake_has_its_exit_code_and_a_hint(truetally, words, code, said):
    result = truetally("snapshots", *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr
