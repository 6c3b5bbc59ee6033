"""The protocol of `/websocket`, which is all that TrueNAS 22.12 to 24.10 speak. No I/O.

It resembles Meteor's DDP (middleware up to 24.10 `main.py`, 26 `apps/websocket_app.py`): an opening message
has to be answered before anything else; a subscription has its own message, answered by `ready` or by an
error; refused parameters come as EAGAIN of type VALIDATION, a single missing object as ENOENT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from truetally.sources.truenas.calls import (
    Change,
    ErrorData,
    Greeting,
    Message,
    Reply,
    Unsubscribed,
    failure,
)


class _Frame(msgspec.Struct):
    msg: str = ""
    id: Any = None
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorData | None = None
    collection: str = ""
    fields: msgspec.Raw = msgspec.Raw(b"null")
    subs: list[str] = []


_frames = msgspec.json.Decoder(_Frame)
_EVENTS = frozenset(("added", "changed", "removed"))


class Ddp:
    """The protocol of `/websocket`."""

    path = "/websocket"
    opening = '{"msg":"connect","version":"1","support":["1"],"features":[]}'

    def request(self, number: int, method: str, params: Sequence[Any]) -> str:
        """A call's frame."""
        body = {"id": str(number), "msg": "method", "method": method, "params": list(params)}
        return msgspec.json.encode(body).decode()

    def subscription(self, number: int, collection: str) -> str:
        """The frame that subscribes."""
        return msgspec.json.encode({"id": str(number), "msg": "sub", "name": collection}).decode()

    def read(self, text: str | bytes) -> Message | None:
        """What the server has sent."""
        frame = _frames.decode(text)
        if frame.msg in _EVENTS:
            return Change(frame.collection, frame.msg, frame.id, frame.fields)
        match frame.msg:
            case "result" if str(frame.id).isdecimal():
                error = failure(frame.error) if frame.error is not None else None
                return Reply(int(frame.id), frame.result, error)
            case "ready" if frame.subs and frame.subs[0].isdecimal():
                return Reply(int(frame.subs[0]))
            case "nosub":
                return Unsubscribed(frame.collection, (frame.error and frame.error.reason) or "")
            case "connected" | "failed":
                return Greeting(accepted=frame.msg == "connected")
        return None
