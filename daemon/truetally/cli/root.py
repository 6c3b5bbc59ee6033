"""`truetally`: the words that it takes, and how its failures end."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import click

from truetally.cli.exits import EXPLAINED, Exit, exit_of
from truetally.cli.lazy import Lazy, LazyGroup
from truetally.cli.options import root_options
from truetally.cli.words import printable
from truetally.errors import TruetallyError

_COMMANDS = {
    "status": Lazy("truetally.cli.status:status", "How the daemon is, and how it stands with its sources."),
    "findings": Lazy("truetally.cli.findings:findings", "What is wrong: list it, show it, acknowledge it."),
    "explain": Lazy(
        "truetally.cli.explain:explain", "One volume on both sides, and why it is a finding or not."
    ),
    "volumes": Lazy("truetally.cli.volumes:volumes", "All volumes, with what each side knows of them."),
    "snapshots": Lazy(
        "truetally.cli.snapshots:snapshots", "All snapshots: whose they are, and what is against them."
    ),
    "rules": Lazy("truetally.cli.rules:rules", "What truetally looks for, and how to mend it."),
    "validate": Lazy(
        "truetally.cli.validate:validate", "Whether classes, drivers and NAS fit together, for CI too."
    ),
    "run": Lazy("truetally.cli.daemon:run", "Run the daemon in the foreground."),
    "check-config": Lazy("truetally.cli.daemon:check_config", "Find every mistake in a config file."),
    "doctor": Lazy("truetally.cli.doctor:doctor", "Why something cannot be watched, and what to grant."),
    "lab": Lazy("truetally.lab.command:lab", "Try truetally on a NAS and a cluster that it brings along."),
    "completion": Lazy("truetally.cli.about:completion", "Print the completion script for a shell."),
    "version": Lazy("truetally.cli.about:version", "Print the version."),
}


class _Root(LazyGroup):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TruetallyError as error:
            for line in str(error).split("\n"):
                click.echo(f"truetally: {printable(line)}", err=True)
            ctx.exit(exit_of(error))
        except BrokenPipeError:
            _leave_quietly(ctx)


def _leave_quietly(ctx: click.Context) -> NoReturn:
    # What is still in the buffer would fail again when the interpreter flushes it at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    ctx.exit(Exit.READER_GONE)


@click.group(
    cls=_Root,
    lazy=_COMMANDS,
    epilog=EXPLAINED,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@root_options
def root() -> None:
    """Keep the true tally of persistent volumes across Kubernetes, TrueNAS and democratic-csi."""
    # An output that cannot show ✓ should show something else, and not fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
