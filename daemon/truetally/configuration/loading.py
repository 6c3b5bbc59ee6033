"""From file and environment to settings: read, lay over, validate, compare, and tell it all at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from truetally.configuration import checks, document
from truetally.configuration.checks import Problem
from truetally.configuration.document import Document
from truetally.configuration.environment import Overrides, override, variable
from truetally.configuration.mistake import Mistake, Place, key_of, nearest
from truetally.configuration.shape import keys_at
from truetally.errors import ConfigurationInvalid
from truetally.settings import Settings


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration as it was found: settings if it has no mistakes, and what was noticed."""

    settings: Settings | None
    mistakes: tuple[Mistake, ...]
    warnings: tuple[Mistake, ...]


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """The settings, or ConfigurationInvalid with every mistake on a line of its own."""
    settings, found, _, _ = _examined(path, environ, ())
    if settings is None:
        raise ConfigurationInvalid("\n".join(map(str, found)), found)
    return settings


def mistakes(path: Path, environ: Mapping[str, str], known_rules: Collection[str] = ()) -> list[Mistake]:
    """All that has to be mended before truetally can start, in the order of the file."""
    return list(_examined(path, environ, known_rules)[1])


def warnings(path: Path, environ: Mapping[str, str], today: date) -> list[Mistake]:
    """What works and should still be looked at; nothing while there are mistakes."""
    return list(check(path, environ, today).warnings)


def check(path: Path, environ: Mapping[str, str], today: date, known_rules: Collection[str] = ()) -> Checked:
    """Settings, mistakes and warnings from one reading."""
    settings, found, source, overrides = _examined(path, environ, known_rules)
    noticed = checks.doubts(settings, today) if settings is not None else ()
    return Checked(settings, found, _in_order(_placed(problem, source, overrides) for problem in noticed))


def _examined(
    path: Path, environ: Mapping[str, str], known_rules: Collection[str]
) -> tuple[Settings | None, tuple[Mistake, ...], Document, Overrides]:
    source = document.read(path)
    if source.root is None and source.mistakes:
        return None, source.mistakes, source, Overrides()
    content, overrides = override(source.content, environ)
    if not content:
        empty = Mistake(
            str(path), None, None, "", "is empty; config/truetally.example.yaml shows what to write"
        )
        return None, (empty, *overrides.mistakes), source, overrides
    settings, problems = _validated(content, path.absolute().parent)
    problems += checks.problems(content, known_rules)
    placed = [_placed(problem, source, overrides) for problem in problems]
    found = _in_order([*source.mistakes, *_without_own(overrides, placed), *overrides.mistakes])
    return (None if found else settings), found, source, overrides


def _without_own(overrides: Overrides, placed: list[Mistake]) -> list[Mistake]:
    """Without what pydantic says of a variable that could not be laid over the file in the first place."""
    misplaced = {mistake.key for mistake in overrides.mistakes}
    return [mistake for mistake in placed if mistake.key not in misplaced]


def _validated(content: Mapping[str, Any], directory: Path) -> tuple[Settings | None, list[Problem]]:
    try:
        return Settings.model_validate(content, context={"directory": directory}), []
    except ValidationError as error:
        return None, [_problem(details) for details in error.errors(include_url=False, include_input=True)]


def _problem(details: ErrorDetails) -> Problem:
    place: Place = tuple(part for part in details["loc"] if part != "[key]")
    context = details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            return Problem(place, "unknown key", nearest(str(place[-1]), keys_at(place[:-1])), key=True)
        case "missing":
            return Problem(place, "is required")
        case "value_error":
            return Problem(place, str(context["error"]))
        case "literal_error" | "enum":
            expected = str(context["expected"])
            return Problem(place, f"has to be {expected}", _meant(details["input"], expected))
        case "model_type" | "dict_type":
            return Problem(place, _section_wanted(place))
        case "tuple_type":
            return Problem(place, "has to be a list: each item on a line of its own, after a dash")
        case "string_type" | "path_type":
            return Problem(place, "has to be text")
        case "string_too_short":
            return Problem(place, "is empty")
        case _:
            return Problem(place, details["msg"][:1].lower() + details["msg"][1:])


def _meant(written: Any, expected: str) -> str | None:
    options = [option.strip("'") for option in expected.replace(" or ", ", ").split(", ")]
    return nearest(written, options) if isinstance(written, str) else None


def _section_wanted(place: Place) -> str:
    if "env" in keys_at(place):
        # What stands here may well be the secret itself, so it is not repeated.
        return "has to say where the secret stands, like `file: /etc/truetally/nas1.key`, not hold it"
    return f"has to be a section with keys like {', '.join(keys_at(place)[:3]) or 'name: value'}"


def _placed(problem: Problem, source: Document, overrides: Overrides) -> Mistake:
    """The problem with its variable or its line: whoever said it last is who has to mend it."""
    place, suggestion = problem.place, problem.suggestion
    name = overrides.speaker(place)
    if name is None and not source.has(place[:-1]):
        name = overrides.within(place[:-1])
    if name is None:
        return source.mistake(place, problem.message, suggestion)
    if problem.key and suggestion is not None:
        suggestion = variable((*place[:-1], suggestion))
    if name == variable(place):
        return Mistake("environment", None, None, name, problem.message, suggestion)
    return Mistake("environment", None, None, name, f"{key_of(place)}: {problem.message}", suggestion)


def _in_order(found: Iterator[Mistake] | list[Mistake]) -> tuple[Mistake, ...]:
    return tuple(sorted(found, key=lambda mistake: (mistake.line or 0, mistake.column or 0, mistake.key)))
