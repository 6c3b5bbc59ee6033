"""The command line where no daemon answers, and what needs none."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

import pytest

import truetally as package
from api.fake_tally import FakeTally, answering

HEAVY = ("aiohttp", "aiosqlite", "apprise", "asyncio", "kubernetes_asyncio", "pydantic", "structlog", "yaml")


def test_version_needs_no_daemon(program):
    assert program("version").stdout == f"{package.__version__}\n"


@pytest.mark.parametrize("words", [["version"], ["--help"], ["status"]])
def test_nothing_heavy_is_imported_to_answer(environment, words):
    code = (
        f"import sys; sys.argv[1:] = {words!r}\n"
        "from truetally.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.stdout.splitlines()[-1] == "HEAVY []"


def test_a_daemon_that_is_not_running_is_told_with_how_to_start_it(program, socket_path):
    result = program("status")
    assert (result.returncode, result.stdout) == (3, "")
    assert str(socket_path) in result.stderr
    assert "systemctl start truetally" in result.stderr
    assert "truetally run -c" in result.stderr


def test_a_socket_that_a_dead_daemon_left_is_told_apart(program, socket_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path))
    result = program("findings")
    assert result.returncode == 3
    assert f"nobody listens on {socket_path}" in result.stderr


def test_the_users_own_socket_is_tried_where_there_is_none_of_the_system(environment, tmp_path):
    del environment["TRUETALLY_SOCKET"]
    environment["XDG_RUNTIME_DIR"] = str(tmp_path)
    (tmp_path / "truetally").mkdir()
    with answering(FakeTally(), tmp_path / "truetally" / "truetally.sock"):
        result = subprocess.run(
            [sys.executable, "-m", "truetally", "status"], env=environment, capture_output=True, timeout=60
        )
    assert result.returncode == 0


def test_the_socket_of_the_option_wins_over_that_of_the_environment(program, tmp_path):
    with answering(FakeTally(), tmp_path / "other.sock"):
        before = program("--socket", str(tmp_path / "other.sock"), "status")
        after = program("status", "--socket", str(tmp_path / "other.sock"))
    assert (before.returncode, after.returncode) == (0, 0)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_who_may_not_use_the_socket_is_told_for_which_group_it_is(environment, socket_path):
    socket_path.parent.chmod(0o711)
    for directory in socket_path.parents[1:3]:
        directory.chmod(0o711)
    code = (
        "import os, sys; sys.argv[1:] = ['status']\n"
        "from truetally.cli import status, root\n"
        "os.setegid(65534); os.seteuid(65534)\n"
        "root.root(prog_name='truetally')"
    )
    with answering(FakeTally(), socket_path):
        result = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
        )
    assert result.returncode == 3
    assert "it is for the group root: join it" in result.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed_for_every_shell(program, shell):
    result = program("completion", shell)
    assert result.returncode == 0
    assert "_TRUETALLY_COMPLETE" in result.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=result.stdout, text=True, check=True, timeout=60)


def test_completion_is_silent_where_no_daemon_answers(program):
    result = program(
        _TRUETALLY_COMPLETE="bash_complete", COMP_WORDS="truetally findings show ", COMP_CWORD="3"
    )
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")


def test_a_config_with_mistakes_is_refused_with_all_of_them(program, tmp_path):
    config = tmp_path / "truetally.yaml"
    config.write_text("clusters:\n  - name: prod\n    in_clutser: true\nnas: 3\n")
    result = program("check-config", "-c", str(config))
    assert (result.returncode, result.stdout) == (2, "")
    assert f"{config}:3: clusters[0].in_clutser: unknown key" in result.stderr
    assert f"{config}:4: nas" in result.stderr


def test_a_good_config_is_counted_and_its_doubts_are_told(program, tmp_path):
    config = tmp_path / "truetally.yaml"
    config.write_text(
        "clusters:\n  - {name: prod, in_cluster: true}\n"
        "nas:\n  - {name: nas1, url: wss://nas1.example.com, username: t, api_key: {value: 1-abc}}\n"
    )
    result = program("check-config", "-c", str(config))
    assert (result.returncode, result.stdout) == (
        0,
        f"{config}: ok (1 cluster, 1 NAS, 0 drivers, 0 receivers, 0 exemptions)\n",
    )
    assert result.stderr.startswith("warning: ")
    assert "1-abc" not in result.stderr


def test_a_config_that_is_not_there_is_a_mistake(program, tmp_path):
    result = program("check-config", TRUETALLY_CONFIG=str(tmp_path / "none.yaml"))
    assert result.returncode == 2
    assert "none.yaml: does not exist" in result.stderr
