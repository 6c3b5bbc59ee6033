"""Which snapshots have to be read again, and what is known of them?"""

from __future__ import annotations

from truetally.model.truenas import Dataset, Snapshot
from truetally.sources.truenas.held import HeldSnapshots, SnapshotChanges, Told


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


def dataset(path: str, changed: int) -> Dataset:
    return Dataset(path, "tank", "FILESYSTEM", snapshots_changed=changed)


def known(**datasets: int) -> HeldSnapshots:
    """A NAS whose datasets and snapshots (one each, called `1`) have been listed."""
    held = HeldSnapshots()
    tell(held, 0.0, **datasets)
    held.listed({f"tank/{n}@1": Snapshot(f"tank/{n}", "1") for n in datasets}, 1.0, held.told())
    tell(held, 10.0, **datasets)
    held.due()
    return held


def tell(held: HeldSnapshots, at: float, **datasets: int) -> None:
    found = {f"tank/{name}": dataset(f"tank/{name}", changed) for name, changed in datasets.items()}
    held.datasets(frozenset(found), found, at)


def test_a_dataset_that_is_gone_is_due_with_what_was_known_of_it():
    held = known(a=10, b=10)
    tell(held, 60.0, a=10)
    assert held.due() == ["tank/b"]
    assert held.still_there(["tank/b"]) == []
    assert list(held.of(["tank/b"])) == ["tank/b@1"]
    held.read(["tank/b"], {}, 61.0)
    assert held.of(["tank/b"]) == {}
    tell(held, 120.0, a=10)
    assert held.due() == []


def test_a_list_that_began_before_a_change_was_told_does_not_hide_the_change():
    held = known(a=10)
    before = held.told()
    tell(held, 60.0, a=11)
    held.listed({"tank/a@1": Snapshot("tank/a", "1")}, 50.0, before)
    tell(held, 120.0, a=11)
    assert held.due() == ["tank/a"]


def test_what_was_read_singly_after_a_list_was_asked_for_outlives_the_list():
    held = known(a=10)
    held.single("tank/a@2", Snapshot("tank/a", "2"), 60.0)
    held.single("tank/a@1", None, 61.0)
    held.read(["tank/a"], {"tank/a@1": Snapshot("tank/a", "1")}, 59.0)
    assert list(held.of(["tank/a"])) == ["tank/a@2"]
    held.read(["tank/a"], {"tank/a@1": Snapshot("tank/a", "1")}, 70.0)
    assert list(held.of(["tank/a"])) == ["tank/a@1"]


def test_without_a_word_of_the_datasets_it_is_blind():
    held = HeldSnapshots()
    assert held.blind
    tell(held, 0.0, a=10)
    assert not held.blind
    held.datasets(frozenset({"tank/a"}), {"tank/a": Dataset("tank/a", "tank", "FILESYSTEM")}, 1.0)
    assert held.blind
