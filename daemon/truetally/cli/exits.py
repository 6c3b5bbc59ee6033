"""Exit codes: what a script can tell apart."""

from __future__ import annotations

from enum import IntEnum

from truetally.errors import ConfigurationInvalid, DaemonNotRunning, NotFound, TruetallyError


class Exit(IntEnum):
    """How a command ended. The numbers are documented in `truetally --help` and never change."""

    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3
    NOT_FOUND = 4
    FINDINGS = 5
    READER_GONE = 141
    """128 + SIGPIPE, as a shell reports it of `yes | head`."""


EXPLAINED = """\b
Exit codes:
  0    it went well
  1    it failed, and the message says why
  2    a mistake on the command line or in the configuration
  3    the daemon is not running, cannot be reached or (with --fail-on) is not ready
  4    there is nothing of that name
  5    findings --fail-on found something, or validate an error
  141  the reader of the output went away, as in `truetally findings | head -1`
"""


class Misunderstood(TruetallyError):
    """The daemon refused the question as it was asked."""


def exit_of(error: TruetallyError) -> Exit:
    """The exit code for an expected failure."""
    match error:
        case ConfigurationInvalid() | Misunderstood():
            return Exit.USAGE
        case DaemonNotRunning():
            return Exit.NO_DAEMON
        case NotFound():
            return Exit.NOT_FOUND
        case _:
            return Exit.FAILED
