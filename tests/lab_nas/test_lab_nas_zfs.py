"""ZFS's own rules: names follow renames, clones can be promoted, space is accounted upwards."""

from datetime import UTC, datetime

import pytest

from truetally.lab.nas.failures import CallError
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
