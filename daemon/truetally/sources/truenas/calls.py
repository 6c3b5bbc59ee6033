"""What both wire protocols of TrueNAS have in common: calls, replies, failures, hints. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

import msgspec

_ENOENT, _EACCES, _EBUSY, _ETOOMANYREFS, _ENOMETHOD, _ENOTAUTHENTICATED = 2, 13, 16, 109, 201, 207


class Fault(StrEnum):
    """Why a call failed, as far as a caller does something different about it."""

    NOT_FOUND = "not found"
    NOT_AUTHENTICATED = "not authenticated"
    NOT_PERMITTED = "not permitted"
    NO_METHOD = "no such method"
    BUSY = "busy"
    INVALID = "invalid"
    FAILED = "failed"


class CallFailed(Exception):
    """A call was answered with an error; the server's traceback is not kept."""

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault
        self.reason = reason


class Change(msgspec.Struct, frozen=True):
    """An event: a hint that something of a collection has changed.

    Attributes:
        fields: what the event carries, undecoded; only `reporting.realtime` is read from it.
    """

    collection: str
    msg: str
    id: Any = None
    fields: msgspec.Raw = msgspec.Raw(b"null")


class Unsubscribed(msgspec.Struct, frozen=True):
    """The server will send no more events of a collection."""

    collection: str
    reason: str


class Reply(msgspec.Struct, frozen=True):
    """The end of a call: a result, or an error in our few classes."""

    number: int
    result: msgspec.Raw = msgspec.Raw(b"null")
    failure: CallFailed | None = None


class Greeting(msgspec.Struct, frozen=True):
    """The answer to the opening message; `accepted` says whether the server speaks our version."""

    accepted: bool


Message = Reply | Change | Unsubscribed | Greeting


class Wire(Protocol):
    """A protocol that calls travel by.

    Attributes:
        path: where the websocket is.
        opening: what has to be said first, or nothing.
    """

    path: str
    opening: str

    def request(self, number: int, method: str, params: Sequence[Any]) -> str:
        """A call's frame."""

    def subscription(self, number: int, collection: str) -> str:
        """The frame that subscribes; it is answered like a call."""

    def read(self, text: str | bytes) -> Message | None:
        """What the server has sent; None for what concerns nobody.

        Raises:
            msgspec.DecodeError: it is no message of this protocol.
        """


class ErrorData(msgspec.Struct):
    """The part of an error that both protocols share."""

    error: int | None = None
    reason: str | None = None
    extra: Any = None
    type: str | None = None


def failure(data: ErrorData, *, fallback: str = "", hint: Fault | None = None) -> CallFailed:
    """The error in our few classes.

    Args:
        fallback: the reason, where the error gives none.
        hint: what the envelope says of it, which counts if nothing more exact does.
    """
    reason = data.reason or fallback or "no reason given"
    return CallFailed(_fault(data, hint), reason.strip())


def _fault(data: ErrorData, hint: Fault | None) -> Fault:
    reason = data.reason or ""
    # A missing object comes as a refused parameter with a generic errno: only `extra` tells it apart.
    if any(isinstance(each, list) and len(each) > 2 and each[2] == _ENOENT for each in _list(data.extra)):
        return Fault.NOT_FOUND
    if data.error == _ENOTAUTHENTICATED or "Session is expired" in reason:
        return Fault.NOT_AUTHENTICATED
    if data.error == _EACCES:
        return Fault.NOT_PERMITTED
    if data.error == _ENOMETHOD:
        return Fault.NO_METHOD
    if data.error in (_EBUSY, _ETOOMANYREFS):
        return Fault.BUSY
    if data.error == _ENOENT or "MatchNotFound" in reason:
        return Fault.NOT_FOUND
    if data.type == "VALIDATION":
        return Fault.INVALID
    return hint or Fault.FAILED


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


# EJSON

_LONGEST_TIME = 12


def moment(value: Any) -> datetime | None:
    """The time that EJSON's `{"$date": milliseconds}` or a number of seconds stands for."""
    if isinstance(value, Mapping):
        milliseconds = value.get("$date")
        return _at(milliseconds / 1000) if isinstance(milliseconds, int | float) else None
    if isinstance(value, str) and value.isdecimal() and len(value) <= _LONGEST_TIME:
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _at(value)
    return None


def _at(seconds: float) -> datetime | None:
    """None for a time that no calendar of ours has."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def members(value: Any) -> tuple[Any, ...]:
    """The members of a list, or of EJSON's `{"$set": […]}`."""
    if isinstance(value, Mapping):
        value = value.get("$set")
    return tuple(value) if isinstance(value, list) else ()
