"""`truetally status`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from truetally.cli import styles
from truetally.cli.client import Client
from truetally.cli.options import Options, pass_options, question_options
from truetally.cli.output import show
from truetally.cli.table import Cell, Column, Paper
from truetally.cli.words import age, printable
from truetally.model.answers import SourceAnswer, StatusAnswer


@click.command()
@question_options
@pass_options
def status(options: Options) -> None:
    """How the daemon is, and how it stands with its sources."""
    show(options, Client(options.sockets()).get("status"), StatusAnswer, _lines)


def _lines(status: StatusAnswer, paper: Paper) -> Iterator[str]:
    yield from _daemon(status, paper)
    yield ""
    yield from _sources(status.sources, paper)
    yield from _gaps(status.sources, paper)
    if status.notify:
        yield ""
        yield from _receivers(status, paper)
    for warning in status.warnings:
        yield paper.paint(f"warning: {printable(warning)}", "yellow")


def _daemon(status: StatusAnswer, paper: Paper) -> Iterator[str]:
    ready = paper.paint("ready", "green")
    if not status.ready:
        ready = paper.paint("not ready", "yellow") + f": {printable(status.ready_detail)}"
    history = status.history if status.history == "ok" else paper.paint(printable(status.history), "red")
    yield f"truetally {printable(status.version)}, up {age(status.uptime_seconds)}, {ready}"
    if status.config_file:
        yield f"config    {printable(status.config_file)}"
    yield f"findings  {_counts(status.findings)}"
    yield f"volumes   {status.volumes}"
    yield f"history   {history}"
    yield f"queue     {status.queue_depth} waiting, last batch took {status.last_batch_seconds * 1000:.0f} ms"
    if status.held:
        held = f"{status.held} held: cannot be checked until their sources are read in full again"
        yield paper.paint(held, "yellow")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {printable(name)}" for name, count in counts.items() if count) or "none"


def _sources(sources: tuple[SourceAnswer, ...], paper: Paper) -> Iterator[str]:
    columns = (
        Column("SOURCE"),
        Column("KIND"),
        Column("STATE"),
        Column("VERSION"),
        Column("COMPLETE", right=True),
        Column("RECONNECTS", right=True),
        Column("DETAIL", elastic=True),
    )
    rows = [
        (
            source.name,
            source.kind,
            styles.source(source.state),
            source.version,
            f"{len(source.complete)}/{len(source.complete) + len(source.incomplete)}",
            str(source.reconnects),
            source.detail,
        )
        for source in sources
    ]
    yield from paper.table(columns, rows)


def _gaps(sources: tuple[SourceAnswer, ...], paper: Paper) -> Iterator[str]:
    gaps = [(source.name, gap) for source in sources for gap in source.incomplete]
    if not gaps:
        return
    yield ""
    yield "Not known in full, so nothing is concluded from what is absent there:"
    columns = (Column("SOURCE"), Column("KIND"), Column("TROUBLE"), Column("REASON", elastic=True))
    rows = [(name, gap.kind, Cell(gap.trouble, "yellow"), gap.reason) for name, gap in gaps]
    yield from paper.table(columns, rows)


def _receivers(status: StatusAnswer, paper: Paper) -> Iterator[str]:
    columns = (
        Column("RECEIVER"),
        Column("STATE"),
        Column("DELIVERED", right=True),
        Column("FAILED", right=True),
        Column("WAITING", right=True),
        Column("DETAIL", elastic=True),
    )
    rows = [
        (
            receiver.name,
            receiver.state,
            str(receiver.delivered),
            Cell(str(receiver.failed), "red" if receiver.failed else ""),
            str(receiver.waiting),
            receiver.detail,
        )
        for receiver in status.notify
    ]
    yield from paper.table(columns, rows)
