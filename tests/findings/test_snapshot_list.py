"""The list of all snapshots: is each one shown with its volume, and called orphaned only when proven?"""

from __future__ import annotations

from datetime import timedelta

import pytest

from truetally.csi import democratic_csi as csi
from truetally.findings.snapshot_list import SnapshotList, by_name, by_size, is_of, spaces
from truetally.graph.snapshots import Space, total
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Finding, Severity, State, fingerprint
from truetally.model.refs import Ref
from worlds import (
    CLUSTER,
    NAME,
    NOW,
    OLD,
    PARENT,
    PATH,
    SNAPSHOT_UID,
    a_content,
    a_dataset,
    a_namespace,
    a_pool,
    a_snapshot,
    a_subsystem,
    a_volume,
    a_zvol,
    an_nvme_volume,
    properties,
    ref_of,
    settings,
    world,
)

WHOLE = (a_pool(), a_dataset(), a_volume())
ORPHAN = "snapshot-without-content"
DETACHED = f"tank/k8s/nfs/snaps/{NAME}/snapshot-{SNAPSHOT_UID}"


def a_detached(**changes) -> truenas.Dataset:
    marks = properties(**{csi.SNAPSHOT_NAME: f"snapshot-{SNAPSHOT_UID}"})
    return a_dataset(DETACHED, user_properties=marks, **changes)


def a_finding(subject: Ref, rule: str = ORPHAN, state: State = State.OPEN) -> Finding:
    return Finding(fingerprint(rule, subject), rule, subject, Severity.WARNING, state, "", "", {}, NOW)


def listed(*values, findings=(), **config):
    around = world(*values, config=settings(**config))
    return [each for each in SnapshotList(around, findings) if each is not None]


def only(*values, findings=(), **config):
    (found,) = listed(*values, findings=findings, **config)
    return found


def test_a_snapshot_is_shown_with_all_that_belongs_to_it():
    taken = k8s.VolumeSnapshot("default", "snap", SNAPSHOT_UID, NOW)
    clone = a_dataset(f"{PARENT}/pvc-2", origin=a_snapshot().path)
    snapshot = a_snapshot(used_bytes=1, referenced_bytes=2)
    found = only(*WHOLE, snapshot, a_content(), taken, clone)
    assert (found.dataset, found.name, found.path) == (PATH, snapshot.name, snapshot.path)
    assert (found.cluster, found.volume, found.namespace, found.claim) == (CLUSTER, NAME, "default", "data")
    assert (found.volume_snapshot, found.content) == ("default/snap", a_content().name)
    assert (found.maker, found.used_bytes, found.referenced_bytes) == ("csi", 1, 2)
    assert (found.clones, found.holds, found.created_at) == ((clone.path,), None, OLD)
    assert found.verdict == "referenced"


def test_a_snapshot_on_no_volume_is_shown_as_well():
    found = only(a_pool(), a_dataset("tank/home", user_properties={}), a_snapshot("before", "tank/home"))
    assert (found.volume, found.cluster, found.maker, found.verdict) == ("", "", "manual", "kept")


def test_the_parent_of_volumes_is_none_of_them():
    parent = a_dataset(PARENT, user_properties={})
    assert only(*WHOLE, parent, a_snapshot("before", PARENT)).volume == ""


def test_the_volume_of_a_zvol_is_found_by_its_subsystem():
    zvol = (a_zvol(), a_subsystem(), a_namespace())
    adopted = an_nvme_volume(name="adopted", handle="another")
    assert only(a_pool(), *zvol, adopted, a_snapshot("before")).volume == "adopted"


def test_the_snapshot_of_a_content_without_volume_snapshot_is_named_by_the_content():
    assert only(*WHOLE, a_snapshot(), a_content()).volume_snapshot == "default/snap"


def test_a_content_tells_the_cluster_when_the_volume_is_gone():
    found = only(a_pool(), a_dataset(), a_snapshot(), a_content())
    assert (found.cluster, found.volume) == (CLUSTER, "")


def test_a_detached_snapshot_is_shown_with_the_volume_that_it_was_taken_of():
    content = a_content(snapshot_handle=f"{NAME}/snapshot-{SNAPSHOT_UID}")
    found = only(*WHOLE, a_detached(), content)
    assert (found.maker, found.detached, found.volume, found.path) == ("detached", True, NAME, DETACHED)
    assert found.verdict == "referenced"


# Verdicts


@pytest.mark.parametrize(
    ("state", "verdict"), [(State.OPEN, "orphaned"), (State.PENDING, "suspected"), (State.HELD, "unknown")]
)
def test_only_an_open_finding_makes_an_orphan(state, verdict):
    found = only(*WHOLE, a_snapshot(), findings=[a_finding(ref_of(a_snapshot()), state=state)])
    assert found.verdict == verdict
    assert found.findings == (state is State.OPEN)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((a_snapshot(),), "kept"),
        ((a_snapshot(defer_destroy=True),), "deferred"),
        ((a_snapshot(defer_destroy=True), a_content()), "deferred"),
        ((a_snapshot(), a_content()), "referenced"),
    ],
)
def test_without_a_finding_nothing_is_an_orphan(values, verdict):
    assert only(*WHOLE, *values).verdict == verdict


def test_a_finding_that_accuses_of_nothing_makes_no_orphan():
    deferred = a_finding(ref_of(a_snapshot()), "snapshot-deferred")
    assert only(*WHOLE, a_snapshot(defer_destroy=True), findings=[deferred]).verdict == "deferred"
    unheard = a_finding(ref_of(a_snapshot()), "rule-of-tomorrow")
    assert only(*WHOLE, a_snapshot(), findings=[unheard]).verdict == "kept"


def test_overdue_are_those_that_are_past_their_retention_while_that_is_told():
    old = a_snapshot("zrepl_1", created_at=NOW - timedelta(days=9))
    young = a_snapshot("zrepl_2", created_at=NOW - timedelta(days=2))
    told = a_finding(ref_of(a_dataset()), "snapshot-retention")
    week = {"retention": [{"max_age": "7d"}]}
    found = {each.name: each.verdict for each in listed(*WHOLE, old, young, findings=[told], **week)}
    assert found == {"zrepl_1": "overdue", "zrepl_2": "kept"}
    assert {each.verdict for each in listed(*WHOLE, old, young, **week)} == {"kept"}


@pytest.mark.parametrize(
    ("rule", "state"), [("snapshot-retention", State.PENDING), ("snapshots-too-many", State.OPEN)]
)
def test_what_is_not_told_of_its_retention_is_not_overdue(rule, state):
    old = a_snapshot("zrepl_1", created_at=NOW - timedelta(days=9))
    suspected = a_finding(ref_of(a_dataset()), rule, state)
    assert only(*WHOLE, old, findings=[suspected], retention=[{"max_age": "7d"}]).verdict == "kept"


def test_a_snapshot_whose_content_is_not_there_yet_is_referenced_by_its_volume_snapshot():
    found = only(*WHOLE, a_snapshot(), k8s.VolumeSnapshot("default", "new", SNAPSHOT_UID, NOW))
    assert (found.verdict, found.volume_snapshot, found.content) == ("referenced", "default/new", "")


def test_a_dataset_that_has_overdue_snapshots_is_itself_no_orphan():
    told = a_finding(ref_of(a_detached()), "snapshot-retention")
    assert only(*WHOLE, a_detached(), findings=[told]).verdict == "kept"


# Choosing and ordering


@pytest.mark.parametrize("volume", [NAME, "data", "default/data", PATH, a_snapshot().path])
def test_a_volume_may_be_called_by_any_of_its_names(volume):
    assert is_of(only(*WHOLE, a_snapshot()), volume)


@pytest.mark.parametrize("volume", ["", "/", NAME[:-1], PARENT, "default", "other/data"])
def test_part_of_a_name_is_no_name(volume):
    assert not is_of(only(*WHOLE, a_snapshot()), volume)
    assert not is_of(only(a_pool(), a_dataset(), a_snapshot()), volume)


def test_snapshots_are_ordered_by_dataset_and_age_or_by_size():
    values = (
        a_snapshot("b", created_at=OLD, used_bytes=1),
        a_snapshot("a", created_at=NOW, used_bytes=3),
        a_snapshot("c", created_at=None),
        a_snapshot("d", "tank/home", used_bytes=2),
    )
    found = listed(*WHOLE, a_dataset("tank/home", user_properties={}), *values)
    assert [each.name for each in sorted(found, key=by_name)] == ["d", "c", "b", "a"]
    assert [each.name for each in sorted(found, key=by_size)] == ["a", "d", "b", "c"]


# Space


def test_space_is_told_of_what_could_be_destroyed_now():
    values = (
        a_snapshot("a", used_bytes=1),
        a_snapshot("b", used_bytes=2),
        a_snapshot("held", used_bytes=4, holds=("keep",)),
        a_snapshot("cloned", used_bytes=8, clones=("tank/clone",)),
        a_snapshot("waits", used_bytes=16, defer_destroy=True),
    )
    around = world(*WHOLE, a_dataset(snapshots_bytes=100), a_detached(used_bytes=1000), *values)
    every = [each for each in SnapshotList(around, ()) if each is not None]
    assert total([*spaces(around, every)]) == Space(1003, 1000 + 100 - 28)
    assert [*spaces(around, [each for each in every if each.name == "a"])] == [Space(1, 100 - 30)]
    assert [*spaces(around, [])] == []
