"""Jobs: calls that return a number at once and do their work a little later.

The work is done when the job ends; what it raises is the job's failure. How long jobs
take is for whoever drives the lab to say, by method or for all.
"""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from truetally.lab.nas.failures import CallError, InstanceNotFound, Invalid, NasRefusal, errname
from truetally.lab.nas.machine import ApiKey, Event, Machine, Row
from truetally.lab.nas.table import Caller
from truetally.lab.nas.tree import date

Work = Callable[[], Any]
FOREVER = math.inf


@dataclass(slots=True)
class Jobs:
    """The jobs of one machine that have not ended.

    Attributes:
        seconds: how long a job takes; FOREVER lets it run until `finish`.
        seconds_of: the same for one method.
    """

    machine: Machine
    seconds: float = 0.0
    seconds_of: dict[str, float] = field(default_factory=dict)
    waiting: dict[int, Work] = field(default_factory=dict)

    def start(self, caller: Caller, method: str, arguments: list[Any], work: Work) -> int:
        """A new job; its number. Where no loop runs, it has ended when this returns."""
        key = str(caller.key.id) if isinstance(caller.key, ApiKey) else ""
        row = self.machine.start_job(method, arguments, username=caller.username, api_key=key)
        self.waiting[row["id"]] = work
        seconds = self.seconds_of.get(method, self.seconds)
        if seconds != FOREVER:
            self._end_after(seconds, row["id"])
        return int(row["id"])

    def _end_after(self, seconds: float, number: int) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.finish(number)
            return
        loop.call_later(seconds, self.finish, number)

    def finish(self, number: int) -> Row:
        """Let a job do its work and end, if it has not; its row."""
        row = self.machine.jobs[number - 1]
        work = self.waiting.pop(number, None)
        if work is None:
            return row
        try:
            self.machine.finish_job(row, work())
        except NasRefusal as refused:
            self._fail(row, refused)
        return row

    def settle(self) -> None:
        """Let every job end now that would end by itself."""
        for number in list(self.waiting):
            method = self.machine.jobs[number - 1]["method"]
            if self.seconds_of.get(method, self.seconds) != FOREVER:
                self.finish(number)

    def _fail(self, row: Row, refused: NasRefusal) -> None:
        text, number = _told(refused)
        row.update(
            state="FAILED",
            error=f"[{errname(number)}] {text}",
            exception=f"{type(refused).__name__}: {text}",
            exc_info={"type": type(refused).__name__, "repr": repr(refused), "errno": number, "extra": None},
            time_finished=date(self.machine.now()),
        )
        self.machine.emit(Event("changed", "core.get_jobs", row["id"], dict(row)))


def _told(refused: NasRefusal) -> tuple[str, int]:
    if isinstance(refused, Invalid):
        return refused.extra[0][1], refused.extra[0][2]
    if isinstance(refused, InstanceNotFound):
        return refused.text, errno.ENOENT
    if isinstance(refused, CallError):
        return refused.reason, refused.number
    return str(refused), errno.EFAULT


_JOBS: WeakKeyDictionary[Machine, Jobs] = WeakKeyDictionary()


def jobs_of(machine: Machine) -> Jobs:
    """The jobs of a machine, to say how long they take or to let one end."""
    return _JOBS.setdefault(machine, Jobs(machine))
