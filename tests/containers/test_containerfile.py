"""Is the image built from pinned things, and does it run without privileges?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


def _instructions() -> Iterator[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (TOP / "Containerfile").read_text(), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            yield word, " ".join(rest.split())


INSTRUCTIONS = list(_instructions())


def _all(word: str) -> list[str]:
    return [rest for found, rest in INSTRUCTIONS if found == word]


def _final_stage() -> list[tuple[str, str]]:
    last = max(n for n, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM")
    return INSTRUCTIONS[last:]


def _sources() -> list[str]:
    copies = [rest.split() for rest in _all("COPY") if not rest.startswith("--from")]
    return [source for copy in copies for source in copy[:-1]]


def test_the_base_image_is_an_argument_with_a_version_of_its_own():
    (base,) = _all("ARG")
    name, _, tag = base.removeprefix("BASE=").partition(":")
    assert name
    assert tag not in ("", "latest")
    assert {rest.split()[0] for rest in _all("FROM")} == {"${BASE}"}


def test_it_runs_as_a_numbered_user_that_is_not_root():
    # Kubernetes' runAsNonRoot cannot judge a name.
    users = [rest for word, rest in _final_stage() if word == "USER"]
    assert [user.split(":")[0] for user in users] == ["10001"]


def test_everything_that_is_installed_is_pinned_by_a_hash_or_comes_from_the_build():
    installs = re.findall(r"pip install [^&]*", " && ".join(_all("RUN")))
    assert len(installs) == 3
    assert all("--require-hashes" in install or "--no-index" in install for install in installs)


@pytest.mark.parametrize("source", _sources())
def test_what_is_copied_exists_and_is_not_ignored(source):
    assert (TOP / source).exists()
    let_in = {line[1:] for line in (TOP / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert source in let_in


def test_nothing_is_let_into_the_build_that_is_not_copied():
    lines = (TOP / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {line[1:] for line in lines if line[:1] == "!"} == set(_sources())


def test_health_is_asked_of_the_daemon_and_signals_reach_it():
    final = dict(_final_stage())
    assert json.loads(final["HEALTHCHECK"].partition("CMD ")[2]) == ["truetally", "status"]
    # The list form: with a shell between, SIGTERM would not arrive.
    assert json.loads(final["ENTRYPOINT"]) == ["truetally"]
    assert json.loads(final["CMD"])[0] == "run"


def test_the_tools_that_build_the_wheel_are_pinned_too():
    text = (TOP / "deploy" / "build-requirements.txt").read_text()
    pinned = re.findall(r"^[a-z-]+==\S+ \\$", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[a-z]", text, re.MULTILINE)) > 0
    assert "http" not in text
