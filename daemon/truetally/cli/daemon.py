"""Starting the daemon, and looking at its configuration before that."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from truetally.cli.words import printable
from truetally.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from truetally.settings import Settings

_CONFIG = Path("/etc/truetally/truetally.yaml")

Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    """Add `--config`."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        envvar="TRUETALLY_CONFIG",
        default=_CONFIG,
        show_default=True,
        metavar="FILE",
        help="The config file; otherwise $TRUETALLY_CONFIG.",
    )(command)


@click.command()
@config_option
@click.pass_context
def run(ctx: click.Context, config: Path) -> None:
    """Run the daemon in the foreground, until it is told to stop (SIGTERM or Ctrl-C)."""
    from truetally.app import main

    ctx.exit(main(config))


@click.command("check-config")
@config_option
def check_config(config: Path) -> None:
    """Find every mistake in a config file and in the TRUETALLY_ variables that override it.

    Each is told with file, line and key. Nothing is contacted and no secret is read.
    """
    from truetally.configuration import check
    from truetally.findings.catalogue import BY_ID

    checked = check(config, os.environ, datetime.now().astimezone().date(), BY_ID.keys())
    for warning in checked.warnings:
        click.echo(f"warning: {printable(str(warning))}", err=True)
    if checked.settings is None:
        raise ConfigurationInvalid("\n".join(map(str, checked.mistakes)), checked.mistakes)
    click.echo(f"{printable(str(config))}: ok ({_counted(checked.settings)})")


def _counted(settings: Settings) -> str:
    counts = (
        (len(settings.clusters), "cluster", "clusters"),
        (len(settings.nas), "NAS", "NAS"),
        (len(settings.drivers), "driver", "drivers"),
        (len(settings.notify.receivers), "receiver", "receivers"),
        (len(settings.exemptions), "exemption", "exemptions"),
    )
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts)
