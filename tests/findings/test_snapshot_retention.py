"""Which snapshots outlive what was said of them, and which datasets have too many?"""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truetally.findings.retention import SNAPSHOT_RETENTION, Point, kept_by_counts, kept_by_grid, overdue
from truetally.findings.rule import Clear, Evidence
from truetally.model import kubernetes as k8s
from truetally.model import truenas
from truetally.model.findings import Finding, Severity, State, fingerprint
from truetally.model.refs import Kind
from truetally.settings import RetentionKeep, grid_steps
from worlds import (
    CLUSTER,
    NAME,
    NAS,
    NOW,
    PARENT,
    PATH,
    a_content,
    a_dataset,
    a_pool,
    a_snapshot,
    a_volume,
    accused,
    judge,
    properties,
    ref_of,
    seen,
    settings,
    world,
)

RULE, COUNT = "snapshot-retention", "snapshots-too-many"
WHOLE = (a_pool(), a_dataset(), a_volume())
HERE = ref_of(a_dataset())


def a_task(**changes) -> truenas.SnapshotTask:
    given = {"dataset": PATH, "recursive": False, "enabled": True, "lifetime": "2 WEEK"} | changes
    return truenas.SnapshotTask(id=3, naming_schema="auto-%Y-%m-%d_%H-%M", **given)


def auto(days: float, dataset: str = PATH, **changes) -> truenas.Snapshot:
    at = NOW - timedelta(days=days)
    return a_snapshot(at.strftime("auto-%Y-%m-%d_%H-%M"), dataset, **({"created_at": at} | changes))


def csi(days: float, number: int = 0, **changes) -> truenas.Snapshot:
    name = f"snapshot-7c1d2e3f-0000-4000-8000-{number:012d}"
    return a_snapshot(name, created_at=NOW - timedelta(days=days), **changes)


def keeping(*entries, **rules):
    return settings(retention=list(entries), rules=rules)


# The lifetime of its own task


def test_a_snapshot_that_outlives_the_lifetime_of_its_task_is_found():
    found = judge(RULE, HERE, world(*WHOLE, auto(16), auto(3), a_task()))
    assert isinstance(found, Evidence)
    assert found.facts["snapshots"] == (auto(16).name,)
    assert found.facts["because"] == ("snapshot task 3 keeps its own for 2 WEEK",)


def test_a_disabled_task_is_said_to_be_so():
    found = judge(RULE, HERE, world(*WHOLE, auto(16), a_task(enabled=False)))
    assert "is disabled" in found.facts["because"][0]


def until(date: str) -> dict[str, truenas.UserProperty]:
    """As TrueNAS marks snapshots whose task was changed (`fixate_removal_date`)."""
    return {"org.truenas:destroy_at_0a1b2c3d": truenas.UserProperty(date)}


WAITING = truenas.ReplicationTask(4, "off-site", "PUSH", (PARENT,), "far", True, True, "SSH", "", True)
ARRIVED = truenas.ReplicationTask(4, "in", "PULL", ("far",), PARENT, True, True, "SSH")
INNOCENT = {
    "it is within the slack after its lifetime": (auto(14.9), a_task()),
    "another task with the same schema keeps it longer": (
        auto(16),
        a_task(),
        truenas.SnapshotTask(5, "tank", True, True, a_task().naming_schema, lifetime="3 MONTH"),
    ),
    "another task with the same schema keeps it for ever": (
        auto(16),
        a_task(),
        truenas.SnapshotTask(5, "tank", True, True, a_task().naming_schema),
    ),
    "its task does not say how long": (auto(900), a_task(lifetime="")),
    "no task makes it any more": (auto(900),),
    "it is of no task": (a_snapshot("before-upgrade"), a_task()),
    "its age is unknown": (auto(16, created_at=None), a_task()),
    "it is held": (auto(16, holds=("keep",)), a_task()),
    "it has a clone": (auto(16, clones=("tank/clone",)), a_task()),
    "a dataset says that it was cloned from it": (
        auto(16),
        a_task(),
        a_dataset(f"{PARENT}/pvc-clone", origin=auto(16).path),
    ),
    "TrueNAS has promised to keep it longer": (
        auto(16, user_properties=until("2027-01-01T00:00:00")),
        a_task(),
    ),
    "until when TrueNAS keeps it cannot be read": (auto(16, user_properties=until("soon")), a_task()),
    "its promised end is within the slack": (
        auto(16, user_properties=until("2026-11-23T12:00:00")),
        a_task(),
    ),
    "it is destroyed already": (auto(16, defer_destroy=True), a_task()),
    "a replication keeps what it has not sent": (auto(16), a_task(), WAITING),
    "it came with a replication": (auto(16), a_task(), ARRIVED),
    "its dataset is exempted": (
        auto(16),
        a_task(),
        a_dataset(user_properties=properties(ignore="books")),
    ),
}


@pytest.mark.parametrize("values", INNOCENT.values(), ids=INNOCENT)
def test_a_snapshot_is_not_past_the_lifetime_of_its_task_if(values):
    assert accused(RULE, world(*WHOLE, *values)) == []


def test_without_snapshots_there_is_no_retention():
    assert judge(RULE, HERE, world(*WHOLE, a_task())).reason == "it has no snapshots"


@pytest.mark.parametrize(("number", "said"), [(1, "Snapshot auto-"), (2, "2 snapshots of ")])
def test_one_is_called_by_its_name_and_several_are_counted(number, said):
    around = world(*WHOLE, *(auto(16 + n) for n in range(number)), a_task())
    assert judge(RULE, HERE, around).summary.startswith(said)


@pytest.mark.parametrize("kind", [Kind.SNAPSHOT, Kind.SNAPSHOT_TASK, Kind.REPLICATION_TASK, Kind.DATASET])
def test_nothing_is_past_its_retention_before_the_nas_is_known(kind):
    assert judge(RULE, HERE, world(*WHOLE, auto(16), a_task(), incomplete={(NAS, kind)})) is None


@pytest.mark.parametrize("kind", [Kind.PERSISTENT_VOLUME, Kind.VOLUME_SNAPSHOT, Kind.VOLUME_SNAPSHOT_CONTENT])
def test_nothing_is_past_its_retention_before_it_is_known_whose_it_is(kind):
    assert judge(RULE, HERE, world(*WHOLE, auto(16), a_task(), incomplete={(CLUSTER, kind)})) is None


def test_it_is_looked_at_again_when_the_next_one_is_due():
    found = judge(RULE, HERE, world(*WHOLE, auto(10), auto(12), a_task()))
    assert isinstance(found, Clear)
    assert found.again_at == NOW + timedelta(days=3, seconds=1)
    due = world(*WHOLE, auto(10), auto(12), a_task(), now=found.again_at)
    assert isinstance(judge(RULE, HERE, due), Evidence)


def test_at_the_very_end_of_its_time_a_snapshot_is_not_past_it():
    assert judge(RULE, HERE, world(*WHOLE, auto(15), a_task())).again_at == NOW + timedelta(seconds=1)
    assert past(keeping({"max_age": "7d"}), csi(8)) == []


@pytest.mark.parametrize(("entry", "days"), [({"max_age": "7d"}, 7.9), ({"keep": {"daily": 1}}, 0.9)])
def test_a_configured_retention_is_looked_at_again_when_it_is_due(entry, days):
    config = keeping(entry)
    values = (csi(days, 1), csi(0, 2), csi(2.5, 3) if "keep" in entry else csi(0.5, 3))
    found = judge(RULE, HERE, world(*WHOLE, *values, config=config))
    assert isinstance(found, Clear)
    assert found.again_at == NOW + timedelta(days=0.1, seconds=1)
    assert isinstance(judge(RULE, HERE, world(*WHOLE, *values, config=config, now=found.again_at)), Evidence)


def test_where_nothing_is_said_nothing_is_waited_for():
    assert judge(RULE, HERE, world(*WHOLE, auto(10))).again_at is None


def test_a_promised_end_that_is_past_keeps_nothing():
    kept = auto(16, user_properties=until("2026-11-23T11:59:59"))
    assert accused(RULE, world(*WHOLE, kept, a_task())) == [PATH]


def test_the_named_ones_are_read_singly_before_it_is_told():
    """A list of snapshots tells neither holds nor promised ends."""
    olds = [auto(16 + n) for n in range(7)]
    named = [ref_of(each) for each in reversed(olds)][:5]
    listed = world(*WHOLE, *olds, a_task())
    assert SNAPSHOT_RETENTION.reread(HERE, listed).objects == frozenset(named)
    assert "has not been read again" in SNAPSHOT_RETENTION.confirmed(HERE, listed, 5.0)
    singly = [msgspec.structs.replace(each, user_properties={}) for each in olds[2:]]
    read = world(*WHOLE, *olds[:2], *(seen(each, 9.0) for each in singly), a_task())
    assert SNAPSHOT_RETENTION.confirmed(HERE, read, 5.0) == ""
    assert SNAPSHOT_RETENTION.confirmed(HERE, read, 10.0)
    # A newer list, which does not tell them, is no reading of each.
    relisted = world(*WHOLE, *(seen(each, 9.0) for each in olds), a_task())
    assert SNAPSHOT_RETENTION.confirmed(HERE, relisted, 5.0)


def test_when_a_named_one_turns_out_to_be_held_the_next_is_read():
    held = auto(18, holds=("keep",), user_properties={})
    around = world(*WHOLE, seen(held, 9.0), auto(17), a_task())
    assert auto(17).name in SNAPSHOT_RETENTION.confirmed(HERE, around, 5.0)


def test_the_space_is_told_between_bounds():
    dataset = a_dataset(snapshots_bytes=100)
    around = world(*WHOLE, dataset, auto(16, used_bytes=10), auto(3, used_bytes=30), a_task())
    facts = judge(RULE, HERE, around).facts
    assert (facts["returns_at_least_bytes"], facts["returns_at_most_bytes"]) == (10, 70)


# The configuration


def past(config, *values) -> list[str]:
    return [each.snapshot.name for each in overdue(world(*WHOLE, *values, config=config), HERE)]


def test_a_snapshot_older_than_the_configured_age_is_found_after_the_slack():
    config = keeping({"max_age": "7d"}, retention_slack="2d")
    assert past(config, csi(9.1, 1), csi(8.9, 2)) == [csi(9.1, 1).name]


def test_the_configuration_goes_before_the_task():
    assert past(keeping({"max_age": "90d"}), auto(16), a_task()) == []
    assert past(keeping({"max_age": "7d"}), auto(13), a_task()) == [auto(13).name]
    # An entry that is not for it leaves it to its task.
    assert past(keeping({"max_age": "90d", "makers": ["csi"]}), auto(16), a_task()) == [auto(16).name]


def test_the_first_entry_that_matches_counts():
    config = keeping({"match": {"namespace": "def*"}, "max_age": "90d"}, {"max_age": "1d"})
    assert past(config, csi(30)) == []
    assert past(keeping(*[{"max_age": "1d"}] * 2), csi(30)) == [csi(30).name]


MATCHES = {
    "namespace": ("default", "other"),
    "storage_class": ("nf*", "iscsi"),
    "name": (f"{PARENT}/*", "tank/other/*"),
    "snapshot_class": ("nightly", "hourly"),
}


@pytest.mark.parametrize("what", MATCHES)
def test_an_entry_is_for_what_it_matches(what):
    uid = csi(30).name.removeprefix("snapshot-")
    taken = k8s.VolumeSnapshot("default", "snap", uid, NOW, snapshot_class="nightly")
    right, wrong = MATCHES[what]
    assert past(keeping({"match": {what: right}, "max_age": "1d"}), csi(30), taken) == [csi(30).name]
    assert past(keeping({"match": {what: wrong}, "max_age": "1d"}), csi(30), taken) == []


@pytest.mark.parametrize("name", [NAME, "data", "default/data", PATH])
def test_a_volume_may_be_named_by_dataset_volume_or_claim(name):
    assert past(keeping({"match": {"name": name}, "max_age": "1d"}), csi(30)) == [csi(30).name]


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (csi(30), True),
        (a_snapshot("autosnap_2026-10-20_12:00:01_daily"), True),
        (a_snapshot("zrepl_20261020_120000_000"), True),
        (auto(30), True),
        (a_snapshot("before-upgrade"), False),
        (a_snapshot(f"volume-source-for-volume-{NAME}"), False),
        (a_snapshot("syncoid_x_2026-10-20:12:00:00-GMT00:00"), False),
    ],
)
def test_what_people_clones_and_replications_need_is_not_asked_to_go(snapshot, expected):
    assert bool(past(keeping({"max_age": "1d"}), snapshot)) is expected


def test_what_a_person_took_is_held_to_a_retention_that_says_so():
    assert past(keeping({"max_age": "1d", "makers": ["manual"]}), a_snapshot("before")) == ["before"]


@pytest.mark.parametrize("what", ["namespace", "storage_class", "name"])
def test_whose_volume_is_gone_is_not_held_to_a_later_entry(what):
    """The first entry might have been for it: a namespace is not on the NAS."""
    config = keeping({"match": {what: "books"}, "max_age": "900d"}, {"max_age": "1d"})
    lost = world(a_pool(), a_dataset(), csi(30), config=config)
    assert overdue(lost, HERE) == ()
    assert [o.snapshot.name for o in overdue(world(*WHOLE, csi(30), config=config), HERE)] == [csi(30).name]


def test_what_was_never_a_volume_is_held_to_the_entry_for_all():
    config = keeping({"match": {"namespace": "books"}, "max_age": "900d"}, {"max_age": "1d"})
    home, snapshot = a_dataset("tank/home", user_properties={}), auto(30, "tank/home")
    assert overdue(world(a_pool(), home, snapshot, config=config), ref_of(home))


def test_what_may_be_another_entrys_is_not_held_to_its_task_either():
    config = keeping({"match": {"namespace": "books"}, "max_age": "900d"})
    assert overdue(world(a_pool(), a_dataset(), auto(16), a_task(), config=config), HERE) == ()
    assert past(config, auto(16), a_task()) == [auto(16).name]


def test_an_entry_for_another_class_leaves_a_snapshot_of_a_known_class_to_the_next():
    config = keeping({"match": {"snapshot_class": "books"}, "max_age": "900d"}, {"max_age": "1d"})
    uid = csi(30).name.removeprefix("snapshot-")
    taken = k8s.VolumeSnapshot("default", "snap", uid, NOW, snapshot_class="nightly")
    assert past(config, csi(30), taken) == [csi(30).name]


def test_the_namespace_of_a_content_outlives_the_volume():
    config = keeping({"match": {"namespace": "default"}, "max_age": "1d"})
    snapshot, content = a_snapshot(), a_content()
    assert overdue(world(a_pool(), a_dataset(), snapshot, content, config=config), HERE)


def test_a_csi_snapshot_of_unknown_class_is_not_held_to_a_later_entry():
    config = keeping({"match": {"snapshot_class": "books"}, "max_age": "900d"}, {"max_age": "1d"})
    assert past(config, csi(30)) == []
    assert past(config, auto(30)) == [auto(30).name]


def test_counts_are_asked_of_what_was_there_a_slack_ago():
    """Whatever prunes comes by now and then: what has become too many only since is not overdue."""
    config = keeping({"keep": {"daily": 2}})
    days = [csi(0.1, 0), csi(1.2, 1), csi(2.2, 2), csi(3.2, 3)]
    assert past(config, *days) == [days[3].name]
    assert past(config, *days[:3]) == []


def test_a_held_snapshot_counts_and_is_not_asked_to_go():
    config = keeping({"keep": {"daily": 1}})
    assert past(config, csi(2, 0), csi(3, 1, holds=("keep",)), csi(4, 2)) == [csi(4, 2).name]


def test_a_grid_is_kept_as_zrepl_keeps_it():
    config = keeping({"grid": "1x1h(keep=all) | 2x1d"})
    names = [a_snapshot(f"zrepl_{n}", created_at=NOW - timedelta(days=d)) for n, d in enumerate((2, 3, 4, 9))]
    assert past(config, *names) == ["zrepl_3"]


# Counts and grids by themselves

T0 = datetime(2026, 11, 24, 12, tzinfo=NOW.tzinfo)


def points(*hours: float, period: str = "") -> list[Point]:
    return [Point(f"{hour:g}h", T0 - timedelta(hours=hour), period) for hour in hours]


def counts(**keep: int) -> RetentionKeep:
    return RetentionKeep(**keep)


def test_of_each_period_its_first_and_last_are_kept():
    # 24 November from 00:00 to 12:00, then the 23rd.
    assert kept_by_counts(points(0, 5, 11, 13, 14), counts(daily=1)) == {"0h", "11h"}
    assert kept_by_counts(points(0, 5, 11, 13, 14), counts(daily=2)) == {"0h", "11h", "13h", "14h"}


def test_a_period_without_a_snapshot_does_not_count():
    assert kept_by_counts(points(0, 24 * 40, 24 * 90), counts(daily=2)) == {"0h", "960h"}


@pytest.mark.parametrize(
    ("period", "hours"), [("hourly", 1), ("daily", 24), ("weekly", 168), ("monthly", 744), ("yearly", 8784)]
)
def test_every_period_is_counted(period, hours):
    kept = kept_by_counts(points(0, hours, 2 * hours), counts(**{period: 2}))
    assert kept == {"0h", f"{hours}h"}


def test_what_sanoid_made_for_a_period_is_counted_by_that_period():
    daily, hourly = points(1, 2, 3, period="daily"), points(4, 5, period="hourly")
    frequent = points(6, period="frequently")
    assert kept_by_counts([*daily, *hourly, *frequent], counts(daily=2)) == {"1h", "2h", "6h"}


@given(
    hours=st.lists(st.floats(0, 24 * 800), max_size=40, unique=True),
    keep=st.builds(dict, hourly=st.integers(1, 5), daily=st.integers(0, 5), monthly=st.integers(0, 5)),
)
def test_what_is_kept_is_kept_again(hours, keep):
    """Pruning twice destroys nothing more, so a system that prunes by these counts is never found."""
    each = [Point(str(n), T0 - timedelta(hours=hour)) for n, hour in enumerate(hours)]
    kept = kept_by_counts(each, counts(**keep))
    left = [point for point in each if point.name in kept]
    assert kept_by_counts(left, counts(**keep)) == kept
    if each:
        assert max(each, key=lambda point: point.at).name in kept


@given(
    hours=st.lists(st.floats(0, 24 * 60), max_size=40, unique=True),
    grid=st.sampled_from(["1x1h(keep=all) | 24x1h | 14x1d", "3x1d", "2x1h(keep=2) | 5x6h"]),
)
def test_what_zrepl_itself_keeps_is_never_superfluous(hours, grid):
    each = [Point(str(n), T0 - timedelta(hours=hour)) for n, hour in enumerate(hours)]
    steps = grid_steps(grid)
    assert {point.name for point in as_zrepl_prunes(each, steps)} <= kept_by_grid(each, steps)


def as_zrepl_prunes(each: list[Point], steps) -> list[Point]:
    """What the documentation of zrepl says: of each interval, back from the youngest, the oldest are kept."""
    if not each:
        return []
    end = max(point.at for point in each)
    kept = [point for point in each if point.at == end]
    for length, count in steps:
        inside = sorted((p for p in each if end - length <= p.at < end), key=lambda p: p.at)
        kept += inside if count is None else inside[:count]
        end -= length
    return kept


def test_beyond_the_grid_nothing_is_kept():
    assert kept_by_grid(points(0, 0.5, 1.5, 30), grid_steps("1x1h(keep=all)|1x1d")) == {"0h", "0.5h", "1.5h"}
    assert kept_by_grid([], grid_steps("1x1h")) == set()
    # What is as old as the grid is long is still in it, as zrepl has it.
    assert kept_by_grid(points(0, 1), grid_steps("1x1h")) == {"0h", "1h"}
    assert kept_by_grid(points(0, 0.2, 0.4, 0.6), grid_steps("1x1h")) == {"0h", "0.2h", "0.6h"}


@pytest.mark.parametrize("grid", ["", "1h", "0x1h", "1x0h", "1x1y", "1x1h(keep=)", "1x1h |", "99999x1s"])
def test_what_is_no_grid_is_refused(grid):
    with pytest.raises(ValueError, match=r"grid|steps|short"):
        grid_steps(grid)
    with pytest.raises(ValueError, match="retention"):
        keeping({"grid": grid})


@pytest.mark.parametrize(
    "entry", [{}, {"keep": {}}, {"keep": {"daily": 1}, "grid": "1x1h"}, {"keep": {"hourly": -1}}]
)
def test_a_retention_that_says_nothing_or_two_things_is_refused(entry):
    with pytest.raises(ValueError, match="retention"):
        keeping(entry)


# How many


def many(number: int) -> list[truenas.Snapshot]:
    return [csi(1, n) for n in range(number)]


def test_more_snapshots_than_recommended_are_found_with_who_made_them():
    config = settings(rules={"snapshots_per_dataset": 5})
    around = world(*WHOLE, *many(4), auto(1), auto(2), config=config)
    found = judge(COUNT, HERE, around)
    assert found.facts["made_by"] == ("csi: 4", "task: 2")
    assert accused(COUNT, world(*WHOLE, *many(5), config=config)) == []


def test_truenas_recommends_512():
    assert accused(COUNT, world(*WHOLE, *many(512))) == []
    assert accused(COUNT, world(*WHOLE, *many(513))) == [PATH]


def test_volumes_may_have_another_limit_than_other_datasets():
    config = settings(rules={"snapshots_per_dataset": 5, "snapshots_per_volume": 2})
    other = a_dataset("tank/home", user_properties={})
    homes = [auto(day, "tank/home") for day in range(3)]
    assert accused(COUNT, world(*WHOLE, other, *many(3), *homes, config=config)) == [PATH]
    assert accused(COUNT, world(a_pool(), a_dataset(), *many(3), config=config)) == [PATH]
    # A dataset that a volume mounts is a volume's, whoever made it.
    adopted = a_dataset(user_properties={})
    assert accused(COUNT, world(a_pool(), adopted, a_volume(), *many(3), config=config)) == [PATH]


def test_what_was_told_is_taken_back_only_when_a_few_are_gone():
    config = settings(rules={"snapshots_per_dataset": 20})
    told = Finding(fingerprint(COUNT, HERE), COUNT, HERE, Severity.WARNING, State.OPEN, "", "", {}, NOW)
    assert accused(COUNT, world(*WHOLE, *many(20), config=config)) == []
    assert accused(COUNT, world(*WHOLE, *many(20), config=config, told=[told])) == [PATH]
    assert accused(COUNT, world(*WHOLE, *many(19), config=config, told=[told])) == []


def test_an_exempted_dataset_may_have_as_many_as_it_likes():
    config = settings(rules={"snapshots_per_dataset": 2})
    exempted = a_dataset(user_properties=properties(ignore="yes"))
    assert accused(COUNT, world(a_pool(), exempted, *many(9), config=config)) == []
