"""Faults to order: what a NAS does on a bad day, by method and by count.

Which fault a call meets is decided here; what it looks like on the wire, in the connection. What is asked
before a session begins has a name too: `connect` is the opening of `/websocket`, and the path is that of an
HTTP request (`/api/versions`, `/api/current`, `/websocket`); ANY means calls alone. A REST request is the
call of its method, and meets every fault of one.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

ANY = "*"


class Kind(StrEnum):
    """What happens to a call, or (LOSE) to an event."""

    ERROR = "error"
    DROP = "drop"
    TRUNCATE = "truncate"
    CUT = "cut"
    STALL = "stall"
    RESTART = "restart"
    HOLD = "hold"
    LOSE = "lose"


def is_call(name: str) -> bool:
    """Whether a name is of a method, and not of what comes before a session."""
    return name != "connect" and not name.startswith("/")


@dataclass(slots=True)
class Fault:
    """One planned fault: it meets the `nth` call of a method from now on, and `times - 1` after it.

    The method is the collection where events are meant.
    """

    kind: Kind
    method: str
    nth: int = 1
    times: int = 1
    number: int = errno.EFAULT
    reason: str = ""

    def meets(self, method: str) -> bool:
        """Whether this call is one of its own; counts the call."""
        named = self.method == method or (self.method == ANY and is_call(method))
        if not named or self.times <= 0:
            return False
        self.nth -= 1
        if self.nth > 0:
            return False
        self.times -= 1
        return True


@dataclass(slots=True)
class Faults:
    """All that is ordered.

    Attributes:
        latency: seconds that every call takes.
        latency_of: seconds that a call of this method takes instead.
        calls: how often each method was called, for tests that ask what a client did.
    """

    latency: float = 0.0
    latency_of: dict[str, float] = field(default_factory=dict)
    planned: list[Fault] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def fail(
        self,
        method: str,
        *,
        nth: int = 1,
        times: int = 1,
        number: int = errno.EFAULT,
        reason: str = "the lab was told to fail",
    ) -> None:
        """Answer with an error."""
        self.planned.append(Fault(Kind.ERROR, method, nth, times, number, reason))

    def drop(self, method: str, *, nth: int = 1, times: int = 1) -> None:
        """Do it, and lose the answer."""
        self.planned.append(Fault(Kind.DROP, method, nth, times))

    def truncate(self, method: str, *, nth: int = 1, times: int = 1) -> None:
        """Answer with the first half of the list only."""
        self.planned.append(Fault(Kind.TRUNCATE, method, nth, times))

    def cut(self, method: str, *, nth: int = 1, times: int = 1) -> None:
        """Break the connection in the middle of the answer."""
        self.planned.append(Fault(Kind.CUT, method, nth, times))

    def stall(self, method: str, *, nth: int = 1, times: int = 1) -> None:
        """Do it, and say nothing more on any connection until the NAS resumes."""
        self.planned.append(Fault(Kind.STALL, method, nth, times))

    def restart(self, method: str, *, nth: int = 1, times: int = 1) -> None:
        """Restart the NAS instead of doing it; all connections break, and it comes back at its address."""
        self.planned.append(Fault(Kind.RESTART, method, nth, times))

    def hold(self, method: str, *, nth: int = 1, times: int = 1) -> None:
        """Hold the answer back until another one of that connection (REST: any other one) has been sent."""
        self.planned.append(Fault(Kind.HOLD, method, nth, times))

    def lose(self, collection: str, *, nth: int = 1, times: int = 1) -> None:
        """Tell nobody of an event of this collection."""
        self.planned.append(Fault(Kind.LOSE, collection, nth, times))

    def delay(self, seconds: float, *, method: str = ANY) -> None:
        """Let every call take so many seconds, or each of one method (or path, before a session) alone."""
        if method == ANY:
            self.latency = seconds
        else:
            self.latency_of[method] = seconds

    def meet(self, method: str) -> Fault | None:
        """The fault that this call meets; if several do, the one ordered first."""
        if is_call(method):
            self.calls[method] += 1
        return self._met([fault for fault in self.planned if fault.kind is not Kind.LOSE], method)

    def loses(self, collection: str) -> bool:
        """Whether this event is lost."""
        return self._met([fault for fault in self.planned if fault.kind is Kind.LOSE], collection) is not None

    def _met(self, among: list[Fault], name: str) -> Fault | None:
        met = [fault for fault in among if fault.meets(name)]
        self.planned = [fault for fault in self.planned if fault.times > 0]
        return met[0] if met else None

    def seconds(self, method: str) -> float:
        """How long this call takes."""
        return self.latency_of.get(method, self.latency if is_call(method) else 0.0)

    def clear(self) -> None:
        """Take all orders back."""
        self.latency = 0.0
        self.latency_of.clear()
        self.planned.clear()
