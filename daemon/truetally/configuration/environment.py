"""Overrides from the environment: `TRUETALLY_NAS__0__URL` is `nas[0].url`.

pydantic-settings reads them, one variable at a time, so that each mistake can
name its variable. Lists are addressed by index: an index the file has is
changed there, the next one is added.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from truetally.configuration.mistake import Mistake, Place, nearest
from truetally.configuration.shape import places
from truetally.settings import Settings

PREFIX = "TRUETALLY_"

# The command line's own options, which are no settings of the daemon.
_OPTIONS = frozenset({"TRUETALLY_CONFIG", "TRUETALLY_SOCKET", "TRUETALLY_OUTPUT", "TRUETALLY_COMPLETE"})

# A Kubernetes Service called truetally-something puts such variables into every pod of its namespace.
_SERVICE_LINK = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$"
)


class _Overridable(Settings, BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", hide_input_in_errors=True, extra="forbid"
    )


class _OneVariable(EnvSettingsSource):
    """pydantic-settings' reading of the environment, for a single variable and with indexes into lists."""

    def __init__(self, name: str, value: str) -> None:
        super().__init__(_Overridable)
        self.env_vars = {name.lower(): value}

    def next_field(
        self, field: FieldInfo | Any | None, key: str, case_sensitive: bool | None = None
    ) -> FieldInfo | None:
        annotation = field.annotation if isinstance(field, FieldInfo) else field
        if key.isdecimal() and get_origin(annotation) is tuple:
            item: FieldInfo | None = get_args(annotation)[0]
            return item
        return super().next_field(field, key, case_sensitive)


@dataclass(slots=True)
class Overrides:
    """What the environment says, and which variable says what."""

    variables: dict[tuple[str, ...], str] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def speaker(self, place: Place) -> str | None:
        """The variable that says what is at this place, itself or as part of a larger value."""
        path = tuple(map(str, place))
        ends = range(len(path), 0, -1)
        return next((self.variables[path[:end]] for end in ends if path[:end] in self.variables), None)

    def within(self, place: Place) -> str | None:
        """A variable that says something further inside this place."""
        path = tuple(map(str, place))
        return next((name for said, name in self.variables.items() if said[: len(path)] == path), None)


def override(content: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], Overrides]:
    """The content of the file with the environment laid over it."""
    result = deepcopy(dict(content))
    overrides = Overrides()
    unknown: list[str] = []
    for name in sorted(filter(_is_ours, environ), key=_order):
        try:
            said = _OneVariable(name, environ[name])()
        except SettingsError:
            overrides.mistakes.append(
                _mistake(name, 'is a list or a section, and has to be JSON, like ["a", "b"]')
            )
            continue
        if not said:
            unknown.append(name)
            continue
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        overrides.variables[path] = name
        if (obstacle := _lay(result, path, _at(said, path))) is not None:
            overrides.mistakes.append(_mistake(name, obstacle))
    known = [variable(place) for place in places()]
    # A secret may stand in a variable with our prefix; only the finished content tells which ones do.
    strangers = sorted(set(unknown) - set(_secret_variables(result)))
    overrides.mistakes += [_mistake(name, "is no setting", nearest(name, known)) for name in strangers]
    return result, overrides


def variable(place: Place) -> str:
    """The name of the variable that addresses a place."""
    return PREFIX + "__".join(str(part).upper() for part in place)


def _secret_variables(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(name := value.get("env"), str):
            yield name
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _secret_variables(inner)


def _is_ours(name: str) -> bool:
    return name.startswith(PREFIX) and name not in _OPTIONS and not _SERVICE_LINK.search(name)


def _order(name: str) -> list[tuple[int, str]]:
    # Indexes as numbers, or NAS__10 would come before NAS__2 and seem to leave a gap.
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split("__")]


def _mistake(name: str, message: str, suggestion: str | None = None) -> Mistake:
    return Mistake("environment", None, None, name, message, suggestion)


def _at(said: Any, path: Sequence[str]) -> Any:
    for part in path:
        said = said[part]
    return said


def _lay(content: dict[str, Any], path: Sequence[str], value: Any) -> str | None:
    """Put one value into the content; what it answers is why that can't be done."""
    container: Any = content
    for part, following in pairwise(path):
        empty: Any = [] if following.isdecimal() else {}
        container, obstacle = _slot(container, part, empty)
        if obstacle is not None:
            return obstacle
    if isinstance(value, dict):
        inner, obstacle = _slot(container, path[-1], {})
        if obstacle is None and isinstance(inner, dict):
            inner.update(value)
        return obstacle
    _, obstacle = _slot(container, path[-1], value, replace=True)
    return obstacle


def _slot(container: Any, part: str, empty: Any, *, replace: bool = False) -> tuple[Any, str | None]:
    if isinstance(container, dict):
        if replace:
            container[part] = empty
        return container.setdefault(part, empty), None
    if not isinstance(container, list):
        return None, "goes deeper than the config file, which has a single value here"
    if not part.isdecimal():
        return None, "is within a list; address its items by index, from 0"
    index = int(part)
    if index > len(container):
        return (
            None,
            f"leaves a gap: the list has {len(container)} items, so the next index is {len(container)}",
        )
    if index == len(container):
        container.append(empty)
    elif replace:
        container[index] = empty
    return container[index], None
