"""What can go wrong, one class for each thing that a catcher does differently.

TruetallyError
├── ConfigurationInvalid      the config file has mistakes: print them, exit 2
├── SourceUnavailable         try again later
├── CredentialsRefused        trying again the same way does harm: wait for the operator
├── AccessDenied              this one read is not permitted; others may be
├── HistoryUnavailable        the database cannot be used now (full disk, lock, damage)
│   ├── HistoryIsNewer        never to be opened by this version
│   └── HistoryInUse          another daemon holds it
├── DaemonNotRunning          nobody answers on the socket
└── NotFound                  the thing asked for does not exist
"""

from __future__ import annotations

from collections.abc import Sequence


class TruetallyError(Exception):
    """Base of all expected failures; its text tells the operator what is wrong and what to do."""


class ConfigurationInvalid(TruetallyError):
    """The configuration has mistakes; each stands on a line of its own, as `file:line: key: what`."""

    def __init__(self, message: str, mistakes: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.mistakes = tuple(mistakes)


class SourceUnavailable(TruetallyError):
    """A cluster or NAS cannot be reached or does not answer in time; it may come back by itself."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason


class CredentialsRefused(TruetallyError):
    """A source refused our credentials; repeating them could lock us out."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason


class AccessDenied(TruetallyError):
    """A source knows us and does not permit one operation; `grant` says what to grant."""

    def __init__(self, source: str, what: str, grant: str) -> None:
        super().__init__(f"{source}: not permitted to {what}; {grant}")
        self.source = source
        self.what = what
        self.grant = grant


class HistoryUnavailable(TruetallyError):
    """The history database cannot be read or written now."""


class HistoryIsNewer(HistoryUnavailable):
    """The history was written by a newer truetally."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"the history is at schema {found}, and this truetally knows only up to {known}; "
            "start the newer version, or restore a backup"
        )


class HistoryInUse(HistoryUnavailable):
    """Another truetally daemon holds the history."""


class DaemonNotRunning(TruetallyError):
    """Nobody answers on the daemon's socket."""


class NotFound(TruetallyError):
    """What was asked for does not exist; `nearest` are names that were probably meant."""

    def __init__(self, message: str, nearest: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.nearest = tuple(nearest)
