"""The command line against a daemon with known answers."""

from __future__ import annotations

import grp
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from pathlib import Path

import click
import msgspec
import pytest
import yaml

from api.fake_tally import NOON, ORPHAN, a_finding, a_status, a_volume, an_explanation
from truetally.cli.client import unreachable
from truetally.cli.root import root
from truetally.model.findings import Acknowledgement, Severity, State

GOLDEN = Path(__file__).parent / "golden"
ID = a_finding().fingerprint
QUESTIONS = {
    "status": ("status",),
    "findings": ("findings",),
    "finding": ("findings", "show", ID),
    "history": ("findings", "history", ID),
    "explain": ("explain", "pvc", "media/data"),
    "volumes": ("volumes",),
    "snapshots": ("snapshots",),
    "rules": ("rules",),
    "rule": ("rules", "show", "dataset-without-volume"),
}

pytestmark = pytest.mark.usefixtures("daemon")


# Formats


@pytest.mark.parametrize("name", QUESTIONS)
def test_json_stays_as_it_was_published(truetally, name):
    """Scripts rely on it: a golden file may gain fields, and never lose or change one."""
    result = truetally(*QUESTIONS[name], "-o", "json")
    assert result.exit_code == 0
    assert result.stdout == (GOLDEN / f"{name}.json").read_text()


def test_rules_are_a_list_of_objects_for_scripts(truetally, tally):
    rules = json.loads(truetally("rules", "-o", "json").stdout)
    assert [rule["id"] for rule in rules] == [rule.id for rule in tally.rules()]
    assert all({"id", "title", "severity", "needs", "fix"} <= set(rule) for rule in rules)
    assert json.loads(truetally("rules", "show", rules[0]["id"], "-o", "json").stdout) == rules[0]


@pytest.mark.parametrize("name", QUESTIONS)
def test_yaml_says_the_same_as_json(truetally, name):
    as_yaml, as_json = (truetally(*QUESTIONS[name], "-o", form).stdout for form in ("yaml", "json"))
    assert yaml.safe_load(as_yaml) == json.loads(as_json)


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_output_option_may_stand_before_the_command(truetally, name):
    before, after = truetally("-o", "json", *QUESTIONS[name]), truetally(*QUESTIONS[name], "-o", "json")
    assert before.stdout == after.stdout


def test_a_table_is_aligned_and_has_no_colours_in_a_pipe(truetally):
    heading, row = truetally("findings").stdout.splitlines()
    assert heading.split() == ["ID", "SEVERITY", "STATE", "AGE", "SOURCE", "SUMMARY"]
    assert row.index("nas1") == heading.index("SOURCE")
    assert row.endswith(a_finding().summary)
    assert "\x1b" not in heading + row


def test_an_empty_cell_is_a_dash_so_that_columns_can_be_counted(truetally, tally):
    tally.listed = [a_volume(claim="", namespace="", used_bytes=None)]
    heading, row = truetally("volumes").stdout.splitlines()
    cells = [cell for cell in row.split("  ") if cell]
    assert len(cells) == len(heading.split())
    assert (cells[1].strip(), cells[8].strip()) == ("-", "-")


def test_status_shows_sources_gaps_receivers_and_warnings(truetally):
    shown = truetally("status").stdout
    for expected in (
        "up 2d, ready",
        "1 open, 2 pending, 7 resolved",
        "grant SHARING_ISCSI_READ",
        "timed out after 20s",
        "warning: nas[0].api_key: stands in the file itself",
    ):
        assert expected in shown


def test_status_says_what_is_missing_while_not_ready_and_what_is_held(truetally, tally):
    tally.state = a_status(ready=False, ready_detail="nas1 is still listed", held=3)
    shown = truetally("status").stdout
    assert "not ready: nas1 is still listed" in shown
    assert "3 held" in shown


def test_a_finding_shows_evidence_in_units_mending_and_history(truetally):
    shown = truetally("findings", "show", ID[:5]).stdout
    for expected in (
        "5 GiB (5368709120 bytes)",
        "clones     a, b",
        "To mend it: Look what",
        "confirmed at both",
    ):
        assert expected in shown


def test_a_finding_is_shown_even_if_the_history_is_broken(truetally, tally):
    tally.history_broken = True
    result = truetally("findings", "show", ID)
    assert result.exit_code == 0
    assert "cannot be told: the disk of the history is full" in result.stdout


def test_an_explanation_shows_every_link_with_its_proof_and_every_condition(truetally, tally):
    tally.explanations["pvc"]["media/data"] = an_explanation(findings=(a_finding(),))
    shown = truetally("explain", "pvc", "media/data").stdout
    for expected in ("spec.claimRef.uid", "exact", "✗ its dataset is missing", f"warning {ID} No Persist"):
        assert expected in shown


def test_the_most_severe_stand_first_and_the_acknowledged_last(truetally, tally):
    seen = Acknowledgement("ann", NOON, "known")
    tally.known = [
        a_finding(rule="a", severity=Severity.INFO),
        a_finding(rule="b", severity=Severity.CRITICAL, acknowledged=seen),
        a_finding(rule="c", severity=Severity.CRITICAL),
    ]
    rows = truetally("findings").stdout.splitlines()[1:]
    assert [row.split()[1:3] for row in rows] == [
        ["critical", "open"],
        ["info", "open"],
        ["critical", "acknowledged"],
    ]


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
@pytest.mark.parametrize("trick", ["\x1b[2J", "\u202e", "\x9b31m", "\x07", "\r", "\x85"])
def test_a_name_cannot_take_over_the_terminal(truetally, tally, output, trick):
    tally.known = [a_finding(summary=f"bad{trick}name")]
    tally.listed = [a_volume(claim=f"bad{trick}name")]
    tally.explanations["pvc"]["media/data"] = an_explanation(why=(f"{trick} x",), verdict=f"{trick} y")
    for question in (("findings",), ("findings", "show", ID), ("volumes",), ("explain", "pvc", "media/data")):
        shown = truetally(*question, "-o", output).stdout
        assert trick not in shown
        assert shown


def test_a_name_in_an_error_cannot_take_over_the_terminal(truetally):
    result = truetally("explain", "pvc", "\x1b[2J")
    assert result.exit_code == 4
    assert "\x1b" not in result.stderr
    assert "\\x1b[2J" in result.stderr


# Asking


def test_findings_lists_open_and_held_unless_told_otherwise(truetally, tally):
    tally.known = [a_finding(rule=state.value, state=state) for state in State]

    def states(*words: str) -> set[str]:
        answer = json.loads(truetally("findings", *words, "-o", "json").stdout)
        return {finding["state"] for finding in answer["findings"]}

    assert states() == {"open", "held"}
    assert states("--all") == {"open", "held", "pending", "resolved"}
    assert states("--state", "resolved", "--state", "pending") == {"resolved", "pending"}


def test_acknowledging_says_who_did_it(truetally, tally):
    result = truetally("findings", "ack", ID, "--reason", "it is mine")
    assert result.exit_code == 0
    assert tally.acknowledged[0][2] == "it is mine"
    assert f"{ID} acknowledged by {tally.acknowledged[0][1]}: it is mine" in result.stdout


def test_a_daemon_that_knows_more_is_understood(truetally, tally, monkeypatch):
    class Newer(type(a_status()), frozen=True):
        since_tomorrow: str = "something new"

    fields = {name: getattr(a_status(), name) for name in a_status().__struct_fields__}
    tally.state = Newer(**fields)
    assert json.loads(truetally("status", "-o", "json").stdout)["since_tomorrow"] == "something new"
    assert truetally("status").exit_code == 0


# Exit codes


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("findings", "--rule", "dataset-without-volumes"), 2, "did you mean dataset-without-volume?"),
        (("findings", "--source", "nas2"), 2, "did you mean nas1?"),
        (("findngs",), 2, "did you mean findings?"),
        (("findings", "shw"), 2, "did you mean show?"),
        (("findings", "--severity", "bad"), 2, "critical"),
        (("explain", "pod", "x"), 2, "pvc"),
        (("explain", "pvc", "media/dat"), 4, "did you mean media/data?"),
        (("findings", "show", "ffff"), 4, "no finding ffff"),
        (("rules", "show", "dataset"), 4, "no rule 'dataset'"),
    ],
)
def test_a_mistake_has_its_exit_code_and_a_hint(truetally, words, code, said):
    result = truetally(*words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in result.stderr


def test_a_failure_of_the_daemon_is_exit_one_with_its_words(truetally, tally):
    tally.history_broken = True
    result = truetally("findings", "ack", ID)
    assert (result.exit_code, result.stderr) == (1, "truetally: the disk of the history is full; make room\n")


@pytest.mark.parametrize(
    ("severity", "acknowledged", "fail_on", "code"),
    [
        (Severity.WARNING, False, "critical", 0),
        (Severity.WARNING, False, "warning", 5),
        (Severity.CRITICAL, False, "warning", 5),
        (Severity.CRITICAL, True, "info", 0),
    ],
)
def test_fail_on_tells_a_script_what_is_severe_enough(
    truetally, tally, severity, acknowledged, fail_on, code
):
    seen = Acknowledgement("ann", NOON) if acknowledged else None
    tally.known = [a_finding(severity=severity, acknowledged=seen)]
    assert truetally("findings", "--fail-on", fail_on).exit_code == code


def test_nothing_found_by_a_daemon_that_is_not_ready_is_no_all_clear(truetally, tally):
    tally.known, tally.readiness = [], (False, "nas1 is still listed")
    result = truetally("findings", "--fail-on", "warning")
    assert result.exit_code == 3
    assert "nas1 is still listed" in result.stderr


def test_help_tells_the_exit_codes_and_every_command(truetally):
    shown = truetally("--help").stdout
    assert "5    findings --fail-on found something" in shown
    assert all(name in shown for name in ("status", "findings", "explain", "check-config", "lab"))


@pytest.mark.parametrize("name", [name for name in root.list_commands(None) if name not in ("lab", "run")])
def test_every_command_helps(truetally, name):
    result = truetally(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: truetally {name}")


# On a terminal


@pytest.fixture
def on_terminal(environment):
    """What a command prints on a terminal of 70 columns."""

    def run(*words: str, **changes: str) -> str:
        master, slave = pty.openpty()
        environment.pop("NO_COLOR", None)
        variables = environment | {"TERM": "xterm", "COLUMNS": "70"} | changes
        subprocess.run(
            [sys.executable, "-m", "truetally", *words], env=variables, stdout=slave, check=True, timeout=60
        )
        os.close(slave)
        try:
            return os.read(master, 65536).decode().replace("\r\n", "\n")
        finally:
            os.close(master)

    return run


def test_a_terminal_gets_colours_and_lines_that_fit(on_terminal, tally):
    tally.known = [a_finding(summary="x" * 90)]
    row = on_terminal("findings").splitlines()[1]
    assert "\x1b[33mwarning\x1b[0m" in row
    assert len(click.unstyle(row)) == 70
    assert row.endswith("x…")


@pytest.mark.parametrize(
    ("option", "variables"),
    [(["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"}), (["-o", "json"], {})],
)
def test_colours_can_be_refused(on_terminal, option, variables):
    shown = on_terminal("findings", *option, **variables)
    assert "warning" in shown
    assert "\x1b" not in shown


# The program


def test_the_reader_may_leave_early(program, tally, environment):
    tally.listed = tally.listed * 10_000
    with subprocess.Popen(
        [sys.executable, "-m", "truetally", "volumes"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as listing:
        assert listing.stdout.readline().startswith(b"CLUSTER")
        listing.stdout.close()
        assert (listing.wait(60), listing.stderr.read()) == (141, b"")


def test_a_terminal_without_unicode_shows_something_else_and_does_not_fail(program):
    result = program("explain", "pvc", "media/data", PYTHONIOENCODING="latin-1")
    assert result.returncode == 0
    assert "? the claim is bound" in result.stdout


def test_completion_offers_commands_kinds_and_names(program):
    def completed(*words: str) -> list[str]:
        line = " ".join(("truetally", *words))
        result = program(
            _TRUETALLY_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words))
        ).stdout
        return [offered.partition(",")[2] for offered in result.splitlines()]

    assert completed("fin") == ["findings"]
    assert completed("findings", "sh") == ["show"]
    assert completed("findings", "--sev") == ["--severity"]
    assert completed("findings", "show", ID[:3]) == [ID]
    assert completed("explain", "p") == ["pvc", "pv"]
    assert completed("explain", "dataset", "tank") == ["tank/k8s/volumes/pvc-1"]
    assert completed("findings", "--source", "n") == ["nas1"]


def test_a_permission_that_is_missing_names_the_group(daemon):
    said = unreachable(daemon, PermissionError(13, "Permission denied"))
    assert f"usermod -aG {grp.getgrgid(daemon.stat().st_gid).gr_name} " in said


def test_something_else_on_the_socket_is_told(program, tmp_path):
    path = tmp_path / "other.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"SSH-2.0-something\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        result = program("--socket", str(path), "status")
        thread.join(10)
    assert result.returncode == 3
    assert "does not answer as truetally does" in result.stderr


def test_the_subject_of_a_golden_finding_is_what_its_fingerprint_is_made_of():
    assert msgspec.json.decode((GOLDEN / "finding.json").read_bytes())["subject"]["name"] == ORPHAN.name


def test_validate_shows_what_is_wrong_with_what_to_do_and_fails(daemon, truetally):
    result = truetally("validate")
    assert "service nfs (nas1)" in result.output
    assert "start nfs on it" in result.output
    assert "the default is truenas-nfs" not in result.output
    assert "1 error, 0 warning, 0 unknown, 1 ok" in result.output
    assert result.exit_code == 5
    assert "the default is truenas-nfs" in truetally("validate", "--all").output
