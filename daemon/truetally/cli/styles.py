"""Which words stand out: the style of severities and states."""

from __future__ import annotations

from truetally.cli.table import Cell
from truetally.model.findings import Finding, Severity, State

_SEVERITIES = {Severity.CRITICAL: "red", Severity.WARNING: "yellow", Severity.INFO: "blue"}
_STATES = {State.OPEN: "", State.HELD: "yellow", State.PENDING: "dim", State.RESOLVED: "green"}
_SOURCES = {"connected": "green", "starting": "yellow", "unreachable": "red", "refused": "red"}


def severity(of: Severity) -> Cell:
    """A severity, in its colour."""
    return Cell(of.value, _SEVERITIES[of])


def state(finding: Finding) -> Cell:
    """Where a finding stands; an open one that somebody has seen is `acknowledged`."""
    if finding.acknowledged is not None and finding.state is State.OPEN:
        return Cell("acknowledged", "dim")
    return Cell(finding.state.value, _STATES[finding.state])


def source(state: str) -> Cell:
    """The state of a source."""
    return Cell(state, _SOURCES.get(state, ""))
