"""The shape of the settings: which keys there are, for suggesting the right one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel

from truetally.configuration.mistake import Place
from truetally.settings import Settings


def keys_at(place: Place) -> tuple[str, ...]:
    """The keys that may stand at a place; none if it is no section."""
    model: type[BaseModel] | None = Settings
    for part in place:
        if model is None:
            return ()
        if isinstance(part, str):
            known = model.model_fields.get(part)
            model = _section(known.annotation) if known else None
    return tuple(model.model_fields) if model else ()


def places(model: type[BaseModel] = Settings, within: Place = ()) -> Iterator[Place]:
    """Every setting there is, from the top; a list by its first item."""
    for name, known in model.model_fields.items():
        section = _section(known.annotation)
        if section is None:
            yield (*within, name)
        else:
            index = (0,) if get_args(known.annotation)[1:] == (Ellipsis,) else ()
            yield from places(section, (*within, name, *index))


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, be it itself, one or none, or a list of them."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
