"""`truetally snapshots`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from truetally.cli import names
from truetally.cli.client import Client
from truetally.cli.options import Options, pass_options, question_options
from truetally.cli.output import show, understood
from truetally.cli.table import Cell, Column, Paper
from truetally.cli.words import now, printable, since, size
from truetally.model.answers import SnapshotAnswer, SnapshotsAnswer
from truetally.model.snapshots import SnapshotOrder, SnapshotVerdict

_STYLES = {
    SnapshotVerdict.ORPHANED.value: "red",
    SnapshotVerdict.SUSPECTED.value: "yellow",
    SnapshotVerdict.OVERDUE.value: "yellow",
}


@click.command()
@click.option("--source", shell_complete=names.sources, help="Only snapshots at this cluster or NAS.")
@click.option("--volume", help="Only snapshots of this volume: a volume, a claim or a dataset by its name.")
@click.option("--orphaned", is_flag=True, help="Only snapshots that are proven to be orphaned.")
@click.option("--older-than", metavar="AGE", help="Only snapshots that are older, like 12h or 30d.")
@click.option("--by-size", is_flag=True, help="The largest first; otherwise by dataset and age.")
@question_options
@pass_options
def snapshots(
    options: Options,
    source: str | None,
    volume: str | None,
    orphaned: bool,
    older_than: str | None,
    by_size: bool,
) -> None:
    """List all snapshots: whose they are, who made them, and what is known against them.

    USED is what a snapshot alone keeps. What several keep together comes back when the last of them goes.
    """
    query = {
        "source": source,
        "volume": volume,
        "verdict": SnapshotVerdict.ORPHANED.value if orphaned else None,
        "older_than": older_than,
        "order": SnapshotOrder.SIZE.value if by_size else None,
    }
    body = Client(options.sockets()).get("snapshots", query=query)
    show(options, body, SnapshotsAnswer, _table)
    answer = understood(body, SnapshotsAnswer)
    if not answer.ready:
        click.echo(f"truetally is not ready, and more may come: {printable(answer.ready_detail)}", err=True)


def _table(answer: SnapshotsAnswer, on: Paper) -> Iterator[str]:
    if not answer.snapshots:
        yield "No such snapshots."
        return
    at = now()
    columns = (
        Column("NAS"),
        Column("DATASET", elastic=True),
        Column("SNAPSHOT", elastic=True),
        Column("CLAIM", elastic=True),
        Column("VOLUME SNAPSHOT", elastic=True),
        Column("MADE BY"),
        Column("AGE", right=True),
        Column("USED", right=True),
        Column("REFERENCED", right=True),
        Column("KEPT BY"),
        Column("VERDICT"),
    )
    rows = [
        (
            snapshot.nas,
            snapshot.dataset,
            snapshot.name,
            f"{snapshot.namespace}/{snapshot.claim}" if snapshot.claim else snapshot.volume,
            snapshot.volume_snapshot or snapshot.content,
            snapshot.maker,
            since(snapshot.created_at, at),
            size(snapshot.used_bytes),
            size(snapshot.referenced_bytes),
            _kept_by(snapshot),
            Cell(snapshot.verdict, _STYLES.get(snapshot.verdict, "")),
        )
        for snapshot in answer.snapshots
    ]
    yield from on.table(columns, rows)
    yield ""
    yield f"Without all of these, {_space(answer)} would come back."


def _kept_by(snapshot: SnapshotAnswer) -> str:
    """What keeps it from being destroyed; holds are known only of snapshots that were looked at singly."""
    counts = (("clone", len(snapshot.clones)), ("hold", len(snapshot.holds or ())))
    return ", ".join(f"{count} {what}{'s' if count > 1 else ''}" for what, count in counts if count)


def _space(answer: SnapshotsAnswer) -> str:
    least, most = answer.returns_at_least_bytes, answer.returns_at_most_bytes
    if most is None:
        return f"at least {size(least)}"
    return size(least) if least == most else f"between {size(least)} and {size(most)}"
