"""Tables: aligned, and on a terminal as wide as it is.

In a pipe nothing is cut off and nothing is coloured. An empty cell is a dash,
so that the columns can be counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from truetally.cli.words import printable

_GAP = "  "
_NARROWEST = 16


@dataclass(frozen=True, slots=True)
class Column:
    """A column; an elastic one gives way when the terminal is too narrow."""

    title: str
    elastic: bool = False
    right: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A text and the style it is shown in."""

    text: str
    style: str = ""


_STYLES = {
    "bold": "\x1b[1m",
    "dim": "\x1b[2m",
    "red": "\x1b[1;31m",
    "yellow": "\x1b[33m",
    "green": "\x1b[32m",
    "blue": "\x1b[34m",
}
_PLAIN = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Paper:
    """What is printed on: `width` is None where lines may be of any length."""

    colored: bool = False
    width: int | None = None

    def paint(self, text: str, style: str) -> str:
        """The text, coloured if this paper takes colours."""
        return f"{_STYLES[style]}{text}{_PLAIN}" if self.colored and style and text else text

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell | str]]) -> Iterator[str]:
        """The lines of a table."""
        cells = [[_cell(cell) for cell in row] for row in rows]
        widths = self._widths(columns, cells)
        yield self._line(columns, widths, [Cell(column.title, "bold") for column in columns])
        for row in cells:
            yield self._line(columns, widths, row)

    def _widths(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> list[int]:
        widths = [
            max([len(column.title), *(len(row[index].text) for row in rows)])
            for index, column in enumerate(columns)
        ]
        if self.width is None:
            return widths
        excess = sum(widths) + len(_GAP) * (len(columns) - 1) - self.width
        elastic = [index for index, column in enumerate(columns) if column.elastic]
        # The widest gives way first, until it is no wider than the next.
        while excess > 0 and elastic:
            widest = max(elastic, key=lambda index: widths[index])
            if widths[widest] <= _NARROWEST:
                break
            widths[widest] -= 1
            excess -= 1
        return widths

    def _line(self, columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell]) -> str:
        parts = []
        for column, width, cell in zip(columns, widths, row, strict=True):
            text = _cut(cell.text, width)
            space = " " * (width - len(text))
            painted = self.paint(text, cell.style)
            parts.append(space + painted if column.right else painted + space)
        return _GAP.join(parts).rstrip()


def _cell(cell: Cell | str) -> Cell:
    given = cell if isinstance(cell, Cell) else Cell(cell)
    return Cell(printable(given.text) or "-", given.style)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
