"""Completion of names: asked of the daemon, and silent if it doesn't answer at once."""

from __future__ import annotations

import click

from truetally.cli.client import Client
from truetally.cli.options import Options
from truetally.cli.output import understood
from truetally.errors import TruetallyError
from truetally.model.answers import FindingsAnswer, RulesAnswer, StatusAnswer, VolumesAnswer

# Whoever presses Tab doesn't wait.
_TAB_SECONDS = 1.0


def fingerprints(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Fingerprints of findings that are not resolved."""
    try:
        body = _client(ctx).get("findings", query={"state": "open,held,pending"})
        found = [finding.fingerprint for finding in understood(body, FindingsAnswer).findings]
    except TruetallyError:
        return []
    return _beginning(found, incomplete)


def rules(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Ids of rules."""
    try:
        found = [rule.id for rule in understood(_client(ctx).get("rules"), RulesAnswer).rules]
    except TruetallyError:
        return []
    return _beginning(found, incomplete)


def sources(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of clusters and NAS."""
    try:
        found = [source.name for source in understood(_client(ctx).get("status"), StatusAnswer).sources]
    except TruetallyError:
        return []
    return _beginning(found, incomplete)


def explainable(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of claims, volumes or datasets, according to the kind given before."""
    try:
        listed = understood(_client(ctx).get("volumes"), VolumesAnswer).volumes
    except TruetallyError:
        return []
    match ctx.params.get("kind"):
        case "pvc":
            found = [f"{volume.namespace}/{volume.claim}" for volume in listed if volume.claim]
        case "pv":
            found = [volume.volume for volume in listed]
        case "dataset":
            found = [volume.dataset for volume in listed]
        case _:
            found = []
    return _beginning(found, incomplete)


def _client(ctx: click.Context) -> Client:
    options = ctx.find_root().ensure_object(Options)
    return Client(options.sockets(), timeout_seconds=_TAB_SECONDS)


def _beginning(names: list[str], incomplete: str) -> list[str]:
    # A name that isn't printable would be put on the command line as it is.
    return sorted({name for name in names if name.startswith(incomplete) and name and name.isprintable()})
