"""What people install is complete, and works without the repository around it."""

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _files(*folders: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _built(target: str, directory: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    [artifact] = directory.iterdir()
    return artifact


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _built("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory)
    return directory


def _said(installed: Path, code: str) -> str:
    # -I leaves out PYTHONPATH and the working directory; an editable install comes later on the path.
    program = f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}"
    command = [sys.executable, "-I", "-c", program]
    run = subprocess.run(command, cwd=installed, check=True, capture_output=True, text=True, timeout=60)
    return run.stdout.strip()


def test_the_wheel_holds_all_sql_and_configuration_files(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = _files("sql", "config")
    assert expected
    assert {f"truetally/_share/{name}" for name in expected} <= packed


def test_the_wheel_holds_every_module_and_nothing_of_the_tests(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    modules = {name.removeprefix("daemon/") for name in _files("daemon") if name.endswith(".py")}
    assert modules <= packed
    assert not [name for name in packed if "tests/" in name or "__pycache__" in name]


def test_the_wheel_carries_its_licence(wheel):
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("licenses/LICENSE")]


@pytest.mark.parametrize("name", ["sql", "config"])
def test_an_installed_truetally_finds_its_files_without_the_repository(installed, name):
    found = _said(installed, f"from truetally.shared import share; print(share({name!r}))")
    assert Path(found) == installed / "truetally" / "_share" / name


def test_an_installed_truetally_can_read_its_own_example(installed):
    code = """
from truetally.configuration import mistakes
from truetally.shared import share
print(mistakes(share("config") / "truetally.example.yaml", {}))
"""
    assert _said(installed, code) == "[]"


def test_a_truetally_without_its_files_says_so(installed, tmp_path):
    bare = tmp_path / "truetally"
    bare.mkdir()
    for module in ("__init__.py", "shared.py"):
        (bare / module).write_bytes((installed / "truetally" / module).read_bytes())
    code = """
from truetally.shared import share
try:
    share("sql")
except FileNotFoundError as error:
    print(error)
"""
    assert _said(tmp_path, code) == (
        "this truetally came without its sql folder; install it again from a release"
    )


def test_the_source_distribution_holds_what_is_needed_to_build_and_test_it(tmp_path):
    with tarfile.open(_built("sdist", tmp_path)) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    expected = _files("daemon", "sql", "config", "tests")
    expected |= {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "Makefile",
        "requirements-lock.txt",
        "requirements-dev-lock.txt",
    }
    assert {name for name in expected - packed if not name.endswith(".pyc")} == set()


def test_the_version_is_told_in_one_place_only():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert "version" in project["dynamic"]
