"""Which daemon owns a history: one at a time.

SQLite would let two daemons write in turn, and each would tell people what the
other has told already. The kernel releases the lock when its holder ends, also by
SIGKILL. The lock file is never removed: between a removal and the next lock two
daemons could hold a lock each, on different files of the same name.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from truetally.errors import HistoryInUse, HistoryUnavailable


class Ownership:
    """The exclusive right to one history, until `release()` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, database: Path) -> Ownership:
        """Take the history for this process; `HistoryInUse` names who has it."""
        lock = database.with_name(database.name + ".lock")
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise HistoryUnavailable(
                f"the lock file {lock} cannot be opened ({error.strerror}); the daemon's user must be able "
                f"to write in {lock.parent}"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise HistoryInUse(
                f"the history {database} is in use by another truetally (pid {holder}); "
                "stop that one, or give this one a history.path of its own"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise HistoryUnavailable(
                f"the lock file {lock} cannot be locked ({error.strerror}); keep the history on a local disk"
            ) from error
        _sign(descriptor)
        return cls(descriptor)

    def release(self) -> None:
        """Let another daemon take it."""
        os.close(self._descriptor)


def _sign(descriptor: int) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError:
        # On a full disk the lock holds all the same; only the pid is not told.
        return
