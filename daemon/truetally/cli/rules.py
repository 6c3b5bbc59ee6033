"""`truetally rules`."""

from __future__ import annotations

from collections.abc import Iterator

import click
import msgspec

from truetally.cli import names, styles
from truetally.cli.client import Client
from truetally.cli.lazy import ListingGroup
from truetally.cli.options import Options, pass_options, question_options
from truetally.cli.output import show, understood
from truetally.cli.table import Cell, Column, Paper
from truetally.cli.words import printable
from truetally.model.answers import RuleAnswer


class _Listed(msgspec.Struct):
    """The daemon's list as it came, with the fields that this version does not know."""

    rules: msgspec.Raw


@click.group(cls=ListingGroup)
def rules() -> None:
    """What truetally looks for, and how to mend it; without a verb it lists."""


@rules.command("list")
@question_options
@pass_options
def list_rules(options: Options) -> None:
    """List all rules; as JSON or YAML a list of them, without anything around it."""
    answer = understood(Client(options.sockets()).get("rules"), _Listed)
    show(options, bytes(answer.rules), tuple[RuleAnswer, ...], _table)


@rules.command("show")
@click.argument("rule", shell_complete=names.rules)
@question_options
@pass_options
def show_rule(options: Options, rule: str) -> None:
    """Show one rule: what it needs to know, and how to mend what it finds."""
    show(options, Client(options.sockets()).get("rules", rule), RuleAnswer, _whole)


def _table(rules: tuple[RuleAnswer, ...], on: Paper) -> Iterator[str]:
    columns = (Column("RULE"), Column("SEVERITY"), Column("ENABLED"), Column("TITLE", elastic=True))
    rows = [(rule.id, styles.severity(rule.severity), Cell(*_enabled(rule)), rule.title) for rule in rules]
    yield from on.table(columns, rows)


def _whole(rule: RuleAnswer, on: Paper) -> Iterator[str]:
    severity = styles.severity(rule.severity)
    yield on.paint(printable(rule.title), "bold")
    yield f"  id        {printable(rule.id)}"
    yield f"  severity  {on.paint(severity.text, severity.style)}"
    yield f"  enabled   {on.paint(*_enabled(rule))}"
    yield f"  needs     {printable(', '.join(rule.needs)) or '-'}"
    yield f"To mend it: {printable(rule.fix)}"


def _enabled(rule: RuleAnswer) -> tuple[str, str]:
    return ("yes", "") if rule.enabled else ("no", "dim")
