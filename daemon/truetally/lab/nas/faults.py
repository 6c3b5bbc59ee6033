"""Faults to order: what a NAS does on a bad day, by method and by count.

Which fault a call meets is decided here; what it looks like on the wire, in the server.
"""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

ANY = "*"


class Kind(StrEnum):
    """What happens to a call."""

    ERROR = "error"
    DROP = "drop"
    TRUNCATE = "truncate"
    CUT = "cut"


@dataclass(slots=True)
class Fault:
    """One planned fault: it meets the `nth` call of a method from now on, and `times - 1` after it."""

    kind: Kind
    method: str
    nth: int = 1
    times: int = 1
    number: int = errno.EFAULT
    reason: str = ""

    def meets(self, method: str) -> bool:
        """Whether this call is one of its own; counts the call."""
        if self.method not in (ANY, method) or self.times <= 0:
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

    def meet(self, method: str) -> Fault | None:
        """The fault that this call meets."""
        self.calls[method] += 1
        met = [fault for fault in self.planned if fault.meets(method)]
        self.planned = [fault for fault in self.planned if fault.times > 0]
        return met[0] if met else None

    def seconds(self, method: str) -> float:
        """How long this call takes."""
        return self.latency_of.get(method, self.latency)

    def clear(self) -> None:
        """Take all orders back."""
        self.latency = 0.0
        self.latency_of.clear()
        self.planned.clear()
