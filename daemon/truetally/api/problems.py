"""Errors as RFC 9457 has them: `application/problem+json`, which says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

import msgspec
from aiohttp import web

from truetally.errors import HistoryUnavailable, NotFound, TruetallyError
from truetally.model.answers import Problem


class BadQuestion(TruetallyError):
    """The request itself has a mistake; `nearest` are words that were probably meant."""

    def __init__(self, message: str, nearest: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.nearest = tuple(nearest)


def problem(status: int, detail: str, nearest: Sequence[str] = ()) -> web.Response:
    """The response for something that went wrong."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, nearest=tuple(nearest))
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/problem+json"
    )


def problem_of(error: TruetallyError) -> web.Response:
    """The response for an expected failure: its message is meant for whoever asks."""
    match error:
        case BadQuestion():
            return problem(400, str(error), error.nearest)
        case NotFound():
            return problem(404, str(error), error.nearest)
        case HistoryUnavailable():
            return problem(503, str(error))
        case _:
            return problem(409, str(error))
