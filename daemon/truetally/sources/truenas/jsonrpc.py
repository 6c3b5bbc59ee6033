"""JSON-RPC 2.0 as TrueNAS 25.04 and newer speak it. No I/O.

Facts from middleware 26's `api/base/server/ws_handler/rpc.py`: parameters are always positional; a
failed call is -32001 with an errno in `data.error`, except for invalid parameters and missing objects,
which are -32602; replies come in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from truetally.sources.truenas.calls import (
    CallFailed,
    Change,
    ErrorData,
    Fault,
    Message,
    Reply,
    Unsubscribed,
    failure,
)

_BY_CODE = {-32601: Fault.NO_METHOD, -32000: Fault.BUSY, -32602: Fault.INVALID}


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""
    data: ErrorData | None = None


class _Params(msgspec.Struct):
    msg: str = ""
    collection: str = ""
    id: Any = None
    fields: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorData | None = None


class _Frame(msgspec.Struct):
    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None
    method: str = ""
    params: _Params | None = None


_frames = msgspec.json.Decoder(_Frame)


class JsonRpc:
    """The protocol of `/api/current`."""

    path = "/api/current"
    opening = ""

    def request(self, number: int, method: str, params: Sequence[Any]) -> str:
        """A call's frame."""
        body = {"jsonrpc": "2.0", "id": number, "method": method, "params": list(params)}
        return msgspec.json.encode(body).decode()

    def subscription(self, number: int, collection: str) -> str:
        """The frame that subscribes."""
        return self.request(number, "core.subscribe", [collection])

    def read(self, text: str | bytes) -> Message | None:
        """What the server has sent."""
        frame = _frames.decode(text)
        if frame.method == "collection_update" and frame.params is not None:
            told = frame.params
            return Change(told.collection, told.msg, told.id, told.fields)
        if frame.method == "notify_unsubscribed" and frame.params is not None:
            error = frame.params.error
            return Unsubscribed(frame.params.collection, (error and error.reason) or "")
        if not isinstance(frame.id, int):
            return None
        if frame.error is None:
            return Reply(frame.id, frame.result)
        return Reply(frame.id, failure=_failure(frame.error))


def _failure(error: _Error) -> CallFailed:
    return failure(error.data or ErrorData(), fallback=error.message, hint=_BY_CODE.get(error.code))
