"""`truetally findings`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import click

from truetally.cli import names, styles
from truetally.cli.client import Client
from truetally.cli.exits import Exit
from truetally.cli.lazy import ListingGroup
from truetally.cli.options import Options, pass_options, question_options
from truetally.cli.output import paper, show, understood, write
from truetally.cli.table import Cell, Column, Paper
from truetally.cli.words import facts, local, now, printable, since
from truetally.errors import DaemonNotRunning, TruetallyError
from truetally.model.answers import FindingsAnswer, TransitionsAnswer
from truetally.model.findings import Finding, Severity, State, Transition

_SEVERITIES = [severity.value for severity in Severity]
_STATES = [state.value for state in State]
_fingerprint = click.argument("fingerprint", metavar="ID", shell_complete=names.fingerprints)


@click.group(cls=ListingGroup)
def findings() -> None:
    """What is wrong: list it, show it, acknowledge it.

    Without a verb it lists. An ID may be shortened while it stays the only one.
    """


@findings.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice(_STATES),
    multiple=True,
    default=("open", "held"),
    show_default=True,
    help="Only findings in this state; may be given several times.",
)
@click.option("--all", "in_all_states", is_flag=True, help="Findings in all states.")
@click.option("--rule", shell_complete=names.rules, help="Only findings of this rule.")
@click.option("--severity", type=click.Choice(_SEVERITIES), help="Only findings of this severity.")
@click.option("--source", shell_complete=names.sources, help="Only findings about this cluster or NAS.")
@click.option(
    "--fail-on",
    type=click.Choice(_SEVERITIES),
    help="Exit 5 if something listed is at least so severe and not acknowledged, "
    "and 3 if nothing is but truetally is not ready to judge.",
)
@question_options
@pass_options
@click.pass_context
def list_findings(
    ctx: click.Context,
    options: Options,
    states: tuple[str, ...],
    in_all_states: bool,
    rule: str | None,
    severity: str | None,
    source: str | None,
    fail_on: str | None,
) -> None:
    """List findings, those that matter most first."""
    state = None if in_all_states else ",".join(states)
    query = {"state": state, "rule": rule, "severity": severity, "source": source}
    body = Client(options.sockets()).get("findings", query=query)
    show(options, body, FindingsAnswer, _table)
    answer = understood(body, FindingsAnswer)
    if not answer.ready:
        click.echo(f"truetally is not ready, and more may come: {printable(answer.ready_detail)}", err=True)
    if fail_on is not None:
        _fail_on(ctx, Severity(fail_on), answer)


@findings.command("show")
@_fingerprint
@question_options
@pass_options
def show_finding(options: Options, fingerprint: str) -> None:
    """Show one finding: its evidence, how to mend it, and what has become of it."""
    client = Client(options.sockets())
    body = client.get("findings", fingerprint)
    show(options, body, Finding, lambda finding, on: _whole(finding, now(), on))
    if options.output == "table":
        write(_story(client, fingerprint, paper(options)))


@findings.command("history")
@_fingerprint
@question_options
@pass_options
def finding_history(options: Options, fingerprint: str) -> None:
    """Show what has become of a finding, oldest first."""
    body = Client(options.sockets()).get("findings", fingerprint, "transitions")
    show(options, body, TransitionsAnswer, lambda answer, on: _transitions(answer.transitions, on))


@findings.command("ack")
@_fingerprint
@click.option("--reason", default="", help="Why; it is kept with the finding.")
@question_options
@pass_options
def acknowledge_finding(options: Options, fingerprint: str, reason: str) -> None:
    """Acknowledge a finding: you have seen it, and nobody is reminded of it."""
    body = Client(options.sockets()).post("findings", fingerprint, "acknowledge", body={"reason": reason})
    show(options, body, Finding, _acknowledged)


def _fail_on(ctx: click.Context, worst: Severity, answer: FindingsAnswer) -> None:
    severe = _SEVERITIES[_SEVERITIES.index(worst) :]
    if any(finding.severity in severe and finding.acknowledged is None for finding in answer.findings):
        ctx.exit(Exit.FINDINGS)
    if not answer.ready:
        # Nothing found by who cannot judge yet is no all-clear.
        raise DaemonNotRunning("nothing so severe is known yet; ask again when truetally is ready")


def _table(answer: FindingsAnswer, on: Paper) -> Iterator[str]:
    if not answer.findings:
        yield "No such findings."
        return
    at = now()
    columns = (
        Column("ID"),
        Column("SEVERITY"),
        Column("STATE"),
        Column("AGE", right=True),
        Column("SOURCE"),
        Column("SUMMARY", elastic=True),
    )
    rows = [
        (
            finding.fingerprint,
            styles.severity(finding.severity),
            styles.state(finding),
            since(finding.since, at),
            finding.subject.source,
            finding.summary,
        )
        for finding in sorted(answer.findings, key=_importance)
    ]
    yield from on.table(columns, rows)


def _importance(finding: Finding) -> tuple[bool, bool, int, str, str]:
    """What is acknowledged stands last, and what another finding explains stands after that one."""
    severity = _SEVERITIES.index(finding.severity)
    return (
        finding.acknowledged is not None,
        bool(finding.hidden_by),
        -severity,
        finding.subject.source,
        finding.subject.name,
    )


def _whole(finding: Finding, at: datetime, on: Paper) -> Iterator[str]:
    severity, state = styles.severity(finding.severity), styles.state(finding)
    yield on.paint(printable(finding.summary), "bold")
    known = [
        ("id", Cell(finding.fingerprint)),
        ("rule", Cell(finding.rule)),
        ("subject", Cell(str(finding.subject))),
        ("severity", severity),
        ("state", state),
        ("since", Cell(f"{local(finding.since)} ({since(finding.since, at)} ago)")),
        *((name, Cell(value)) for name, value in facts(finding.facts)),
    ]
    if finding.acknowledged is not None:
        by = finding.acknowledged
        known.append(("acknowledged", Cell(f"by {by.by}, {local(by.at)}{_because(by.reason)}")))
    if finding.note:
        known.append(("note", Cell(finding.note)))
    if finding.hidden_by:
        known.append(("hidden by", Cell(", ".join(finding.hidden_by))))
    width = max(len(name) for name, _ in known)
    for name, cell in known:
        yield f"  {printable(name):<{width}}  {on.paint(printable(cell.text), cell.style)}"
    yield f"To mend it: {printable(finding.fix)}"


def _story(client: Client, fingerprint: str, on: Paper) -> Iterator[str]:
    yield ""
    try:
        answer = understood(client.get("findings", fingerprint, "transitions"), TransitionsAnswer)
    except TruetallyError as error:
        yield f"What has become of it cannot be told: {printable(str(error))}"
        return
    yield from _transitions(answer.transitions, on)


def _transitions(transitions: tuple[Transition, ...], on: Paper) -> Iterator[str]:
    columns = (Column("AT"), Column("BEFORE"), Column("AFTER"), Column("REASON", elastic=True))
    rows = [
        (
            local(transition.at),
            transition.before.value if transition.before is not None else "",
            styles.state(transition.finding),
            transition.reason,
        )
        for transition in transitions
    ]
    yield from on.table(columns, rows)


def _acknowledged(finding: Finding, on: Paper) -> Iterator[str]:
    by = finding.acknowledged
    yield f"{finding.fingerprint} acknowledged" + (
        f" by {printable(by.by)}{printable(_because(by.reason))}" if by is not None else ""
    )


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
