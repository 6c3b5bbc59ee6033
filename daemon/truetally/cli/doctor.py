"""`truetally doctor`: whether truetally can reach what it should watch, and what is to be granted if not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import click

from truetally.cli.daemon import config_option
from truetally.cli.lazy import Lazy, LazyGroup
from truetally.cli.options import Options, pass_options, question_options
from truetally.cli.table import Cell, Column, Paper
from truetally.errors import ConfigurationInvalid, NotFound

if TYPE_CHECKING:
    from truetally.settings import NasSettings, Settings
    from truetally.sources.truenas.examination import Checked, Examination

_COMMANDS = {
    "nas": Lazy("truetally.cli.doctor:nas", "Whether each NAS lets us in, and exactly what to grant.")
}


_COLUMNS = (
    Column("  PERMITTED"),
    Column("FOR"),
    Column("METHOD"),
    Column("WITHOUT IT", elastic=True),
)


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def doctor() -> None:
    """Find out why something cannot be watched."""


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@config_option
@click.option("--all", "everything", is_flag=True, help="Show what is permitted, too.")
@question_options
@pass_options
@click.pass_context
def nas(ctx: click.Context, options: Options, names: Sequence[str], config: Path, everything: bool) -> None:
    """Log in to each NAS of the config file, try what truetally has to read, and say what to grant.

    Needs no running daemon, and changes nothing. A second user (remediator) is compared by its roles only.
    Ends with 1 if anything is missing.
    """
    import msgspec

    from truetally.cli.output import show
    from truetally.sources.truenas.examination import Examination

    found = asyncio.run(_examined(_chosen(_settings(config), names)))
    told = [msgspec.to_builtins(each) | {"well": each.well} for each in found]
    show(
        options,
        msgspec.json.encode(told),
        list[Examination],
        lambda answer, paper: _lines(answer, paper, everything=everything),
    )
    active = {each.nas for each in found if not each.standby}
    if not all(each.well and each.nas in active for each in found):
        ctx.exit(1)


def _settings(config: Path) -> Settings:
    from truetally.configuration import check
    from truetally.findings.catalogue import BY_ID

    checked = check(config, os.environ, datetime.now().astimezone().date(), BY_ID.keys())
    if checked.settings is None:
        raise ConfigurationInvalid("\n".join(map(str, checked.mistakes)), checked.mistakes)
    return checked.settings


def _chosen(settings: Settings, names: Sequence[str]) -> list[NasSettings]:
    known = {each.name: each for each in settings.nas}
    for name in names:
        if name not in known:
            meant = get_close_matches(name, known)
            raise NotFound(f"there is no NAS {name} in the config file; there are {', '.join(known)}", meant)
    return [known[name] for name in names] if names else list(settings.nas)


async def _examined(chosen: Sequence[NasSettings]) -> list[Examination]:
    from truetally.sources.truenas.examination import Examination, examine
    from truetally.sources.truenas.logins import observer, remediator

    found: list[Examination] = []
    for settings in chosen:
        try:
            watching, changing = observer(settings, os.environ), remediator(settings, os.environ)
        except ConfigurationInvalid as error:
            found.append(Examination(settings.name, settings.url, settings.username, "to watch", str(error)))
            continue
        for url in (settings.url, *settings.failover_urls):
            found.append(await examine(settings, url, watching, remediator=False))
            if changing is not None and not found[-1].standby:
                found.append(await examine(settings, url, changing, remediator=True))
    return found


def _lines(found: Sequence[Examination], paper: Paper, *, everything: bool) -> Iterator[str]:
    for number, each in enumerate(found):
        if number:
            yield ""
        yield paper.paint(f"{each.nas}  {each.url}", "bold")
        yield f"  user {each.username}, {each.purpose}"
        if each.standby:
            yield f"  {each.trouble.partition(',')[0]}"
            continue
        if each.trouble:
            yield "  " + paper.paint(f"✗ {each.trouble}", "red")
            continue
        roles = "" if each.user_roles is None else f", roles {', '.join(each.user_roles) or 'none'}"
        yield f"  logged in to {each.version} (as {each.generation}){roles}"
        shown = [
            one for one in each.checked if everything or (one.permitted is False and not one.subscription)
        ]
        if shown:
            yield from paper.table(_COLUMNS, [_row(one) for one in shown])
        unheard = sorted({one.purpose for one in each.checked if one.subscription and one.permitted is False})
        if unheard:
            yield f"  not told at once, only found by the next reading: {', '.join(unheard)}"
        yield from _advice(each, paper)


def _row(one: Checked) -> list[Cell | str]:
    words = {True: Cell("  yes", "green"), False: Cell("  no", "red"), None: Cell("  unknown", "dim")}
    method = f"subscribe {one.method}" if one.subscription else one.method
    return [words[one.permitted], one.purpose, method, "" if one.permitted else one.lost]


def _advice(each: Examination, paper: Paper) -> Iterator[str]:
    if each.well:
        yield "  " + paper.paint("✓ all that truetally needs is permitted", "green")
    where = (
        "the list of the API key" if each.user_roles is None else f"a privilege of {each.username}'s group"
    )
    if each.grant:
        yield f"  Add to {where}:"
        yield from (f"    {line}" for line in each.grant)
    if each.grant_more:
        yield f"  {'And for' if each.grant else f'Add to {where}, for'} what it can do without:"
        yield from (f"    {line}" for line in each.grant_more)
