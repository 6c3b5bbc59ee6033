"""The parameters of a question: taken from its URL, checked, and refused with the nearest right word.

An unknown parameter is a mistake too. `?severty=critical` that is quietly
ignored would list everything, and a script would believe it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import timedelta
from difflib import get_close_matches
from enum import StrEnum
from typing import TypeVar

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from truetally.api.problems import BadQuestion
from truetally.settings import Duration

_LONGEST = 1024
_DURATION: TypeAdapter[timedelta] = TypeAdapter(Duration)

Word = TypeVar("Word", bound=StrEnum)


def refuse_unknown(request: web.Request, *known: str) -> None:
    """Raise BadQuestion for a parameter that this question doesn't have."""
    for name in request.query:
        if name not in known:
            raise BadQuestion(f"there is no parameter {name!r} here", nearest(name, known))


def text(request: web.Request, name: str) -> str | None:
    """The parameter as it stands, or None if it isn't given or empty."""
    given = request.query.getall(name, [])
    if len(given) > 1:
        raise BadQuestion(f"{name} is given {len(given)} times, and has one value only")
    if given and len(given[0]) > _LONGEST:
        raise BadQuestion(f"{name} is longer than {_LONGEST} characters, and no name is")
    return given[0] if given and given[0] else None


def word(request: web.Request, name: str, words: type[Word]) -> Word | None:
    """The parameter as one of the words, or None if it isn't given."""
    given = text(request, name)
    return None if given is None else _one_of(words, name, given)


def word_set(request: web.Request, name: str, words: type[Word]) -> frozenset[Word] | None:
    """The parameter as words with commas between them, or given several times; None without any."""
    given = [part.strip() for value in request.query.getall(name, []) for part in value.split(",")]
    return frozenset(_one_of(words, name, part) for part in given if part) or None


def duration(request: web.Request, name: str) -> timedelta | None:
    """The parameter as a duration with its unit, like 30d, or None if it isn't given."""
    given = text(request, name)
    if given is None:
        return None
    try:
        return _DURATION.validate_python(given)
    except ValidationError:
        raise BadQuestion(
            f"{name} is {given!r}, and has to be a duration like 90s, 10m, 1h30m or 30d"
        ) from None


def known(name: str, given: str, names: Collection[str]) -> str:
    """The given text, if it is one of the names; BadQuestion otherwise."""
    if given not in names:
        raise BadQuestion(f"there is no {name} {given!r}", nearest(given, names))
    return given


def nearest(given: str, names: Iterable[str]) -> list[str]:
    """The names that were probably meant, best first."""
    return get_close_matches(given, sorted(set(names)), n=3, cutoff=0.5)


def _one_of(words: type[Word], name: str, given: str) -> Word:
    options = [option.value for option in words]
    if given not in options:
        raise BadQuestion(
            f"{name} is {given!r}, and has to be one of {', '.join(options)}", nearest(given, options)
        )
    return words(given)
