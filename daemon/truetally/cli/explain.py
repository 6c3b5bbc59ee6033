"""`truetally explain`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from truetally.cli import names, styles
from truetally.cli.client import Client
from truetally.cli.options import Options, pass_options, question_options
from truetally.cli.output import show
from truetally.cli.table import Cell, Column, Paper
from truetally.cli.words import printable
from truetally.model.answers import Explanation, ExplanationsAnswer, Link

# api.questions has them too, but importing the API takes longer than the answer.
KINDS = ("pvc", "pv", "dataset", "snapshot", "share", "target")

_MARKS = {"✓": "green", "✗": "red", "?": "yellow"}
_STRENGTHS = {"exact": "green", "weak": "yellow"}


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name", shell_complete=names.explainable)
@click.option("--source", shell_complete=names.sources, help="Of which cluster or NAS; otherwise of all.")
@question_options
@pass_options
def explain(options: Options, kind: str, name: str, source: str | None) -> None:
    """Show one volume's whole chain on both sides, what proves each link, and why it is a finding or not.

    NAME is NAMESPACE/NAME of a claim, the path of a dataset, DATASET@SNAPSHOT, or the name of the others.
    """
    body = Client(options.sockets()).get("explain", kind, query={"name": name, "source": source})
    show(options, body, ExplanationsAnswer, _lines)


def _lines(answer: ExplanationsAnswer, on: Paper) -> Iterator[str]:
    for number, explanation in enumerate(answer.explanations):
        if number:
            yield ""
        yield from _explained(explanation, on)


def _explained(explanation: Explanation, on: Paper) -> Iterator[str]:
    yield on.paint(printable(str(explanation.subject)), "bold")
    yield f"  {printable(explanation.verdict)}"
    if explanation.links:
        yield ""
        yield from _chain(explanation.links, on)
    if explanation.why:
        yield ""
        yield from (f"  {_condition(line, on)}" for line in explanation.why)
    for finding in explanation.findings:
        severity = styles.severity(finding.severity)
        yield ""
        yield f"{on.paint(severity.text, severity.style)} {finding.fingerprint} {printable(finding.summary)}"
        yield f"  To mend it: {printable(finding.fix)}"


def _chain(links: tuple[Link, ...], on: Paper) -> Iterator[str]:
    columns = (
        Column("ROLE"),
        Column("SOURCE"),
        Column("NAME", elastic=True),
        Column("STATE"),
        Column("PROOF"),
        Column("BY", elastic=True),
        Column("DETAIL", elastic=True),
    )
    rows = [
        (
            link.role,
            link.ref.source,
            link.ref.name,
            link.state,
            Cell(link.strength, _STRENGTHS.get(link.strength, "")),
            link.proof,
            link.detail,
        )
        for link in links
    ]
    yield from on.table(columns, rows)


def _condition(line: str, on: Paper) -> str:
    mark = line[:1]
    return on.paint(printable(mark), _MARKS.get(mark, "")) + printable(line[1:])
