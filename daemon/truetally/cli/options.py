"""The options that every question takes; they may stand before the command or after it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

OUTPUTS = ("table", "json", "yaml")
_SYSTEM_SOCKET = Path("/run/truetally/truetally.sock")

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(slots=True)
class Options:
    """What was chosen on the command line or in the environment.

    Attributes:
        socket: None for the usual places.
    """

    socket: Path | None = None
    output: str = "table"
    no_color: bool = False

    def sockets(self) -> list[Path]:
        """Where the daemon may listen, likeliest first."""
        if self.socket is not None:
            return [self.socket]
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        own = [Path(runtime, "truetally", "truetally.sock")] if runtime else []
        return [_SYSTEM_SOCKET, *own]


pass_options = click.make_pass_decorator(Options, ensure=True)


def question_options(command: Command) -> Command:
    """Add `--output`, `--socket` and `--no-color`."""
    for option in (_no_color(), _socket(None), _output(None)):
        command = option(command)
    return command


def root_options(command: Command) -> Command:
    """The same before the command; only here they are also taken from the environment."""
    # If a command's own option read the environment too, that would win over one given before the command.
    for option in (_no_color(), _socket("TRUETALLY_SOCKET"), _output("TRUETALLY_OUTPUT")):
        command = option(command)
    return command


def _chosen(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    options = context.find_root().ensure_object(Options)
    if value is not None and parameter.name is not None:
        setattr(options, parameter.name, value)


def _output(variable: str | None) -> Callable[[Command], Command]:
    return click.option(
        "-o",
        "--output",
        type=click.Choice(OUTPUTS),
        envvar=variable,
        expose_value=False,
        callback=_chosen,
        help="How to print: a table for people, or the daemon's answer as JSON or YAML.",
    )


def _socket(variable: str | None) -> Callable[[Command], Command]:
    return click.option(
        "--socket",
        type=click.Path(path_type=Path),
        envvar=variable,
        expose_value=False,
        callback=_chosen,
        metavar="PATH",
        help=f"The daemon's socket; otherwise $TRUETALLY_SOCKET, or {_SYSTEM_SOCKET}.",
    )


def _no_color() -> Callable[[Command], Command]:
    return click.option(
        "--no-color",
        is_flag=True,
        default=None,
        expose_value=False,
        callback=_chosen,
        help="No colours; there are none without a terminal or with $NO_COLOR either.",
    )
