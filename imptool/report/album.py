"""A page to look through photographs and what was made of them, thousands as well: one HTML file beside its pictures.

It opens from disk and asks the network for nothing. Thumbnails load when they come into view, and the page is written
photograph by photograph, so that neither the browser nor this process holds them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from imptool.files import whole_file
from imptool.report.page import Swatch, file_beside, head_html, swatch_html, url_of


@dataclass(frozen=True)
class Picture:
    """One photograph of an album.

    Attributes:
        name: whatever names the photograph.
        photograph, parsed: paths relative to the page, of pictures of one size.
        thumbnail: likewise, of `parsed`.
        size: (height, width) in px of any of them: its shape keeps the page from jumping while pictures load.
        shares: {place in the album's classes: share of the photograph, 0..1}.
        files: further files to open, {what it is: path relative to the page}.
    """

    name: str
    photograph: str
    parsed: str
    thumbnail: str
    size: tuple[int, int]
    shares: Mapping[int, float]
    files: Mapping[str, str]


def write_album(path: Path, title: str, intro: str, classes: Sequence[Swatch], pictures: Iterable[Picture]) -> None:
    """Write the page; equal values give equal bytes.

    Args:
        path: the HTML file. Pictures are looked up relative to its folder.
        title: the heading of the page, and of its tab.
        intro: a sentence or two beneath.
        classes: what photographs are filtered by.
    Raises:
        ValueError: a path is not relative to the page.
    """
    # A file name that is no text has lone surrogates, which UTF-8 cannot hold.
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(_head(title, intro, classes))
        for picture in pictures:
            file.write(_item(picture))
        file.write(f"</ul>\n<script>\n{file_beside('album.js')}</script>\n</body>\n</html>\n")


def _head(title: str, intro: str, classes: Sequence[Swatch]) -> str:
    chips = "\n".join(
        f'<button type="button" class="chip" data-class="{place}" aria-pressed="false" hidden>'
        f"{swatch_html(swatch)} <small></small></button>"
        for place, swatch in enumerate(classes)
    )
    return f"""{head_html(title, "page.css", "album.css")}
<body class="album">
<header>
<h1>{escape(title)}</h1>
<p class="intro">{escape(intro)}</p>
</header>
<form class="filter" aria-label="Show photographs with" hidden>
{chips}
<button type="reset" hidden>Show all</button>
<output></output>
</form>
<ul class="pictures">
"""


def _item(picture: Picture) -> str:
    height, width = picture.size
    name, shares = escape(picture.name), " ".join(f"{place}:{100 * share:.1f}" for place, share in picture.shares.items())
    files = "".join(f'<a href="{url_of(path)}">{escape(what)}</a>' for what, path in picture.files.items())
    return (
        f'<li data-shares="{shares}"><a class="open" href="{url_of(picture.parsed)}" '
        f'data-photograph="{url_of(picture.photograph)}" data-shape="{width / height:.4f}">'
        f'<img src="{url_of(picture.thumbnail)}" alt="" loading="lazy" decoding="async"></a>'
        f'<p title="{name}">{name}</p><p class="files">{files}</p></li>\n'
    )
