"""ZFS's own rules: names follow renames, clones can be promoted, space is accounted upwards."""

import errno
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from truetally.lab.nas import LabNas
from truetally.lab.nas.failures import CallError
from truetally.lab.nas.tree import dataset_row
from truetally.lab.nas.zfs import Zfs


@pytest.fixture
def zfs():
    made = Zfs(lambda: datetime(2026, 1, 1, tzinfo=UTC))
    made.create_pool("tank")
    made.create("tank/a", user={"x:y": "1"})
    made.take("tank/a", "s")
    made.clone("tank/a@s", "tank/c")
    return made


def test_a_rename_takes_snapshots_and_the_origin_of_clones_along(zfs):
    zfs.create("tank/trash")
    zfs.rename("tank/a", "tank/trash/a")
    assert zfs.find("tank/a") is None
    assert zfs.dataset("tank/c").origin == "tank/trash/a@s"
    assert zfs.snapshot("tank/trash/a@s").clones == {"tank/c"}


def test_a_renamed_clone_is_still_its_origins_clone(zfs):
    zfs.rename("tank/c", "tank/d")
    assert zfs.snapshot("tank/a@s").clones == {"tank/d"}


def test_a_promoted_clone_owns_the_shared_snapshot(zfs):
    zfs.promote("tank/c")
    assert zfs.dataset("tank/a").origin == "tank/c@s"
    assert (zfs.dataset("tank/c").origin, zfs.snapshot("tank/c@s").clones) == ("", {"tank/a"})
    zfs.destroy("tank/a")
    assert zfs.find_snapshot("tank/c@s") is not None


def test_a_clone_has_no_properties_but_those_given(zfs):
    assert zfs.dataset("tank/c").user_properties() == {}


def test_what_is_written_counts_for_all_above(zfs):
    before = zfs.dataset("tank").used_bytes
    zfs.write("tank/a", zfs.dataset("tank/a").referenced_bytes + 1000)
    assert zfs.dataset("tank").used_bytes == before + 1000
    zfs.destroy("tank/c")
    zfs.destroy_snapshot("tank/a@s")
    zfs.destroy("tank/a")
    assert zfs.dataset("tank").used_bytes == zfs.dataset("tank").referenced_bytes


@pytest.mark.parametrize("name", ["tank/none/b", "tank/a", "tank/-bad"])
def test_what_cannot_be_created_is_refused(zfs, name):
    with pytest.raises(CallError):
        zfs.create(name)


def test_a_pool_root_is_not_destroyed(zfs):
    with pytest.raises(CallError, match="does not apply to pools"):
        zfs.destroy("tank", recursive=True)


def _refused(act, *arguments, **keywords):
    with pytest.raises(CallError) as refused:
        act(*arguments, **keywords)
    return refused.value.reason.rpartition(": ")[2], refused.value.number


def test_each_refusal_to_destroy_says_why(zfs):
    zfs.create("tank/a/child")
    assert _refused(zfs.destroy, "tank/a") == ("filesystem has children", errno.ENOTEMPTY)
    zfs.destroy("tank/a/child")
    assert _refused(zfs.destroy, "tank/a") == ("filesystem has dependent clones", errno.EBUSY)
    assert _refused(zfs.destroy, "tank/a", recursive=True) == ("filesystem has dependent clones", errno.EBUSY)
    assert _refused(zfs.destroy_snapshot, "tank/a@s") == ("snapshot has dependent clones", errno.EBUSY)
    zfs.destroy("tank/c")
    assert _refused(zfs.destroy, "tank/a") == ("filesystem has dependent snapshots", errno.EBUSY)
    zfs.hold("tank/a@s", "x")
    assert _refused(zfs.destroy_snapshot, "tank/a@s") == ("dataset is busy", errno.EBUSY)
    assert _refused(zfs.destroy, "tank/a", recursive=True) == ("dataset is busy", errno.EBUSY)


def test_a_deferred_destroy_happens_with_the_last_hold_and_clone(zfs):
    zfs.hold("tank/a@s", "x")
    assert zfs.destroy_snapshot("tank/a@s", defer=True) is False
    zfs.destroy("tank/c")
    assert zfs.find_snapshot("tank/a@s") is not None
    zfs.release("tank/a@s", "x")
    assert zfs.find_snapshot("tank/a@s") is None


def test_a_clone_inside_what_is_destroyed_is_no_obstacle(zfs):
    zfs.clone("tank/a@s", "tank/a/inner")
    zfs.destroy("tank/c")
    assert zfs.destroy("tank/a", recursive=True) == ["tank/a/inner", "tank/a@s", "tank/a"]


def test_a_rollback_brings_back_what_was_and_destroys_newer_snapshots_only_if_told(zfs):
    zfs.write("tank/a", 5 << 20)
    zfs.take("tank/a", "t")
    assert _refused(zfs.rollback, "tank/a@s") == (
        "more recent snapshots or bookmarks exist",
        errno.EEXIST,
    )
    assert zfs.rollback("tank/a@s", recursive=True) == ["tank/a@t"]
    assert zfs.dataset("tank/a").referenced_bytes == zfs.snapshot("tank/a@s").referenced_bytes == 24 * 1024


def test_a_rollback_over_a_newer_clone_is_refused(zfs):
    zfs.take("tank/a", "t")
    zfs.clone("tank/a@t", "tank/d")
    assert _refused(zfs.rollback, "tank/a@s", recursive=True)[1] == errno.EBUSY


def test_a_renamed_snapshot_keeps_its_place_and_its_clones(zfs):
    zfs.take("tank/a", "t")
    zfs.rename_snapshot("tank/a@s", "z")
    assert list(zfs.dataset("tank/a").snapshots) == ["z", "t"]
    assert zfs.dataset("tank/c").origin == "tank/a@z"
    assert _refused(zfs.rename_snapshot, "tank/a@z", "t")[1] == errno.EEXIST


@pytest.mark.parametrize("target", ["tank/a/b", "tank/c", "other/a"])
def test_a_rename_to_below_itself_or_over_another_or_to_another_pool_is_refused(zfs, target):
    zfs.create_pool("other")
    assert _refused(zfs.rename, "tank/a", target)[1] in (errno.EINVAL, errno.EEXIST)


def test_a_promotion_is_refused_where_snapshots_have_the_same_name(zfs):
    zfs.take("tank/c", "s")
    assert _refused(zfs.promote, "tank/c") == ("snapshot name 's' conflicts", errno.EEXIST)


def test_a_promoted_clone_of_a_clone_keeps_the_chain(zfs):
    zfs.take("tank/c", "t")
    zfs.clone("tank/c@t", "tank/d")
    zfs.promote("tank/d")
    assert (zfs.dataset("tank/d").origin, zfs.dataset("tank/c").origin) == ("tank/a@s", "tank/d@t")
    assert zfs.snapshot("tank/a@s").clones == {"tank/d"}
    zfs.promote("tank/d")
    assert zfs.dataset("tank/d").origin == ""
    assert zfs.dataset("tank/a").origin == "tank/d@s"


@pytest.fixture
def ticking():
    """A ZFS whose clock is a second further at each look, and when it was looked at last."""
    seconds = iter(range(10**6))
    made = Zfs(lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=next(seconds)))
    made.create_pool("tank")
    made.create("tank/a")
    return made


def test_snapshots_changed_moves_with_every_change_and_never_back(ticking):
    def changed():
        return ticking.dataset("tank/a").snapshots_changed

    assert changed() is None
    seen = []
    for change in (
        lambda: ticking.take("tank/a", "s1"),
        lambda: ticking.take("tank/a", "s2"),
        lambda: ticking.rename_snapshot("tank/a@s1", "s0"),
        lambda: ticking.destroy_snapshot("tank/a@s2"),
        lambda: ticking.destroy_snapshot("tank/a@s0"),
    ):
        change()
        seen.append(changed())
    assert seen == sorted(set(seen))
    ticking.write("tank/a", 1 << 20)
    assert changed() == seen[-1]


@pytest.mark.parametrize("version", ["22.12", "25.04", "25.10", "26.0"])
def test_snapshots_changed_is_shown_to_the_second(version):
    lab = LabNas(version, now=lambda: datetime(2026, 1, 1, 0, 0, 7, 900000, tzinfo=UTC))
    lab.zfs.create_pool("tank")
    lab.ssh.snapshot("tank@s")
    lab.ssh.destroy("tank@s")
    options = {"extra": {"properties": ["snapshots_changed"], "retrieve_children": False}}
    (row,) = lab.call("pool.dataset.query", [["id", "=", "tank"]], options)
    assert row["snapshots_changed"]["parsed"] == int(datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC).timestamp())


def _sources(zfs, name, *properties):
    return [zfs.dataset(name).effective(each) for each in properties]


def test_properties_are_local_inherited_received_or_default(zfs):
    zfs.create("tank/a/deep/er", parents=True)
    zfs.set_native("tank/a", {"compression": "ZSTD", "recordsize": "1M", "quota": "10G", "atime": True})
    assert _sources(zfs, "tank/a", "compression", "recordsize", "sync") == [
        ("zstd", "LOCAL", None),
        ("1048576", "LOCAL", None),
        ("standard", "DEFAULT", None),
    ]
    assert _sources(zfs, "tank/a/deep/er", "compression", "quota", "atime") == [
        ("zstd", "INHERITED", "tank/a"),
        ("0", "DEFAULT", None),
        ("on", "INHERITED", "tank/a"),
    ]
    zfs.set_native("tank/a", {"compression": None})
    assert _sources(zfs, "tank/a/deep/er", "compression") == [("lz4", "DEFAULT", None)]


def test_what_is_inherited_follows_a_rename_and_a_new_child(zfs):
    zfs.create("tank/b", native={"readonly": True})
    assert zfs.create("tank/b/x").readonly
    zfs.rename("tank/b/x", "tank/x")
    assert not zfs.dataset("tank/x").readonly
    zfs.set_native("tank/b", {"readonly": None})
    assert not zfs.create("tank/b/y").readonly


@pytest.mark.parametrize(
    "wrong", [{"no_such": "1"}, {"quota": "many"}, {"quota": -1}, {"volsize": "1G"}, {"volblocksize": "16K"}]
)
def test_a_property_that_a_filesystem_cannot_have_is_refused(zfs, wrong):
    assert _refused(zfs.set_native, "tank/a", wrong)[1] == errno.EINVAL


def test_25_04_shows_where_a_property_comes_from():
    lab = LabNas("25.04")
    lab.zfs.create_pool("tank")
    lab.ssh.create_dataset("tank/a/b", user={"x:own": "1"})
    lab.ssh.set("tank/a", {"compression": "zstd", "x:above": "2"})
    row = lab.call("pool.dataset.get_instance", "tank/a/b")
    assert (row["compression"]["source"], row["compression"]["source_info"]) == ("INHERITED", "tank/a")
    assert row["quota"] == {
        "parsed": None,
        "rawvalue": "0",
        "value": None,
        "source": "DEFAULT",
        "source_info": None,
    }
    shown = {key: (each["source"], each["source_info"]) for key, each in row["user_properties"].items()}
    assert shown == {"x:own": ("LOCAL", None), "x:above": ("INHERITED", "tank/a")}


@pytest.mark.parametrize("version", ["25.10", "26.0"])
def test_newer_versions_show_it_of_resources_and_call_user_properties_local(version):
    lab = LabNas(version)
    lab.zfs.create_pool("tank")
    lab.ssh.create_dataset("tank/a/b")
    lab.ssh.set("tank/a", {"compression": "zstd", "x:above": "2"})
    asked = {"paths": ["tank/a/b"], "properties": ["compression", "sync", "used"], "get_source": True}
    (row,) = lab.call("zfs.resource.query", asked)
    assert row["properties"]["compression"] == {
        "raw": "zstd",
        "value": "zstd",
        "source": {"type": "INHERITED", "value": "tank/a"},
    }
    assert row["properties"]["sync"]["source"] == {"type": "DEFAULT", "value": None}
    assert row["properties"]["used"]["source"]["type"] == "NONE"
    shown = lab.call("pool.dataset.get_instance", "tank/a/b")["user_properties"]["x:above"]
    assert (shown["source"], shown["source_info"]) == ("LOCAL", None)


def test_a_replica_has_received_properties_and_a_snapshot_of_the_same_guid(zfs):
    zfs.set_native("tank/a", {"compression": "zstd"})
    zfs.set_user("tank/a@s", {"x:z": "3"})
    replica = zfs.receive("tank/a@s", "tank/backup/a", readonly=True)
    assert replica.user_properties() == {"x:y": ("1", "RECEIVED")}
    assert _sources(zfs, "tank/backup/a", "compression", "readonly") == [
        ("zstd", "RECEIVED", None),
        ("on", "LOCAL", None),
    ]
    assert zfs.snapshot("tank/backup/a@s").guid == zfs.snapshot("tank/a@s").guid
    assert (zfs.snapshot("tank/backup/a@s").user, replica.origin) == ({"x:z": "3"}, "")


def test_an_increment_brings_what_changed_and_every_snapshot_if_asked(zfs):
    zfs.receive("tank/a@s", "tank/r")
    zfs.write("tank/a", 3 << 20)
    zfs.take("tank/a", "t")
    zfs.write("tank/a", 9 << 20)
    zfs.take("tank/a", "u")
    zfs.receive("tank/a@u", "tank/r", intermediate=True)
    replica = zfs.dataset("tank/r")
    assert list(replica.snapshots) == ["s", "t", "u"]
    assert replica.referenced_bytes == 9 << 20
    assert replica.used_bytes == zfs.dataset("tank/a").used_bytes


def test_an_increment_is_refused_by_a_stranger_and_by_what_was_written_to(zfs):
    zfs.create("tank/r")
    assert _refused(zfs.receive, "tank/a@s", "tank/r")[1] == errno.EEXIST
    zfs.destroy("tank/r")
    zfs.receive("tank/a@s", "tank/r")
    zfs.write("tank/r", 1 << 20)
    zfs.take("tank/a", "t")
    assert _refused(zfs.receive, "tank/a@t", "tank/r")[1] == errno.ETXTBSY
    zfs.receive("tank/a@t", "tank/r", force=True)
    assert zfs.dataset("tank/r").referenced_bytes == zfs.dataset("tank/a").referenced_bytes


def test_a_local_property_is_not_overwritten_by_what_is_received(zfs):
    zfs.receive("tank/a@s", "tank/r")
    zfs.set_user("tank/r", {"x:y": "mine"})
    zfs.take("tank/a", "t")
    zfs.receive("tank/a@t", "tank/r")
    assert zfs.dataset("tank/r").user_properties() == {"x:y": ("mine", "LOCAL")}


@pytest.fixture
def locked():
    lab = LabNas("25.10")
    lab.zfs.create_pool("tank")
    options = {"passphrase": "correct horse", "algorithm": "AES-256-GCM"}
    lab.call(
        "pool.dataset.create",
        {"name": "tank/s", "encryption": True, "encryption_options": options, "inherit_encryption": False},
    )
    lab.call("pool.dataset.create", {"name": "tank/s/child"})
    lab.call("sharing.nfs.create", {"path": "/mnt/tank/s/child"})
    job = lab.call("pool.dataset.lock", "tank/s")
    assert lab.machine.jobs[job - 1]["state"] == "SUCCESS"
    return lab


def _job(lab, method, *arguments):
    row = lab.machine.jobs[lab.call(method, *arguments) - 1]
    return row["result"] if row["state"] == "SUCCESS" else row["error"]


def test_a_locked_root_locks_all_below_it(locked):
    for name in ("tank/s", "tank/s/child"):
        row = locked.call("pool.dataset.get_instance", name)
        assert (row["encrypted"], row["encryption_root"], row["key_loaded"], row["locked"]) == (
            True,
            "tank/s",
            False,
            True,
        )
        assert row["mountpoint"] is None
        assert row["key_format"]["value"] == "PASSPHRASE"
    assert locked.call("sharing.nfs.query")[0]["locked"] is True
    assert _refused(locked.zfs.write, "tank/s/child", 1 << 20)[1] == errno.EACCES
    assert _refused(locked.zfs.create, "tank/s/new")[1] == errno.EACCES


def test_the_right_passphrase_unlocks_and_a_wrong_one_does_not(locked):
    wrong = {"datasets": [{"name": "tank/s", "passphrase": "wrong horse"}]}
    assert _job(locked, "pool.dataset.unlock", "tank/s", wrong)["failed"]["tank/s"]["error"] == "Invalid Key"
    right = {"datasets": [{"name": "tank/s", "passphrase": "correct horse"}]}
    (shown,) = _job(locked, "pool.dataset.encryption_summary", "tank/s", right)
    assert (shown["locked"], shown["valid_key"], shown["unlock_successful"]) == (True, True, True)
    assert _job(locked, "pool.dataset.unlock", "tank/s", right) == {"unlocked": ["tank/s"], "failed": {}}
    assert locked.call("sharing.nfs.query")[0]["locked"] is False
    assert "correct horse" not in str(locked.machine.jobs)


def test_only_a_root_with_a_passphrase_is_locked(locked):
    locked.call("pool.dataset.create", {"name": "tank/k", "encryption": True})
    locked.call("pool.dataset.create", {"name": "tank/plain"})
    for name in ("tank/k", "tank/plain", "tank/s/child", "tank/s"):
        assert _job(locked, "pool.dataset.lock", name).startswith("[EFAULT]"), name


def test_a_clone_has_the_key_of_its_origin_wherever_it_is(locked):
    _job(
        locked,
        "pool.dataset.unlock",
        "tank/s",
        {"datasets": [{"name": "tank/s", "passphrase": "correct horse"}]},
    )
    locked.ssh.snapshot("tank/s@x")
    assert locked.ssh.clone("tank/s@x", "tank/c").encryption.root.name == "tank/s"
    assert locked.ssh.create_dataset("tank/other").encryption is None


_WATCHED = {"compression": "lz4", "readonly": "off", "sync": "standard", "recordsize": "131072"}
_VALUES = {"compression": "zstd", "readonly": "on", "sync": "always", "recordsize": "1048576"}


def _expected(dataset, name):
    """What `zfs get` would say, by going up."""
    place = dataset
    while place is not None:
        for kept, source in ((place.native, "LOCAL"), (place.native_received, "RECEIVED")):
            if name in kept:
                whence = place.name if place is not dataset else None
                return kept[name], source if place is dataset else "INHERITED", whence
        place = place.parent
    return _WATCHED[name], "DEFAULT", None


class Inheritance(RuleBasedStateMachine):
    """What is shown from caches is what going up the tree finds, whatever is set and moved."""

    @initialize()
    def begin(self):
        self.zfs = Zfs(lambda: datetime(2026, 1, 1, tzinfo=UTC))
        self.zfs.create_pool("tank")
        for name in ("tank/a", "tank/a/b", "tank/c"):
            self.zfs.create(name)
        self.number = 0

    def a_name(self, data, *, root=True):
        names = sorted(each.name for each in self.zfs.visible() if root or each.parent is not None)
        assume(names)
        return data.draw(st.sampled_from(names))

    def below_any(self, data):
        self.number += 1
        return f"{self.a_name(data)}/n{self.number}"

    @rule(data=st.data(), name=st.sampled_from(sorted(_WATCHED)), inherit=st.booleans())
    def set(self, data, name, inherit):
        self.zfs.set_native(self.a_name(data), {name: None if inherit else _VALUES[name]})

    @precondition(lambda self: len(self.zfs.datasets) < 9)
    @rule(data=st.data(), own=st.booleans())
    def create(self, data, own):
        self.zfs.create(self.below_any(data), native={"sync": "always"} if own else None)

    @rule(data=st.data())
    def rename(self, data):
        with suppress(CallError):
            self.zfs.rename(self.a_name(data, root=False), self.below_any(data))

    @rule(data=st.data())
    def destroy(self, data):
        self.zfs.destroy(self.a_name(data, root=False), recursive=True)

    @rule(data=st.data())
    def replicate(self, data):
        self.zfs.receive(self.a_name(data), self.below_any(data))

    @invariant()
    def is_shown(self):
        for dataset in self.zfs.visible() if hasattr(self, "zfs") else ():
            row = dataset_row(dataset, self.zfs, old_engine=True)
            for name in _WATCHED:
                expected = _expected(dataset, name)
                assert dataset.effective(name) == expected
                shown = row[name]
                assert (shown["rawvalue"], shown["source"], shown["source_info"]) == expected


TestInheritance = Inheritance.TestCase
TestInheritance.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_what_is_set_while_there_is_no_child_is_inherited_by_the_next(zfs):
    assert not zfs.create("tank/p/x", parents=True).readonly
    zfs.destroy("tank/p/x")
    zfs.set_native("tank/p", {"readonly": True})
    assert zfs.create("tank/p/y").readonly
