"""What a protocol has to do for a connection: read requests, and write replies and events. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from truetally.lab.nas.failures import NasRefusal
from truetally.lab.nas.machine import Row


class Act(StrEnum):
    """What a request wants."""

    CONNECT = "connect"
    CALL = "call"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"


@dataclass(frozen=True, slots=True)
class Request:
    """A well-formed request.

    Attributes:
        method: what faults know it by, whatever its act.
        silent: it gets no reply.
    """

    method: str
    params: list[Any]
    id: Any
    silent: bool = False
    act: Act = Act.CALL


class Hangup(Exception):
    """What came ends the connection, with this close code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Wire(Protocol):
    """One connection's protocol.

    Attributes:
        awaits_jobs: a session may ask for results of jobs instead of their numbers.
    """

    awaits_jobs: bool

    def read(self, text: str) -> Request | Row:
        """A request, or the reply to what is none.

        Raises:
            Hangup: the connection ends here.
        """

    def result(self, request: Request, value: Any) -> Row:
        """The reply of what succeeded."""

    def refusal(self, request: Request, refused: NasRefusal) -> Row:
        """The reply of what was refused."""

    def event(self, told: Row) -> Row:
        """What a subscriber is sent."""

    def unsubscribed(self, collection: str, refused: NasRefusal | None) -> Row:
        """What a subscriber is sent whose subscription the NAS has ended."""
