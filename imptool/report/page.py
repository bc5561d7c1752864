"""One HTML page that opens from disk: parts written from plain values, and the page that holds them.

A part is a function from values to `Html`. Texts and names come as plain `str` and are escaped here; paths are relative to
the page and are quoted here. Nothing is loaded but the pictures: style and script stand in the page itself, and so do pictures
that come as `Embedded`.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import NamedTuple, NewType
from urllib.parse import quote

from imptool.files import whole_file

Html = NewType("Html", str)
"""Text that is markup already, so that mypy tells it from a name that has to be escaped."""

ABSENT = "—"
KINDS = ("image/jpeg", "image/png", "image/svg+xml")


@dataclass(frozen=True)
class Step:
    """One command of a walk-through: the line as a shell takes it, what it does, and its seconds (nan: not timed)."""

    command: str
    about: str
    seconds: float = math.nan


class Swatch(NamedTuple):
    """A class as a legend shows it: its name and its colour, RGB 0..255."""

    name: str
    colour: tuple[int, int, int]


class Share(NamedTuple):
    """A share 0..1 and the ends of its interval; nan where there is none."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """A difference of two shares, -1..1, the ends of its interval (nan: none), and whether it is significant."""

    value: float
    low: float
    high: float
    significant: bool


Cell = str | float | Swatch | Share | Difference


@dataclass(frozen=True)
class Embedded:
    """A picture that stands in the page itself: its bytes and their kind, one of `KINDS`; ValueError for another kind."""

    data: bytes = field(repr=False)
    kind: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"an embedded picture must be one of {', '.join(KINDS)}, got '{self.kind}'")


@dataclass(frozen=True)
class Example:
    """An image with what was made of it.

    Attributes:
        name: whatever names the image.
        pictures: {caption: path relative to the page, or the picture itself}, in the order to show.
        classes: the legend beneath.
        note: a short remark beside the name, such as the picture's accuracy.
        size: (height, width) in px of every picture; it keeps the page from jumping while pictures load. None: unknown.
    """

    name: str
    pictures: Mapping[str, str | Embedded]
    classes: Sequence[tuple[str, tuple[int, int, int]]] = ()
    note: str = ""
    size: tuple[int, int] | None = None


def text_html(text: str) -> Html:
    """A paragraph of plain text."""
    return Html(f"<p>{escape(text)}</p>")


def links_html(links: Mapping[str, str]) -> Html:
    """A list of links, {what is there: path relative to the page}.

    Raises:
        ValueError: a path is not relative to the page.
    """
    items = "\n".join(f'<li><a href="{url_of(path)}">{escape(what)}</a></li>' for what, path in links.items())
    return Html(f'<ul class="links">\n{items}\n</ul>')


def steps_html(steps: Sequence[Step]) -> Html:
    """A numbered list: what each step does, how long it took, its command to copy; and the time in all."""
    items = "\n".join(
        f'<li><p class="about">{escape(step.about)} <span class="time">{duration(step.seconds)}</span></p>\n'
        f'<div class="command"><pre><code>{_words(step.command)}</code></pre></div></li>'
        for step in steps
    )
    timed = [step.seconds for step in steps if not math.isnan(step.seconds)]
    total = f'\n<p class="total">In all {duration(sum(timed))}.</p>' if len(timed) > 1 else ""
    return Html(f'<ol class="steps">\n{items}\n</ol>{total}')


def headline_html(figures: Mapping[str, str]) -> Html:
    """A few big figures, {what it is: the figure as text}."""
    pairs = "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(figure)}</dd></div>" for name, figure in figures.items())
    return Html(f'<dl class="headline">\n{pairs}\n</dl>')


def table_html(columns: Sequence[str], rows: Sequence[Sequence[Cell]], *, caption: str = "") -> Html:
    """A table that a click on a heading sorts.

    Args:
        columns: the headings; the first column names the row.
        rows: a cell for each column. A text stays a text, a `Swatch` gets its colour, and a number is a share 0..1: it is
            written in percent with a bar, nan as a dash; a `Share` has its interval as well. A `Difference` is written in
            points with its sign, bold where it is significant.
        caption: a line above.
    Raises:
        ValueError: a row has another number of cells than there are columns, or a number is no share.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"a row must have one cell for each of {len(columns)} columns, got {len(row)}")
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join(f"<tr>{''.join(_cell(cell, first=not place) for place, cell in enumerate(row))}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>\n" if caption else ""
    return Html(
        f'<div class="scroll"><table style="--columns: {len(columns)}">\n{title}'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def figure_html(src: str | Embedded, alt: str, caption: str) -> Html:
    """A plot, drawn dark on white, with its caption. In the dark it is shown inverted, so it must not be an image.

    Args:
        src: a path relative to the page, or the picture itself.
        alt: what it shows, for those who do not see it.
        caption: the line beneath.
    Raises:
        ValueError: the path is not relative to the page.
    """
    picture = f'<div class="scroll">{_picture(src, alt)}</div>'
    return Html(f'<figure class="plot">{picture}<figcaption>{escape(caption)}</figcaption></figure>')


def gallery_html(examples: Sequence[Example]) -> Html:
    """A row of pictures for each example, with its name, note and legend; a click shows a picture in full.

    Raises:
        ValueError: a path is not relative to the page.
    """
    if not examples:
        return text_html("There are no images.")
    most = max(len(example.pictures) for example in examples)
    rows = "\n".join(_example(example) for example in examples)
    return Html(f'<div class="gallery" style="--pictures: {most}">\n{rows}\n</div>')


def terms_html(terms: Mapping[str, str]) -> Html:
    """A list of terms with what each one means or is: definitions, versions."""
    pairs = "\n".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in terms.items())
    return Html(f'<dl class="terms">\n{pairs}\n</dl>')


def write_page(
    path: Path, title: str, intro: str, sections: Mapping[str, Sequence[Html]], definitions: Mapping[str, str]
) -> None:
    """Write the page as one file; equal values give equal bytes.

    Args:
        path: the HTML file. Pictures are looked up relative to its folder.
        title: the heading of the page, and of its tab.
        intro: a sentence or two beneath.
        sections: {heading: parts}, in the order to show.
        definitions: what each figure on the page means, for the foot of the page: {term: meaning}.
    """
    headings = [*sections, "Definitions"]
    links = " ".join(f'<a href="#section-{place}">{escape(heading)}</a>' for place, heading in enumerate(headings, 1))
    body = "\n".join(_section(heading, place, parts) for place, (heading, parts) in enumerate(sections.items(), 1))
    foot = _section("Definitions", len(headings), [terms_html(definitions)])
    page = f"""{head_html(title, "page.css")}
<body>
<header>
<h1>{escape(title)}</h1>
<p class="intro">{escape(intro)}</p>
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{body}
</main>
<footer>
{foot}
</footer>
<script>
{file_beside("page.js")}</script>
</body>
</html>
"""
    with whole_file(path) as temporary:
        # A file name that is no text has lone surrogates, which UTF-8 cannot hold.
        temporary.write_bytes(page.encode("utf-8", errors="replace"))


def duration(seconds: float) -> str:
    """Seconds as people say them: "3.2 s", "48 s", "2 min 05 s", "1 h 10 min"; nan gives nothing."""
    if math.isnan(seconds):
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _words(command: str) -> str:
    """A command whose options break between words only, never after their hyphens."""
    return re.sub(r"\S+", lambda word: f"<span>{escape(word[0])}</span>", command)


def _section(heading: str, place: int, parts: Sequence[Html]) -> str:
    label, inner = f"section-{place}", "\n".join(parts)
    return f'<section id="{label}" aria-labelledby="{label}-h">\n<h2 id="{label}-h">{escape(heading)}</h2>\n{inner}\n</section>'


def _example(example: Example) -> str:
    figures = "\n".join(
        f"<figure>{_picture(src, f'{what}, {example.name}', example.size)}<figcaption>{escape(what)}</figcaption></figure>"
        for what, src in example.pictures.items()
    )
    legend = "".join(f"<li>{swatch_html(Swatch(*entry))}</li>" for entry in example.classes)
    note = f'<p class="note">{escape(example.note)}</p>' if example.note else ""
    return (
        f'<article>\n<div class="name"><h3>{escape(example.name)}</h3>{note}</div>\n'
        f'<div class="scroll row" style="--pictures: {len(example.pictures)}">\n{figures}\n</div>\n'
        + (f'<ul class="legend" aria-label="Classes">{legend}</ul>\n' if legend else "")
        + "</article>"
    )


def _picture(src: str | Embedded, alt: str, size: tuple[int, int] | None = None) -> str:
    """A picture that loads when it comes into view. A file links to itself in full; the script opens one without a file."""
    url, known = url_of(src), f' height="{size[0]}" width="{size[1]}"' if size else ""
    tag, link = ("span", "") if isinstance(src, Embedded) else ("a", f' href="{url}"')
    return f'<{tag} class="full"{link}><img src="{url}" alt="{escape(alt)}" loading="lazy"{known}></{tag}>'


def url_of(src: str | Embedded) -> str:
    """A picture's URL. Of a path, a leading slash would leave the page's folder, two of them the machine."""
    if isinstance(src, Embedded):
        return f"data:{src.kind};base64,{base64.b64encode(src.data).decode()}"
    if not src or src.startswith("/"):
        raise ValueError(f"a picture's path must be relative to the page, got '{src}'")
    return escape(quote(src, errors="surrogateescape"))


def _cell(cell: Cell, *, first: bool) -> str:
    if isinstance(cell, Swatch):
        inner: str = swatch_html(cell)
    elif isinstance(cell, str):
        inner = escape(cell)
    elif isinstance(cell, Difference):
        between, tag = " to ", "strong" if cell.significant else "span"
        inner = _number("difference", cell[:3], least=-1, write=_points, between=between, tag=tag)
    else:
        share = cell if isinstance(cell, Share) else Share(float(cell), math.nan, math.nan)
        style = f' style="--share: {share.value:.4f}"'
        inner = _number("share", share, least=0, write=_percent, between="\N{EN DASH}", style=style)
    return f'<th scope="row">{inner}</th>' if first else f"<td>{inner}</td>"


def _number(
    kind: str,
    numbers: tuple[float, float, float],
    *,
    least: int,
    write: Callable[[float], str],
    between: str,
    tag: str = "span",
    style: str = "",
) -> str:
    """A value, by which the script sorts, and the ends of its interval."""
    for number in numbers:
        if not (math.isnan(number) or least <= round(number, 6) <= 1):
            raise ValueError(f"a number in a table must be a {kind} {least}..1 or nan, got {number}")
    value, *ends = numbers
    if math.isnan(value):
        return f'<data class="{kind}" value=""><span>{ABSENT}</span></data>'
    interval = "" if any(map(math.isnan, ends)) else f" <small>{between.join(map(write, ends))}</small>"
    return f'<data class="{kind}" value="{value:.6f}"{style}><{tag}>{write(value)}</{tag}>{interval}</data>'


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(difference: float) -> str:
    """A difference in points with its sign; what is written as nothing has none."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def swatch_html(swatch: Swatch) -> Html:
    """A class in a legend: its colour and its name."""
    red, green, blue = (int(value) for value in swatch.colour)
    return Html(f'<span class="swatch" style="--colour: rgb({red} {green} {blue})">{escape(swatch.name)}</span>')


def head_html(title: str, *styles: str) -> Html:
    """The beginning of a page, up to its body; styles lie beside this file."""
    return Html(f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
{"".join(map(file_beside, styles))}</style>
</head>""")


def file_beside(name: str) -> str:
    """The text of a style or script that lies beside this file."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
