"""JSON-RPC 2.0 as TrueNAS 25.04 and newer speak it: frames, errors, EJSON. No I/O.

Facts from middleware 26's `api/base/server/ws_handler/rpc.py` and `truenas_api_client/ejson.py`: parameters
are always positional; a failed call is -32001 with an errno in `data.error`, except for
invalid parameters and missing objects, which are -32602; replies come in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

_ENOTAUTHENTICATED = 207
_EACCES, _EBUSY, _ENOENT, _ENOMETHOD = 13, 16, 2, 201


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
    """A `collection_update`: a hint that something of a collection has changed."""

    collection: str
    msg: str
    id: Any = None


class _Data(msgspec.Struct):
    error: int | None = None
    reason: str | None = None
    extra: Any = None


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""
    data: _Data | None = None


class _Params(msgspec.Struct):
    msg: str = ""
    collection: str = ""
    id: Any = None


class Frame(msgspec.Struct):
    """Any message of the server."""

    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None
    method: str = ""
    params: _Params | None = None


_frames = msgspec.json.Decoder(Frame)


def request(number: int, method: str, params: Sequence[Any]) -> str:
    """A call's frame."""
    body = {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
    return msgspec.json.encode(body).decode()


def frame(text: str | bytes) -> Frame:
    """What the server has sent.

    Raises:
        msgspec.DecodeError: it is no message of this protocol.
    """
    return _frames.decode(text)


def change(message: Frame) -> Change | None:
    """The change that a notification announces; None for any other message."""
    if message.method != "collection_update" or message.params is None:
        return None
    return Change(message.params.collection, message.params.msg, message.params.id)


def failure(message: Frame) -> CallFailed | None:
    """The error of a reply, in our few classes; None for a result."""
    error = message.error
    if error is None:
        return None
    data = error.data or _Data()
    reason = data.reason or error.message or "no reason given"
    return CallFailed(_fault(error, data), reason.strip())


def _fault(error: _Error, data: _Data) -> Fault:
    # A missing object is -32602 with the generic errno 22: only `extra` tells it from bad parameters.
    if any(isinstance(each, list) and len(each) > 2 and each[2] == _ENOENT for each in _list(data.extra)):
        return Fault.NOT_FOUND
    if data.error == _ENOTAUTHENTICATED or "Session is expired" in (data.reason or ""):
        return Fault.NOT_AUTHENTICATED
    if data.error == _EACCES:
        return Fault.NOT_PERMITTED
    if error.code == -32601 or data.error == _ENOMETHOD:
        return Fault.NO_METHOD
    if data.error == _EBUSY or error.code == -32000:
        return Fault.BUSY
    if data.error == _ENOENT or "MatchNotFound" in (data.reason or ""):
        return Fault.NOT_FOUND
    return Fault.INVALID if error.code == -32602 else Fault.FAILED


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def moment(value: Any) -> datetime | None:
    """The time that EJSON's `{"$date": milliseconds}` or a number of seconds stands for."""
    if isinstance(value, Mapping):
        milliseconds = value.get("$date")
        return (
            datetime.fromtimestamp(milliseconds / 1000, UTC)
            if isinstance(milliseconds, int | float)
            else None
        )
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return datetime.fromtimestamp(value, UTC)
    return None
