"""The lock files: what `make demo`, `make test` and the image install, by hash."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = ROOT / "requirements-lock.txt"
DEVELOPMENT = ROOT / "requirements-dev-lock.txt"
BUILD = ROOT / "deploy/build-requirements.txt"


def _locked(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.\-]+)==([^ ;]+)", lock.read_text(), re.MULTILINE))


def _wanted(group: str) -> list[Requirement]:
    if group == "runtime":
        return [Requirement(text) for text in PROJECT["project"]["dependencies"]]
    return [Requirement(text) for text in PROJECT["dependency-groups"][group] if isinstance(text, str)]


@pytest.mark.parametrize(
    ("lock", "group"),
    [
        (RUNTIME, "runtime"),
        (DEVELOPMENT, "runtime"),
        (DEVELOPMENT, "dev"),
        (DEVELOPMENT, "build"),
        (BUILD, "build"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_lock_holds_what_pyproject_asks_for(lock, group):
    locked = _locked(lock)
    missing = [str(one) for one in _wanted(group) if not one.specifier.contains(locked.get(one.name, "0"))]
    assert missing == [], "run `make lock`"


@pytest.mark.parametrize("lock", [RUNTIME, BUILD], ids=lambda lock: lock.name)
def test_the_locks_agree_on_every_version(lock):
    development = _locked(DEVELOPMENT)
    assert {name: development.get(name) for name in _locked(lock)} == _locked(lock)


@pytest.mark.parametrize("lock", [RUNTIME, DEVELOPMENT, BUILD], ids=lambda lock: lock.name)
def test_everything_is_locked_by_hash_and_names_no_index(lock):
    text = lock.read_text()
    entries = re.findall(r"^[a-z].*(?:\n    .*)*", text, re.MULTILINE)
    assert len(entries) == len(_locked(lock)) > 0
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_what_runs_brings_no_tools_along():
    assert not {"pytest", "mypy", "ruff", "hatchling"} & _locked(RUNTIME).keys()
