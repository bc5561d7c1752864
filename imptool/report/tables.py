"""A table of figures, to be shown on the terminal, in Markdown, or on a page; shares in percent, absent ones as a dash."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from imptool.report.console import plain
from imptool.report.page import Cell, Difference, Share, Swatch


@dataclass(frozen=True)
class Sheet:
    """A table: its headings, of which the first names the rows and the second line of each is a unit or figure."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


def terminal_table(sheet: Sheet, *, intervals: bool = True) -> Table:
    """A table of rich's; without intervals it is narrow enough for many columns."""
    table = Table(title=plain(sheet.title), caption=plain(sheet.caption) or None)
    for place, column in enumerate(sheet.columns):
        table.add_column(column, justify="right" if place else "left")
    for row in sheet.rows:
        table.add_row(*(plain(cell_text(cell, intervals=intervals)) for cell in row))
    return table


def markdown(sheet: Sheet) -> str:
    """A table of GitHub's Markdown under its title."""
    lines = [f"### {_one_line(sheet.title)}", ""]
    lines += [_line(sheet.columns), "|---|" + "---:|" * (len(sheet.columns) - 1)]
    lines += [_line([cell_text(cell) for cell in row]) for row in sheet.rows]
    return "\n".join([*lines, *(["", _one_line(sheet.caption)] if sheet.caption else []), ""])


def cell_text(cell: Cell, *, intervals: bool = True) -> str:
    """A cell in words: "45.5", "45.5 (43.1-47.9)", "+1.4*"; the star says that the difference is significant (95 %)."""
    if isinstance(cell, Swatch):
        return cell.name
    if isinstance(cell, Difference):
        if math.isnan(cell.value):
            return "-"
        star = "*" if cell.significant else ""
        return f"{100 * cell.value:+.1f}{star}{_interval(cell) if intervals else ''}"
    if isinstance(cell, Share):
        return percent(cell.value) + (_interval(cell) if intervals else "")
    return cell if isinstance(cell, str) else percent(cell)


def percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def _interval(cell: Share | Difference) -> str:
    if math.isnan(cell.value) or math.isnan(cell.low):
        return ""
    if isinstance(cell, Difference):
        return f" ({100 * cell.low:+.1f} to {100 * cell.high:+.1f})"
    return f" ({100 * cell.low:.1f}-{100 * cell.high:.1f})"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(cell) for cell in cells) + " |"


def _one_line(text: str) -> str:
    """Names come from files: a bar or a line break would break the table."""
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())
