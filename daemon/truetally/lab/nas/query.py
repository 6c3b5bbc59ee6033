"""TrueNAS's query language: filters and options over rows (middleware `utils/filter_list.py`).

Its oddities are kept, because a client must live with them: `select` comes before
`order_by`, the last key of `order_by` dominates, `!=` on a missing field matches
nothing, and from 25.10 on a `limit` above 10,000 is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truetally.lab.nas.failures import Invalid, MatchNotFound

Row = dict[str, Any]
_OPTIONS = {
    "extra": dict,
    "order_by": list,
    "select": list,
    "count": bool,
    "get": bool,
    "offset": int,
    "limit": int,
    "force_sql_filters": bool,
    "relationships": bool,
}
_LARGEST_LIMIT = 10_000
_MISSING = object()


def _in_either(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda field, value: field is not None and test(field, value)


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda field, value: bool(field == value),
    "!=": lambda field, value: bool(field != value),
    ">": _in_either(lambda field, value: bool(field > value)),
    ">=": _in_either(lambda field, value: bool(field >= value)),
    "<": _in_either(lambda field, value: bool(field < value)),
    "<=": _in_either(lambda field, value: bool(field <= value)),
    "~": _in_either(lambda field, value: re.match(value, field) is not None),
    "in": lambda field, value: field in value,
    "nin": lambda field, value: field not in value,
    "rin": _in_either(lambda field, value: value in field),
    "rnin": _in_either(lambda field, value: value not in field),
    "^": _in_either(lambda field, value: field.startswith(value)),
    "!^": _in_either(lambda field, value: not field.startswith(value)),
    "$": _in_either(lambda field, value: field.endswith(value)),
    "!$": _in_either(lambda field, value: not field.endswith(value)),
}


@dataclass(frozen=True, slots=True)
class Query:
    """A checked query; `largest_limit` is what the version allows."""

    filters: Sequence[Any] = ()
    extra: Mapping[str, Any] | None = None
    order_by: Sequence[str] = ()
    select: Sequence[Any] = ()
    count: bool = False
    get: bool = False
    offset: int = 0
    limit: int = 0

    def apply(self, rows: Iterable[Row]) -> Any:
        """The answer: a list, one row (`get`) or a number (`count`)."""
        found = list(rows)
        for each in self.filters:
            found = _matching(found, each)
        if self.count:
            return len(found)
        if self.select:
            found = [_selected(row, self.select) for row in found]
        return self._cut(_ordered(found, self.order_by))

    def _cut(self, rows: list[Row]) -> Any:
        if self.get:
            if not rows:
                raise MatchNotFound
            return rows[0]
        end = self.offset + self.limit if self.limit else None
        return rows[self.offset : end]

    def option(self, name: str, default: Any = None) -> Any:
        """A member of `extra`."""
        return (self.extra or {}).get(name, default)

    def values(self, *fields: str) -> set[Any] | None:
        """What a top-level `=` or `in` filter narrows any of the fields to; None if none does."""
        for each in self.filters:
            if len(each) == 3 and each[0] in fields and each[1] in ("=", "in"):
                return set(each[2]) if each[1] == "in" else {each[2]}
        return None

    def names(self, *fields: str) -> list[str] | None:
        """As `values`, the texts among them in order."""
        values = self.values(*fields)
        return None if values is None else sorted(each for each in values if isinstance(each, str))


def checked(filters: Any = (), options: Any = None, *, limited: bool = False) -> Query:
    """The query that filters and options mean, or Invalid."""
    options = options if options is not None else {}
    _check_options(options, limited=limited)
    if not isinstance(filters, list | tuple):
        raise Invalid.at("filters", "Input should be a valid list")
    for each in filters:
        _check_filter(each)
    known = {name: value for name, value in options.items() if name in Query.__dataclass_fields__}
    return Query(filters=filters, **known)


def _check_options(options: Any, *, limited: bool) -> None:
    if not isinstance(options, dict):
        raise Invalid.at("options", "Input should be a valid dictionary")
    for name, value in options.items():
        if name not in _OPTIONS:
            raise Invalid.at(f"options.{name}", "Extra inputs are not permitted")
        if not isinstance(value, _OPTIONS[name]):
            raise Invalid.at(f"options.{name}", f"Input should be a valid {_OPTIONS[name].__name__}")
    if limited and options.get("limit", 0) > _LARGEST_LIMIT:
        raise Invalid.at("options.limit", f"Input should be less than or equal to {_LARGEST_LIMIT}")


def _check_filter(each: Any, *, inside_or: bool = False) -> None:
    wrong = Invalid.at("filters", f"Value error, Invalid filter {each!r}")
    if not isinstance(each, list | tuple):
        raise wrong
    if len(each) == 2 and each[0] == "OR" and isinstance(each[1], list) and not inside_or:
        for part in each[1]:
            # [[a], [b]] inside OR is a conjunction; a bare filter stands for itself.
            for inner in part if part and isinstance(part[0], list) else [part]:
                _check_filter(inner, inside_or=True)
        return
    if len(each) != 3 or not isinstance(each[0], str) or _operator(each[1]) is None:
        raise wrong


def _operator(name: Any) -> Callable[[Any, Any], bool] | None:
    if not isinstance(name, str):
        return None
    if name.startswith("C") and name[1:] in _OPERATORS:
        plain = _OPERATORS[name[1:]]
        return lambda field, value: plain(_folded(field), _folded(value))
    return _OPERATORS.get(name)


def _folded(value: Any) -> Any:
    if isinstance(value, str):
        return value.casefold()
    return [_folded(each) for each in value] if isinstance(value, list) else value


def _matching(rows: list[Row], each: Any) -> list[Row]:
    if each[0] == "OR" and len(each) == 2:
        return [row for row in rows if any(_alternative(row, part) for part in each[1])]
    path, operator, value = _path(each[0]), _operator(each[1]), each[2]
    assert operator is not None  # noqa: S101 - _check_filter has seen it
    if len(path) == 1:
        name = path[0]
        return [row for row in rows if name in row and _holds(operator, row[name], value)]
    return [row for row in rows if _holds(operator, _field(row, path), value)]


def _alternative(row: Row, part: Any) -> bool:
    conjunction = part if part and isinstance(part[0], list) else [part]
    return all(_matching([row], inner) for inner in conjunction)


def _holds(operator: Callable[[Any, Any], bool], field: Any, value: Any) -> bool:
    if field is _MISSING:
        return False
    try:
        return operator(field, value)
    except (TypeError, AttributeError):
        return False


def _path(name: str) -> list[str]:
    return [part.replace("\\.", ".") for part in re.split(r"(?<!\\)\.", name)]


def _field(row: Any, path: Sequence[str]) -> Any:
    for part in path:
        if not isinstance(row, dict) or part not in row:
            return _MISSING
        row = row[part]
    return row


def _selected(row: Row, select: Sequence[Any]) -> Row:
    chosen: Row = {}
    for each in select:
        name, alias = (each, None) if isinstance(each, str) else (each[0], each[1])
        path = _path(name)
        value = _field(row, path)
        if value is _MISSING:
            continue
        if alias is not None:
            chosen[alias] = value
            continue
        place = chosen
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return chosen


def _ordered(rows: list[Row], order_by: Sequence[str]) -> list[Row]:
    for key in order_by:
        nulls_last = key.startswith("nulls_last:")
        name = key.removeprefix("nulls_last:").removeprefix("nulls_first:")
        path = _path(name.removeprefix("-"))
        rows = _sorted(rows, path, descending=name.startswith("-"), nulls_last=nulls_last)
    return rows


def _sorted(rows: list[Row], path: Sequence[str], *, descending: bool, nulls_last: bool) -> list[Row]:
    absent = [row for row in rows if _field(row, path) in (None, _MISSING)]
    present = [row for row in rows if _field(row, path) not in (None, _MISSING)]
    present.sort(key=lambda row: _field(row, path), reverse=descending)
    return present + absent if nulls_last else absent + present
