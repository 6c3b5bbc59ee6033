"""The protocol of `/websocket`: all that 22.12 to 24.10 speak, and spoken by the newer ones too. No I/O.

It resembles Meteor's DDP (middleware ≤24.10 `main.py`, 26 `apps/websocket_app.py`). Nothing is answered
before `connect`; a subscription is a message of its own, and without a login it is "Not authorized".
"""

from __future__ import annotations

import errno
import json
import uuid
from typing import Any

from truetally.lab.nas.failures import CallError, NasRefusal, errname
from truetally.lab.nas.machine import Row
from truetally.lab.nas.wire import Act, Hangup, Request

_FAILED: Row = {"msg": "failed", "version": "1"}
_NO_JSON, _BROKEN = 1007, 1011
_INVALID = "Invalid Message Format"


class Ddp:
    """The protocol of `/websocket`; it remembers whether the opening was said."""

    awaits_jobs = False

    def __init__(self) -> None:
        self.session = str(uuid.uuid4())
        self._open = False

    def read(self, text: str) -> Request | Row:
        """A request, or the reply to an opening; an empty one to what is not understood.

        Raises:
            Hangup: it is no JSON, or lacks a member; which members the text names is inferred.
        """
        message = _message(text)
        if message["msg"] == "connect":
            return self._connect(message)
        if not self._open:
            return _FAILED
        match message["msg"]:
            case "method":
                return _call(message)
            case "sub":
                return Request(
                    "core.subscribe", [_member(message, "name")], _member(message, "id"), act=Act.SUBSCRIBE
                )
            case "unsub":
                ident = _member(message, "id")
                return Request("core.unsubscribe", [ident], ident, silent=True, act=Act.UNSUBSCRIBE)
        return {}

    def result(self, request: Request, value: Any) -> Row:
        """The reply of what succeeded."""
        if request.act is Act.CONNECT:
            return {"msg": "connected", "session": self.session}
        if request.act is Act.SUBSCRIBE:
            return {"msg": "ready", "subs": [request.id]}
        return {"id": request.id, "msg": "result", "result": value}

    def refusal(self, request: Request, refused: NasRefusal) -> Row:
        """The reply of what was refused."""
        if request.act is Act.CONNECT:
            return _FAILED
        error = _error(refused)
        if request.act is Act.SUBSCRIBE and isinstance(refused, CallError):
            error |= {"reason": refused.reason, "trace": None}
        return {"msg": "result", "id": request.id, "error": error}

    def event(self, told: Row) -> Row:
        """What a subscriber is sent."""
        return told

    def unsubscribed(self, collection: str, refused: NasRefusal | None) -> Row:
        """What a subscriber is sent whose subscription the NAS has ended."""
        error = {} if refused is None else {"error": _error(refused) | {"trace": None}}
        return {"msg": "nosub", "collection": collection, **error}

    def _connect(self, message: Row) -> Request | Row:
        if message.get("version") != "1":
            return _FAILED
        self._open = True
        return Request("connect", [], None, act=Act.CONNECT)


def _message(text: str) -> Row:
    try:
        message = json.loads(text)
    except ValueError as mistake:
        raise Hangup(_NO_JSON, str(mistake)) from mistake
    if not isinstance(message, dict) or not isinstance(message.get("msg"), str):
        raise Hangup(_BROKEN, _INVALID)
    return message


def _member(message: Row, name: str) -> str:
    if not isinstance(message.get(name), str):
        raise Hangup(_BROKEN, repr(name))
    return str(message[name])


def _call(message: Row) -> Request | Row:
    ident, method, params = message.get("id"), message.get("method"), message.get("params") or []
    if not isinstance(method, str):
        return _malformed(ident, "Message is malformed: 'method' is absent.")
    if not isinstance(params, list):
        return _malformed(ident, "`params` must be a list.")
    return Request(method, params, ident)


def _malformed(ident: Any, reason: str) -> Row:
    told = {"error": errno.EINVAL, "errname": "EINVAL", "type": None, "reason": reason}
    return {"msg": "result", "id": ident, "error": told | {"trace": None, "extra": None}}


def _error(refused: NasRefusal) -> Row:
    kind = "VALIDATION" if refused.validation else None
    return {"error": refused.number, "errname": errname(refused.number), "type": kind, **refused.details()}
