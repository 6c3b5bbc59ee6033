"""What no single setting can know: names that are given twice, and names that nothing bears.

These look at the configuration before it has become settings, so that a typing
error in one section doesn't hide a wrong name in another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from truetally.configuration.mistake import Place, key_of, nearest
from truetally.settings import SecretReference, Settings


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake that knows its place among the settings, and not yet its line.

    Attributes:
        key: whether the suggestion is for the key rather than for what stands there.
    """

    place: Place
    message: str
    suggestion: str | None = None
    key: bool = False


def problems(content: Mapping[str, Any], known_rules: Collection[str]) -> Iterator[Problem]:
    """All mistakes between sections."""
    yield from _empty_sides(content)
    yield from _repeated_names(content)
    yield from _unknown_drivers_ends(content)
    yield from _unknown_receivers(content)
    if known_rules:
        yield from _unknown_rules(content, known_rules)


def _empty_sides(content: Mapping[str, Any]) -> Iterator[Problem]:
    for section, what in (("clusters", "cluster"), ("nas", "NAS")):
        if not content.get(section):
            yield Problem(
                (section,), f"names no {what}; truetally compares both sides and needs at least one"
            )


def _repeated_names(content: Mapping[str, Any]) -> Iterator[Problem]:
    # Clusters and NAS share their names: a finding says only "source", and so does a silence.
    sources = [*_items(content, "clusters"), *_items(content, "nas")]
    for named in (sources, [*_items(content, "notify", "receivers")]):
        taken: dict[str, Place] = {}
        for place, item in named:
            name = item.get("name")
            if not isinstance(name, str):
                continue
            if name in taken:
                yield Problem(
                    (*place, "name"), f"{name} is taken by {key_of(taken[name])}; names have to differ"
                )
            taken.setdefault(name, place)


def _unknown_drivers_ends(content: Mapping[str, Any]) -> Iterator[Problem]:
    for end, section in (("cluster", "clusters"), ("nas", "nas")):
        names = _names(content, section)
        for place, driver in _items(content, "drivers"):
            if isinstance(name := driver.get(end), str) and name not in names:
                yield Problem((*place, end), f"{name} is not among {section}", nearest(name, names))


def _unknown_receivers(content: Mapping[str, Any]) -> Iterator[Problem]:
    names = _names(content, "notify", "receivers")
    for place, route in _items(content, "notify", "routes"):
        for index, name in enumerate(_list(route.get("receivers"))):
            if isinstance(name, str) and name not in names:
                message = f"{name} is not among notify.receivers"
                yield Problem((*place, "receivers", index), message, nearest(name, names))


def _unknown_rules(content: Mapping[str, Any], known: Collection[str]) -> Iterator[Problem]:
    rules = content.get("rules")
    rules = rules if isinstance(rules, Mapping) else {}
    named: list[tuple[Place, Any, bool]] = [
        (("rules", "disabled", index), rule, False) for index, rule in enumerate(_list(rules.get("disabled")))
    ]
    if isinstance(severities := rules.get("severities"), Mapping):
        named += [(("rules", "severities", rule), rule, True) for rule in severities]
    named += [((*place, "rule"), item.get("rule"), False) for place, item in _items(content, "exemptions")]
    for place, rule, key in named:
        if isinstance(rule, str) and rule not in known:
            yield Problem(place, f"there is no rule {rule}", nearest(rule, known), key)


def doubts(settings: Settings, today: date) -> Iterator[Problem]:
    """What works and should still be looked at."""
    for index, nas in enumerate(settings.nas):
        if nas.api_key is not None:
            yield from _careless_secret(("nas", index, "api_key"), nas.api_key)
        if nas.remediator is not None:
            yield from _careless_secret(("nas", index, "remediator", "api_key"), nas.remediator.api_key)
        if nas.password is not None:
            yield from _careless_secret(("nas", index, "password"), nas.password)
            message = "a password opens all that its user may do and cannot be taken back alone; use api_key"
            yield Problem(("nas", index, "password"), message)
    for index, receiver in enumerate(settings.notify.receivers):
        yield from _careless_secret(("notify", "receivers", index, "url"), receiver.url)
    for index, exemption in enumerate(settings.exemptions):
        if exemption.until is not None and exemption.until < today:
            yield Problem(
                ("exemptions", index, "until"), f"has passed ({exemption.until}); remove the exemption"
            )
    if settings.notify.receivers and not settings.notify.routes:
        yield Problem(("notify", "receivers"), "no route leads to any receiver, so nobody is told anything")


def _careless_secret(place: Place, secret: SecretReference) -> Iterator[Problem]:
    if secret.value is not None:
        message = "the secret stands in the config file itself; use file, env or credential"
        yield Problem((*place, "value"), message)
    if secret.file is not None and (mode := _mode(secret.file)) & 0o077:
        message = f"{secret.file} can be read by others (mode {mode:04o}); chmod 0600 it"
        yield Problem((*place, "file"), message)


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o7777
    except OSError:
        return 0


def _items(content: Mapping[str, Any], *path: str) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """The sections in a list, as far as there is such a list and they are sections."""
    value: Any = content
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else None
    for index, item in enumerate(_list(value)):
        if isinstance(item, Mapping):
            yield (*path, index), item


def _names(content: Mapping[str, Any], *path: str) -> set[str]:
    return {name for _, item in _items(content, *path) if isinstance(name := item.get("name"), str)}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
