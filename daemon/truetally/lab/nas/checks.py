"""What members of a body must be, said as the real models say it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def property_changes(given: Iterable[Mapping[str, Any]], where: str) -> dict[str, str | None]:
    """What a `user_properties_update` sets, None for what it removes; numbers are kept as text."""
    changes: dict[str, str | None] = {}
    for each in given:
        if ":" not in each["key"]:
            raise Invalid.at(f"{where}.user_properties_update", "User property name must contain a colon")
        changes[each["key"]] = None if each.get("remove") else str(each.get("value", ""))
    return changes


def ask_for_force(given: Mapping[str, Any], where: str) -> None:
    """Renaming looks at nothing that uses the name, and wants to be told so (inferred)."""
    if not given["force"]:
        text = "No safety checks are performed when renaming ZFS resources; set force to proceed"
        raise Invalid.at(f"{where}.force", text)
