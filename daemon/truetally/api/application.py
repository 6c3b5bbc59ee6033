"""The aiohttp applications, and what is the same for every request: time, size, errors, a line in the log."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from truetally.api import routes
from truetally.api.peers import peer_of
from truetally.api.problems import problem, problem_of
from truetally.api.questions import Tally
from truetally.errors import TruetallyError

LARGEST_BODY = 64 * 1024

_log = structlog.get_logger(__name__)


def whole_api(tally: Tally, answer_within: timedelta) -> web.Application:
    """Everything, for the unix socket."""
    application = _application(tally, answer_within)
    application.add_routes(routes.questions)
    application.add_routes(routes.probes)
    return application


def only_probes(tally: Tally, answer_within: timedelta) -> web.Application:
    """/healthz and /readyz, for a loopback address, where the kernel doesn't tell us who asks."""
    application = _application(tally, answer_within)
    application.add_routes(routes.probes)
    return application


def _application(tally: Tally, answer_within: timedelta) -> web.Application:
    application = web.Application(
        middlewares=[_recorded, _errors_as_problems(answer_within)], client_max_size=LARGEST_BODY
    )
    application[routes.TALLY] = tally
    return application


@web.middleware
async def _recorded(request: web.Request, handler: Handler) -> web.StreamResponse:
    started = time.monotonic()
    peer = peer_of(request)
    response = await handler(request)
    _log.debug(
        "request answered",
        method=request.method,
        path=request.rel_url.raw_path,
        status=response.status,
        uid=peer.uid if peer else None,
        pid=peer.pid if peer else None,
        seconds=round(time.monotonic() - started, 4),
    )
    return response


def _errors_as_problems(answer_within: timedelta) -> Middleware:
    @web.middleware
    async def errors_as_problems(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(answer_within.total_seconds()):
                return await handler(request)
        except TruetallyError as error:
            return problem_of(error)
        except TimeoutError:
            return problem(
                503, f"no answer within {answer_within.total_seconds():g} seconds; try again later"
            )
        except web.HTTPException as error:
            response = problem(error.status, _explained(request, error))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
            return response
        # A question that cannot be answered is a bug, but no reason to stop watching storage.
        except Exception:
            _log.exception("question failed", method=request.method, path=request.rel_url.raw_path)
            return problem(500, "truetally failed to answer this; its log says more")

    return errors_as_problems


def _explained(request: web.Request, error: web.HTTPException) -> str:
    match error.status:
        case 403:
            return "this is only answered on the unix socket"
        case 404:
            return f"there is nothing at {request.path}; the questions are under /api/v1"
        case 405:
            return f"{request.path} does not take {request.method}"
        case 413:
            return f"the body is larger than {LARGEST_BODY} bytes"
        case _:
            return error.reason
