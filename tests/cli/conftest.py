"""A daemon with known answers, and the command line as a program and within this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from api.fake_tally import FakeTally, answering
from truetally.cli.root import root

DAEMON = Path(__file__).parents[2] / "daemon"


@pytest.fixture
def tally() -> FakeTally:
    return FakeTally()


@pytest.fixture
def socket_path(tmp_path: Path) -> Path:
    return tmp_path / "truetally.sock"


@pytest.fixture
def daemon(tally: FakeTally, socket_path: Path) -> Iterator[Path]:
    with answering(tally, socket_path):
        yield socket_path


@pytest.fixture
def truetally(socket_path: Path) -> Callable[..., Result]:
    """Run a command in this process."""

    def run(*words: str) -> Result:
        environment = {"TRUETALLY_SOCKET": str(socket_path), "TZ": "UTC"}
        return CliRunner().invoke(root, words, env=environment, prog_name="truetally")

    return run


@pytest.fixture
def environment(socket_path: Path) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("TRUETALLY", "PYTHONUN"))
    }
    return kept | {"TRUETALLY_SOCKET": str(socket_path), "PYTHONPATH": str(DAEMON), "TZ": "UTC"}


@pytest.fixture
def program(environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as people do."""

    def run(*words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "truetally", *words],
            env=environment | changes,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run
