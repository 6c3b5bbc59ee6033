"""What members of a body must be, said as the real models say it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from truetally.lab.nas.failures import Invalid


def texts(given: Mapping[str, Any], where: str, *names: str) -> None:
    """Refuse any of the named members that is there and no text."""
    for name in names:
        if not isinstance(given.get(name, ""), str):
            raise Invalid.at(f"{where}.{name}", "Input should be a valid string")


def names(value: Any, where: str) -> list[str] | None:
    """A list of names, or None where none is given."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
        raise Invalid.at(where, "Input should be a valid list")
    return list(value)
