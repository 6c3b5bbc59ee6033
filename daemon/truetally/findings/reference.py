"""The page on all rules, for people: docs/rules.md, which `make rules` writes from the catalogue."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from truetally.findings.catalogue import RULES
from truetally.findings.rule import Rule
from truetally.graph.graph import Graph
from truetally.graph.world import World
from truetally.settings import Settings, written

_HEAD = """\
# What truetally finds

This page is made from the rules themselves (`make rules`); `truetally rules` says the same of the daemon that
runs, with its settings.

*Told after* is how long something must stand before it is told, by default. *Read again* says that the
sources are asked once more before that. While one of the kinds that a rule needs cannot be read in full, its
findings are held: neither resolved nor opened.

A rule can be disabled (`rules.disabled`), given another severity (`rules.severities`) and exempted from
(`exemptions`) in the configuration, where its thresholds stand too.
"""


def page() -> str:
    """The page as it stands in the file."""
    world = World(Graph(), Settings(), datetime(2000, 1, 1, tzinfo=UTC), 0.0)
    return "\n".join((_HEAD, *_table(world), *(line for rule in RULES for line in _section(rule, world))))


def _table(world: World) -> Iterator[str]:
    yield "| rule | what | severity | told after | read again |"
    yield "|---|---|---|---|---|"
    for rule in RULES:
        cells = (
            f"[`{rule.id}`](#{rule.id})",
            _cell(rule.title),
            rule.severity.value,
            _after(rule, world),
            "yes" if rule.reread is not None else "no",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _section(rule: Rule, world: World) -> Iterator[str]:
    yield f"## {rule.id}"
    yield ""
    yield f"{rule.title}. Severity: {rule.severity.value}; told after: {_after(rule, world)}."
    yield ""
    yield f"- **To mend it:** {rule.fix}"
    yield f"- **Judges:** each {rule.subject.value}"
    yield f"- **Needs:** {', '.join(sorted(kind.value for kind in rule.needs)) or 'nothing'}"
    hidden_by = ", ".join(f"`{each.rule}` of its {each.within.value}" for each in rule.hidden_by)
    yield f"- **Hidden by:** {hidden_by or 'nothing'}"
    yield ""


def _after(rule: Rule, world: World) -> str:
    pending = rule.pending(world)
    return written(pending) if pending > timedelta(0) else "at once"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
