"""`truetally volumes`."""

from __future__ import annotations

from collections.abc import Iterator

import click

from truetally.cli import names
from truetally.cli.client import Client
from truetally.cli.options import Options, pass_options, question_options
from truetally.cli.output import show, understood
from truetally.cli.table import Cell, Column, Paper
from truetally.cli.words import printable, size
from truetally.model.answers import VolumesAnswer


@click.command()
@click.option("--source", shell_complete=names.sources, help="Only volumes of this cluster or NAS.")
@click.option("-n", "--namespace", help="Only volumes claimed in this namespace.")
@click.option("--state", help="Only volumes in this state.")
@question_options
@pass_options
def volumes(options: Options, source: str | None, namespace: str | None, state: str | None) -> None:
    """List all volumes, with what each side knows of them."""
    query = {"source": source, "namespace": namespace, "state": state}
    body = Client(options.sockets()).get("volumes", query=query)
    show(options, body, VolumesAnswer, _table)
    answer = understood(body, VolumesAnswer)
    if not answer.ready:
        click.echo(f"truetally is not ready, and more may come: {printable(answer.ready_detail)}", err=True)


def _table(answer: VolumesAnswer, on: Paper) -> Iterator[str]:
    if not answer.volumes:
        yield "No such volumes."
        return
    columns = (
        Column("CLUSTER"),
        Column("CLAIM", elastic=True),
        Column("VOLUME", elastic=True),
        Column("PHASE"),
        Column("NAS"),
        Column("DATASET", elastic=True),
        Column("PROTOCOL"),
        Column("CAPACITY", right=True),
        Column("USED", right=True),
        Column("SNAPSHOTS", right=True),
        Column("STATE"),
        Column("FINDINGS", right=True),
    )
    rows = [
        (
            volume.cluster,
            f"{volume.namespace}/{volume.claim}" if volume.claim else "",
            volume.volume,
            volume.phase,
            volume.nas,
            volume.dataset,
            volume.protocol,
            size(volume.capacity_bytes),
            size(volume.used_bytes),
            str(volume.snapshots),
            volume.state,
            Cell(str(volume.findings), "yellow" if volume.findings else ""),
        )
        for volume in answer.volumes
    ]
    yield from on.table(columns, rows)
