"""`truetally validate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import click

from truetally.cli.client import Client
from truetally.cli.exits import Exit
from truetally.cli.options import Options, pass_options, question_options
from truetally.cli.output import show, understood
from truetally.cli.table import Cell, Column, Paper
from truetally.cli.words import printable
from truetally.model.answers import ValidationAnswer

_STYLES = {"ok": "green", "unknown": "dim", "warning": "yellow", "error": "red"}


@click.command()
@click.option("--all", "everything", is_flag=True, help="Show what is right, too.")
@click.option("--strict", is_flag=True, help="Let warnings and what is unknown fail, too.")
@question_options
@pass_options
@click.pass_context
def validate(ctx: click.Context, options: Options, everything: bool, strict: bool) -> None:
    """Check whether StorageClasses, drivers, nodes and NAS fit together, and say what to do.

    Ends with 5 if there is an error; with --strict also if there is a warning, or something is unknown.
    """
    body = Client(options.sockets()).get("validation")
    show(options, body, ValidationAnswer, lambda answer, paper: _lines(answer, paper, everything=everything))
    answer = understood(body, ValidationAnswer)
    if not answer.ready:
        click.echo(f"truetally is not ready: {printable(answer.ready_detail)}", err=True)
    failing = {"error", "warning", "unknown"} if strict else {"error"}
    if any(item.outcome in failing for item in answer.items):
        ctx.exit(Exit.FINDINGS)


def _lines(answer: ValidationAnswer, paper: Paper, *, everything: bool) -> Iterator[str]:
    shown = [item for item in answer.items if everything or item.outcome != "ok"]
    if shown:
        columns = (
            Column("OUTCOME"),
            Column("CHECK"),
            Column("ABOUT", elastic=True),
            Column("FOUND", elastic=True),
            Column("WHAT TO DO", elastic=True),
        )
        rows = [
            (Cell(i.outcome, _STYLES.get(i.outcome, "")), i.check, i.about, i.found, i.fix) for i in shown
        ]
        yield from paper.table(columns, rows)
        yield ""
    counts = Counter(item.outcome for item in answer.items)
    yield ", ".join(f"{counts[each]} {each}" for each in ("error", "warning", "unknown", "ok"))
