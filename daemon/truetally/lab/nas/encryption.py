"""Encryption: who holds a key, and what is locked while the key is not loaded.

A dataset has the key of its parent unless it is given one of its own, which makes it an
encryption root; a clone has the key of its origin. Only roots are locked and unlocked.
That TrueNAS locks none but those with a passphrase is inferred, as are the texts of
refusals: the contract has schemas for these methods, and no transcript.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from truetally.lab.nas.dataset import Dataset, Encryption
from truetally.lab.nas.failures import CallError, InstanceNotFound, Invalid
from truetally.lab.nas.jobs import jobs_of
from truetally.lab.nas.machine import Machine, Row
from truetally.lab.nas.table import Caller, filled, method

_HEX_KEY = 64
_PASSPHRASE = 8
_OPTIONS: Row = {
    "generate_key": False,
    "pbkdf2iters": 350000,
    "algorithm": "AES-256-GCM",
    "passphrase": None,
    "key": None,
}
_UNLOCK: Row = {
    "force": False,
    "key_file": False,
    "recursive": False,
    "toggle_attachments": True,
    "datasets": [],
}
_SUMMARY: Row = {"key_file": False, "force": False, "datasets": []}
_WRONG_KEY = "Invalid Key"
_NO_KEY = "Missing key"


def encrypt(dataset: Dataset, given: Mapping[str, Any]) -> None:
    """Give a new dataset the key that `pool.dataset.create` asks for: its parent's, its own, or none."""
    if not given["encryption"]:
        if not given.get("inherit_encryption", True):
            dataset.encryption = None
        return
    options = filled(given.get("encryption_options") or {}, _OPTIONS, where="encryption_options")
    dataset.encryption = key_of(dataset, options["passphrase"], options["key"], options)


def key_of(
    dataset: Dataset,
    passphrase: str | None = None,
    key: str | None = None,
    options: Mapping[str, Any] = _OPTIONS,
) -> Encryption:
    """A key that makes the dataset an encryption root; generated if none is given.

    Raises:
        Invalid: a passphrase that is too short, or a key that is not 64 hexadecimal digits.
    """
    algorithm = str(options["algorithm"]).lower()
    if passphrase is not None:
        if len(passphrase) < _PASSPHRASE:
            raise Invalid.at("encryption_options.passphrase", "Must be at least 8 characters")
        return Encryption(
            dataset, passphrase, "passphrase", algorithm, int(options["pbkdf2iters"]), in_database=False
        )
    if key is not None and (
        len(key) != _HEX_KEY or not all(each in "0123456789abcdefABCDEF" for each in key)
    ):
        raise Invalid.at("encryption_options.key", "Must be 64 hexadecimal digits")
    return Encryption(dataset, key or f"{dataset.guid:064x}", algorithm=algorithm)


def _the_root(machine: Machine, name: Any) -> Dataset:
    found = machine.zfs.find(name) if isinstance(name, str) else None
    if found is None:
        raise InstanceNotFound(f"PoolDataset {name} does not exist")
    return found


def roots(top: Dataset) -> list[Dataset]:
    """The encryption roots at and below a dataset."""
    return [each for each in top.below() if each.encryption is not None and each.encryption.root is each]


def lock(machine: Machine, name: str, *, by_passphrase: bool = True) -> None:
    """Unload a key; everything that has it is locked.

    Args:
        by_passphrase: refuse a key that is not a passphrase, as the middleware does.
    """
    dataset = _the_root(machine, name)
    key = dataset.encryption
    if key is None:
        raise CallError(f"{name} is not encrypted")
    if not key.loaded:
        raise CallError(f"Dataset {name!r} is already locked")
    if key.root is not dataset:
        raise CallError(f"Please lock {key.root.name}. Only encryption roots can be locked.")
    if by_passphrase and key.key_format != "passphrase":
        raise CallError("Only datasets which are encrypted with passphrase can be locked")
    for each in roots(dataset):
        if each.encryption is not None:
            each.encryption.loaded = False


def unlock(machine: Machine, name: str, given: Mapping[str, Any]) -> Row:
    """Load keys; what was unlocked, and what was not with the reason."""
    top = _the_root(machine, name)
    told = {each["name"]: each for each in given["datasets"]}
    answer: Row = {"unlocked": [], "failed": {}}
    for each in roots(top) if given["recursive"] else roots(top)[:1]:
        key = each.encryption
        if key is None or key.loaded:
            continue
        error = _mistake(each, key, told.get(each.name))
        if error is not None:
            answer["failed"][each.name] = {"error": error, "skipped": []}
            continue
        key.loaded = True
        answer["unlocked"].append(each.name)
    return answer


def _mistake(dataset: Dataset, key: Encryption, told: Row | None) -> str | None:
    """Why a key cannot be loaded."""
    if any(above.locked for above in _above(dataset)):
        return f"Parent of {dataset.name!r} is locked"
    secret = (told or {}).get("passphrase") or (told or {}).get("key")
    if secret is None:
        return None if key.in_database else _NO_KEY
    return None if secret == key.key else _WRONG_KEY


def _above(dataset: Dataset) -> list[Dataset]:
    found, place = [], dataset.parent
    while place is not None:
        found.append(place)
        place = place.parent
    return found


@method("pool.dataset.lock", "DATASET_WRITE")
def dataset_lock(caller: Caller, id: Any, options: Any = None) -> int:  # noqa: A002
    """Lock an encryption root, as a job; its number."""
    given = filled(options or {}, {"force_umount": False}, where="options")
    machine = caller.machine

    def work() -> bool:
        lock(machine, id)
        return True

    return jobs_of(machine).start(caller, "pool.dataset.lock", [id, given], work)


@method("pool.dataset.unlock", "DATASET_WRITE")
def dataset_unlock(caller: Caller, id: Any, options: Any = None) -> int:  # noqa: A002
    """Unlock an encryption root, as a job; its number."""
    given = filled(options or {}, _UNLOCK, where="options")
    machine = caller.machine
    # A job's arguments are seen by others.
    shown = {**given, "datasets": [{"name": each["name"]} for each in given["datasets"]]}
    return jobs_of(machine).start(
        caller, "pool.dataset.unlock", [id, shown], lambda: unlock(machine, id, given)
    )


@method("pool.dataset.encryption_summary", "DATASET_READ")
def encryption_summary(caller: Caller, id: Any, options: Any = None) -> int:  # noqa: A002
    """Which keys would open what, as a job; its number."""
    given = filled(options or {}, _SUMMARY, where="options")
    machine = caller.machine

    def work() -> list[Row]:
        told = {each["name"]: each for each in given["datasets"]}
        return [
            _summary(each, each.encryption, told.get(each.name)) for each in roots(_the_root(machine, id))
        ]

    shown = {**given, "datasets": [{"name": each["name"]} for each in given["datasets"]]}
    return jobs_of(machine).start(caller, "pool.dataset.encryption_summary", [id, shown], work)


def _summary(dataset: Dataset, key: Encryption | None, told: Row | None) -> Row:
    assert key is not None  # noqa: S101 - a root has one
    error = _mistake(dataset, key, told) if not key.loaded else None
    return {
        "name": dataset.name,
        "key_format": key.key_format.upper(),
        "key_present_in_database": key.in_database,
        "valid_key": error not in (_WRONG_KEY, _NO_KEY),
        "locked": dataset.locked,
        "unlock_error": error,
        "unlock_successful": error is None,
    }
