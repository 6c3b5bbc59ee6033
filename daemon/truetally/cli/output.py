"""Printing an answer as it was asked for: the daemon's JSON unchanged, the same as YAML, or a table."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

import click
import msgspec

from truetally.cli.options import Options
from truetally.cli.table import Paper
from truetally.errors import TruetallyError

Answer = TypeVar("Answer")


def show(
    options: Options, body: bytes, form: type[Answer], lines: Callable[[Answer, Paper], Iterable[str]]
) -> None:
    """Print the daemon's answer; `lines` makes the table of it."""
    match options.output:
        case "json":
            click.echo(_as_json(body))
        case "yaml":
            click.echo(_as_yaml(body), nl=False)
        case _:
            write(lines(understood(body, form), paper(options)))


def understood(body: bytes, form: type[Answer]) -> Answer:
    """The answer as values."""
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.MsgspecError as error:
        raise TruetallyError(
            f"the daemon answers in the form of another version ({error}); "
            "restart it after an upgrade, or take -o json"
        ) from error


def write(lines: Iterable[str]) -> None:
    """Print lines whose colours are already decided."""
    # One write for all: ten thousand lines, each flushed, would take seconds.
    text = "\n".join(lines)
    if text:
        click.echo(text, color=True)


def paper(options: Options) -> Paper:
    """What standard output is: a terminal of some width, or something that takes whole lines."""
    if not sys.stdout.isatty():
        return Paper()
    # no-color.org: any value but an empty one counts.
    colored = not (options.no_color or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb")
    return Paper(colored, shutil.get_terminal_size().columns)


def _as_json(body: bytes) -> str:
    value = json.loads(body)
    text = json.dumps(value, indent=2, ensure_ascii=False)
    # JSON leaves some control characters as they are (those above 0x7f, those that turn the line around).
    visible = all(line.isprintable() for line in text.split("\n"))
    return text if visible else json.dumps(value, indent=2)


def _as_yaml(body: bytes) -> str:
    import yaml

    value = json.loads(body)
    visible = json.dumps(value, ensure_ascii=False).isprintable()
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(value, Dumper=dumper, sort_keys=False, allow_unicode=visible, width=110)
    return text
