"""Virtual environments for TrueNAS clients that others wrote, with a newer Python than truetally's.

Each set of clients has a lock file with hashes here. It is installed once and kept in the user's cache,
under the hash of what it was locked to, so that a test run installs nothing that it has already.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_HERE = Path(__file__).parent
_LEAST = (3, 13)
_NAMES = ("python3.13", "python3.14")
# One package comes as source only; it is built with what is locked here.
_BUILD = _HERE / "build.txt"
_DONE = "installed"


class Unavailable(RuntimeError):
    """There is no such environment to be had here: no Python that is new enough, or pip refused."""


def python_with(lock: str) -> Path:
    """The Python of an environment in which exactly the packages of a lock file are installed.

    Args:
        lock: a file beside this one, without its suffix.

    Raises:
        Unavailable: there is none, and none can be made.
    """
    requirements = _HERE / f"{lock}.txt"
    interpreter = _interpreter()
    where = _cache() / f"{lock}-{_fingerprint(interpreter, _BUILD, requirements)}"
    python = where / "bin" / "python"
    if not (where / _DONE).exists():
        _cache().mkdir(parents=True, exist_ok=True)
        with (_cache() / "lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # two test runs at once install it once
            if not (where / _DONE).exists():
                _install(interpreter, where, requirements)
    return python


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truetally-foreign-client"


def _fingerprint(interpreter: Path, *files: Path) -> str:
    told = str(interpreter).encode() + b"".join(each.read_bytes() for each in files)
    return hashlib.sha256(told).hexdigest()[:16]


def _interpreter() -> Path:
    for each in _candidates():
        if _is_usable(each):
            return each
    raise Unavailable(
        f"no Python {_LEAST[0]}.{_LEAST[1]} or later is on PATH or among pyenv's versions; install one"
    )


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    for name in _NAMES:
        if found := shutil.which(name):
            yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    if program := shutil.which("pyenv"):
        told = subprocess.run([program, "root"], capture_output=True, text=True, check=False).stdout.strip()
        pyenv = Path(told or pyenv)
    for name in _NAMES:
        yield from sorted(pyenv.glob(f"versions/*/bin/{name}"), reverse=True)


def _is_usable(python: Path) -> bool:
    # What stands on PATH may be pyenv's stand-in for a version that is not switched on.
    ask = f"import ensurepip, sys, venv; sys.exit(sys.version_info < {_LEAST})"
    return subprocess.run([python, "-c", ask], capture_output=True, check=False).returncode == 0


def _install(interpreter: Path, where: Path, requirements: Path) -> None:
    print(f"installing {requirements.stem} clients into {where}", file=sys.stderr, flush=True)
    _run([interpreter, "-m", "venv", "--clear", where])
    pip = [where / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    install = [*pip, "install", "--require-hashes", "--no-build-isolation"]
    _run([*install, "--only-binary", ":all:", "-r", _BUILD])
    _run([*install, "-r", requirements])
    (where / _DONE).touch()


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout)[-4000:]
        raise Unavailable(f"{' '.join(map(str, command))} failed:\n{said}")
