"""What is wrong with a configuration, and where."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches

# Where in the configuration: keys of mappings and indexes of lists, from the top.
Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing to mend.

    Attributes:
        file: the config file, or `environment`.
        line: counted from 1; None where there is no line (the environment, an unreadable file).
        key: like `nas[0].url`, or the name of a variable; empty for the file as a whole.
        suggestion: what was probably meant.
    """

    file: str
    line: int | None
    column: int | None
    key: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        parts = [where, self.key, self.message] if self.key else [where, self.message]
        meant = f'; did you mean "{self.suggestion}"?' if self.suggestion else ""
        return ": ".join(parts) + meant


def key_of(place: Place) -> str:
    """A place as people write it: `nas[0].url`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def nearest(word: str, words: Collection[str]) -> str | None:
    """The word that was probably meant, if one is near enough."""
    matches = get_close_matches(word, sorted(words), n=1, cutoff=0.6)
    return matches[0] if matches else None
