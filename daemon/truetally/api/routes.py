"""The questions of `/api/v1`, each answered by asking the tally and writing its answer as JSON."""

from __future__ import annotations

from collections.abc import Collection

import msgspec
import structlog
from aiohttp import web

from truetally.api import parameters
from truetally.api.parameters import nearest
from truetally.api.peers import peer_of
from truetally.api.problems import BadQuestion
from truetally.api.questions import EXPLAINABLE, Tally
from truetally.errors import NotFound
from truetally.model.answers import (
    ExplanationsAnswer,
    FindingsAnswer,
    RulesAnswer,
    TransitionsAnswer,
    ValidationAnswer,
    VolumesAnswer,
)
from truetally.model.findings import Severity, State
from truetally.model.snapshots import SnapshotOrder, SnapshotVerdict

TALLY: web.AppKey[Tally] = web.AppKey("TALLY", Tally)

log = structlog.get_logger(__name__)
questions = web.RouteTableDef()
probes = web.RouteTableDef()


class _Acknowledge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: str = ""


@questions.get("/api/v1/status")
async def _status(request: web.Request) -> web.Response:
    parameters.refuse_unknown(request)
    return _answer(request.app[TALLY].status())


@questions.get("/api/v1/findings")
async def _findings(request: web.Request) -> web.Response:
    tally = request.app[TALLY]
    parameters.refuse_unknown(request, "state", "rule", "severity", "source")
    rule, source = parameters.text(request, "rule"), parameters.text(request, "source")
    found = await tally.findings(
        state=parameters.word_set(request, "state", State),
        rule=rule,
        severity=parameters.word(request, "severity", Severity),
        source=source,
    )
    if not found:
        # Nothing may mean that all is well, or that the name was mistyped.
        _refuse_unknown_names(tally, rule, source)
    ready, detail = tally.ready()
    return _answer(FindingsAnswer(tuple(found), ready, detail))


@questions.get("/api/v1/findings/{fingerprint}")
async def _finding(request: web.Request) -> web.Response:
    parameters.refuse_unknown(request)
    return _answer(await request.app[TALLY].finding(request.match_info["fingerprint"]))


@questions.get("/api/v1/findings/{fingerprint}/transitions")
async def _transitions(request: web.Request) -> web.Response:
    parameters.refuse_unknown(request)
    transitions = await request.app[TALLY].transitions(request.match_info["fingerprint"])
    return _answer(TransitionsAnswer(tuple(transitions)))


@questions.post("/api/v1/findings/{fingerprint}/acknowledge")
async def _acknowledge(request: web.Request) -> web.Response:
    parameters.refuse_unknown(request)
    peer = peer_of(request)
    if peer is None:
        raise web.HTTPForbidden
    try:
        body = msgspec.json.decode(await request.read() or b"{}", type=_Acknowledge)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadQuestion(f'the body has to be like {{"reason": "text"}}: {error}') from error
    fingerprint = request.match_info["fingerprint"]
    finding = await request.app[TALLY].acknowledge(fingerprint, peer.user, body.reason)
    log.info(
        "finding acknowledged", fingerprint=finding.fingerprint, by=peer.user, uid=peer.uid, pid=peer.pid
    )
    return _answer(finding)


@questions.get("/api/v1/explain/{kind}")
async def _explain(request: web.Request) -> web.Response:
    kind = request.match_info["kind"]
    if kind not in EXPLAINABLE:
        raise BadQuestion(
            f"{kind!r} cannot be explained; one of {', '.join(EXPLAINABLE)} can", nearest(kind, EXPLAINABLE)
        )
    parameters.refuse_unknown(request, "name", "source")
    name, source = parameters.text(request, "name"), parameters.text(request, "source")
    if name is None:
        raise BadQuestion(f"which {kind}? give its name, as ?name=…")
    tally = request.app[TALLY]
    if source is not None:
        parameters.known("source", source, _source_names(tally))
    return _answer(ExplanationsAnswer(tuple(tally.explain(kind, name, source))))


@questions.get("/api/v1/volumes")
async def _volumes(request: web.Request) -> web.Response:
    tally = request.app[TALLY]
    parameters.refuse_unknown(request, "source", "namespace", "state")
    source = parameters.text(request, "source")
    found = await tally.volumes(
        source=source,
        namespace=parameters.text(request, "namespace"),
        state=parameters.text(request, "state"),
    )
    if not found:
        _refuse_unknown_names(tally, None, source)
    ready, detail = tally.ready()
    return _answer(VolumesAnswer(tuple(found), ready, detail))


@questions.get("/api/v1/snapshots")
async def _snapshots(request: web.Request) -> web.Response:
    tally = request.app[TALLY]
    parameters.refuse_unknown(request, "source", "volume", "verdict", "older_than", "order")
    source = parameters.text(request, "source")
    answer = await tally.snapshots(
        source=source,
        volume=parameters.text(request, "volume"),
        verdict=parameters.word(request, "verdict", SnapshotVerdict),
        older_than=parameters.duration(request, "older_than"),
        order=parameters.word(request, "order", SnapshotOrder) or SnapshotOrder.NAME,
    )
    if not answer.snapshots:
        _refuse_unknown_names(tally, None, source)
    return _answer(answer)


@questions.get("/api/v1/validation")
async def _validation(request: web.Request) -> web.Response:
    parameters.refuse_unknown(request)
    tally = request.app[TALLY]
    ready, detail = tally.ready()
    return _answer(ValidationAnswer(tuple(tally.validation()), ready, detail))


@questions.get("/api/v1/rules")
async def _rules(request: web.Request) -> web.Response:
    parameters.refuse_unknown(request)
    return _answer(RulesAnswer(tuple(request.app[TALLY].rules())))


@questions.get("/api/v1/rules/{rule}")
async def _rule(request: web.Request) -> web.Response:
    parameters.refuse_unknown(request)
    wanted, rules = request.match_info["rule"], request.app[TALLY].rules()
    for rule in rules:
        if rule.id == wanted:
            return _answer(rule)
    raise NotFound(f"there is no rule {wanted!r}", nearest(wanted, (rule.id for rule in rules)))


@probes.get("/healthz")
async def _healthz(request: web.Request) -> web.Response:
    live = request.app[TALLY].live()
    return web.Response(status=200 if live else 503, text="ok\n" if live else "not working\n")


@probes.get("/readyz")
async def _readyz(request: web.Request) -> web.Response:
    ready, detail = request.app[TALLY].ready()
    return web.Response(status=200 if ready else 503, text="ok\n" if ready else f"not ready: {detail}\n")


def _answer(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _refuse_unknown_names(tally: Tally, rule: str | None, source: str | None) -> None:
    if rule is not None:
        parameters.known("rule", rule, [each.id for each in tally.rules()])
    if source is not None:
        parameters.known("source", source, _source_names(tally))


def _source_names(tally: Tally) -> Collection[str]:
    return [source.name for source in tally.status().sources]
