"""Do both protocols read what the real middleware says? The texts are from its own protocol layer."""

from __future__ import annotations

import json

import msgspec
import pytest

from truetally.sources.truenas.calls import Change, Fault, Greeting, Reply, Unsubscribed, members, moment
from truetally.sources.truenas.ddp import Ddp
from truetally.sources.truenas.jsonrpc import JsonRpc

RPC, DDP = JsonRpc(), Ddp()


def rpc_error(code, message="Method call error", **data):
    frame = {"jsonrpc": "2.0", "id": 1, "error": {"code": code, "message": message}}
    if data:
        frame["error"]["data"] = data
    return json.dumps(frame)


def ddp_error(**error):
    return json.dumps({"msg": "result", "id": "1", "error": {"type": None, "extra": None} | error})


MISSING = [[None, "SharingNFS 99 does not exist", 2]]
REFUSED = [["options.bogus", "Extra inputs are not permitted", 22]]

SAID = [
    (Fault.NOT_AUTHENTICATED, rpc_error(-32001, error=207, reason="[ENOTAUTHENTICATED] Not authenticated")),
    (Fault.NOT_AUTHENTICATED, rpc_error(-32001, error=13, reason="[EACCES] Session is expired")),
    (Fault.NOT_PERMITTED, rpc_error(-32001, error=13, reason="[EACCES] Not authorized")),
    (Fault.NO_METHOD, rpc_error(-32601, "Method does not exist")),
    (Fault.NOT_FOUND, rpc_error(-32602, "Invalid params", error=22, reason="[ENOENT] None", extra=MISSING)),
    (Fault.INVALID, rpc_error(-32602, "Invalid params", error=22, reason="[EINVAL] options", extra=REFUSED)),
    (Fault.NOT_FOUND, rpc_error(-32001, error=22, reason="MatchNotFound()")),
    (Fault.BUSY, rpc_error(-32000, "Maximum number of concurrent calls (20) has exceeded")),
    (Fault.BUSY, rpc_error(-32001, error=16, reason="[EBUSY] Rate Limit Exceeded")),
    (Fault.FAILED, rpc_error(-32001, error=14, reason="[EFAULT] it broke")),
    (Fault.NOT_AUTHENTICATED, ddp_error(error=207, reason="[ENOTAUTHENTICATED] Not authenticated")),
    (Fault.NOT_PERMITTED, ddp_error(error=13, reason="Not authorized")),
    (Fault.NO_METHOD, ddp_error(error=201, reason="[ENOMETHOD] Service 'nope' not found")),
    (Fault.NOT_FOUND, ddp_error(error=2, type="VALIDATION", reason="[ENOENT] None", extra=MISSING)),
    (Fault.INVALID, ddp_error(error=11, type="VALIDATION", reason="[EINVAL] options", extra=REFUSED)),
    (Fault.NOT_FOUND, ddp_error(error=22, reason="MatchNotFound()")),
    (Fault.BUSY, ddp_error(error=109, reason="[ETOOMANYREFS] Maximum number of concurrent calls")),
    (Fault.FAILED, ddp_error(error=14, reason="[EFAULT] it broke")),
]


@pytest.mark.parametrize(("fault", "text"), SAID)
def test_an_error_is_put_into_our_few_classes(fault, text):
    read = DDP.read(text) if '"msg"' in text else RPC.read(text)
    assert isinstance(read, Reply)
    assert read.number == 1
    assert read.failure.fault is fault


def test_no_traceback_of_the_server_is_kept():
    trace = {"class": "CallError", "formatted": "SECRET TRACE", "repr": "SECRET REPR"}
    for read in (
        RPC.read(rpc_error(-32001, error=14, reason="it broke", trace=trace)),
        DDP.read(ddp_error(error=14, reason="it broke", trace=trace)),
    ):
        assert "SECRET" not in repr(read.failure) + str(vars(read.failure))


def test_a_result_keeps_its_number_and_its_bytes():
    assert RPC.read('{"jsonrpc":"2.0","result":{"a":1},"id":7}') == Reply(7, msgspec.Raw(b'{"a":1}'))
    assert DDP.read('{"id":"7","msg":"result","result":{"a":1}}') == Reply(7, msgspec.Raw(b'{"a":1}'))


def test_a_subscription_is_answered_like_a_call():
    assert json.loads(RPC.subscription(3, "pool.query")) == {
        "jsonrpc": "2.0",
        "id": 3,
        "method": "core.subscribe",
        "params": ["pool.query"],
    }
    assert json.loads(DDP.subscription(3, "pool.query")) == {"id": "3", "msg": "sub", "name": "pool.query"}
    assert DDP.read('{"msg":"ready","subs":["3"]}') == Reply(3)
    refused = DDP.read('{"id":"3","msg":"result","error":{"error":13,"reason":"Not authorized"}}')
    assert refused.failure.fault is Fault.NOT_PERMITTED


@pytest.mark.parametrize("msg", ["added", "changed", "removed"])
def test_an_event_is_a_change_of_a_collection(msg):
    body = {"msg": msg, "collection": "sharing.nfs.query", "id": 4}
    frame = {"jsonrpc": "2.0", "method": "collection_update", "params": body}
    assert RPC.read(json.dumps(frame)) == Change("sharing.nfs.query", msg, 4)
    assert DDP.read(json.dumps(body)) == Change("sharing.nfs.query", msg, 4)


def test_the_end_of_a_subscription_is_told():
    error = {"error": 22, "errname": "EINVAL", "reason": "bad interval"}
    params = {"collection": "reporting.realtime:{}", "error": error}
    frame = {"jsonrpc": "2.0", "method": "notify_unsubscribed", "params": params}
    assert RPC.read(json.dumps(frame)) == Unsubscribed("reporting.realtime:{}", "bad interval")
    assert DDP.read(json.dumps({"msg": "nosub", **params})) == Unsubscribed(
        "reporting.realtime:{}", "bad interval"
    )


def test_the_old_protocol_begins_with_a_greeting():
    assert json.loads(DDP.opening)["msg"] == "connect"
    assert DDP.read('{"msg":"connected","session":"70c42690"}') == Greeting(accepted=True)
    assert DDP.read('{"msg":"failed","version":"1"}') == Greeting(accepted=False)


@pytest.mark.parametrize("wire", [RPC, DDP], ids=["json-rpc", "ddp"])
@pytest.mark.parametrize("text", ["", "not json", "[]", '"text"', '{"error": 7, "id": 1, "msg": 8}'])
def test_what_is_no_message_is_refused(wire, text):
    with pytest.raises(msgspec.DecodeError):
        wire.read(text)


@pytest.mark.parametrize("wire", [RPC, DDP], ids=["json-rpc", "ddp"])
def test_what_concerns_nobody_is_passed_over(wire):
    assert wire.read("{}") is None
    assert wire.read('{"id":"text","msg":"result"}') is None


def test_times_and_sets_have_forms_of_their_own():
    assert moment({"$date": 1764000000000}).isoformat() == "2025-11-24T16:00:00+00:00"
    assert moment("1764000000") == moment({"$date": 1764000000000}) == moment(1764000000)
    assert moment({"$type": "date"}) is None
    assert members({"$set": ["A", "B"]}) == ("A", "B") == members(["A", "B"])
    assert members(None) == ()
