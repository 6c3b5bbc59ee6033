"""Values as people read them: sizes, ages, and names that nobody vouches for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from truetally.model.findings import Fact

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def printable(text: str) -> str:
    r"""The text with what is no visible character written out, as `\x1b`.

    Names come from clusters and NAS: one that holds an escape sequence must not
    move the cursor, colour the terminal or turn the line around.
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def size(count: int | None) -> str:
    """A number of bytes, like `10 GiB` or `1.5 TiB`; nothing for None."""
    if count is None:
        return ""
    amount, unit = float(count), 0
    while abs(amount) >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f}".removesuffix(".0") + f" {_UNITS[unit]}"


def age(seconds: float) -> str:
    """A span of time by its largest unit, like `45s`, `12m`, `3h`, `5d`."""
    # Clocks of different machines differ a little: what lies in the future has just happened.
    left = max(0, int(seconds))
    for unit, length, until in (("s", 1, 60), ("m", 60, 3600), ("h", 3600, 2 * 86400)):
        if left < until:
            return f"{left // length}{unit}"
    return f"{left // 86400}d"


def since(moment: datetime | None, now: datetime) -> str:
    """How long ago it was; nothing for None."""
    return "" if moment is None else age((now - moment).total_seconds())


def local(moment: datetime) -> str:
    """The time in this machine's zone, to the second."""
    return moment.astimezone().isoformat(sep=" ", timespec="seconds")


def facts(given: Mapping[str, Fact]) -> list[tuple[str, str]]:
    """Facts of a finding, with their sizes as sizes."""
    return [_fact(name, value) for name, value in given.items()]


def _fact(name: str, value: Fact) -> tuple[str, str]:
    if name.endswith("_bytes") and isinstance(value, int):
        return name.removesuffix("_bytes"), f"{size(value)} ({value} bytes)"
    match value:
        case None:
            return name, "unknown"
        case bool():
            return name, "yes" if value else "no"
        case tuple():
            return name, ", ".join(map(str, value))
        case _:
            return name, str(value)


def now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)
