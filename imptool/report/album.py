"""A page to look through images and what was made of them, thousands as well: one HTML file beside its pictures.

It opens from disk and asks the network for nothing. Thumbnails load when they come into view, and the page is written
image by image, so that neither the browser nor this process holds them all.

From which share of an image a class counts is chosen on the page, not when it is written: nobody parses thousands of images
again to see the small bags too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from imptool.files import whole_file
from imptool.report.page import Swatch, file_beside, head_html, swatch_html, url_of

LEAST_SHARES = (1 / 5000, 1 / 2000, 1 / 200, 1 / 50, 1 / 10)
"""The shares of an image from which a class may count; the page begins with `LEAST_SHARE`."""
LEAST_SHARE = 1 / 2000

KEYS = {
    "/": "Search by file name",
    "?": "Show or hide this help",
    "Tab": "Go to the next button, link or field",
    "Enter": "Open an image, press a button",
    "\N{LEFTWARDS ARROW} \N{RIGHTWARDS ARROW}": "In an open image: the previous and the next image",
    "\N{UPWARDS ARROW} \N{DOWNWARDS ARROW}": "In an open image: show more of the image, more of the result",
    "Home End": "In an open image: the first and the last image",
    "Esc": "Close",
}


@dataclass(frozen=True)
class Picture:
    """One image of an album.

    Attributes:
        name: whatever names the image.
        image, parsed: paths relative to the page, of pictures of one size.
        thumbnail: likewise, of `parsed`.
        size: (height, width) in px of any of them: its shape keeps the page from jumping while pictures load.
        shares: {index in the album's classes: share of the image in the parsed map, 0..1}.
        files: further files to open, {what it is: path relative to the page}.
        detections: {index in the album's classes: number of detected instances}; None where nothing was detected by a model
            or it is not known.
    """

    name: str
    photograph: str
    parsed: str
    thumbnail: str
    size: tuple[int, int]
    shares: Mapping[int, float]
    files: Mapping[str, str]
    detections: Mapping[int, int] | None = None


def write_album(path: Path, title: str, intro: str, classes: Sequence[Swatch], pictures: Iterable[Picture]) -> None:
    """Write the page; equal values give equal bytes.

    Args:
        path: the HTML file. Pictures are looked up relative to its folder.
        title: the heading of the page, and of its tab.
        intro: a sentence or two beneath.
        classes: what images are filtered by.
    Raises:
        ValueError: a path is not relative to the page.
    """
    # A file name that is no text has lone surrogates, which UTF-8 cannot hold.
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace", newline="\n") as file:
        file.write(_head(title, intro, classes))
        for picture in pictures:
            file.write(_item(picture))
        file.write(f"</ul>\n</main>\n{_help()}<script>\n{file_beside('album.js')}</script>\n</body>\n</html>\n")


def _head(title: str, intro: str, classes: Sequence[Swatch]) -> str:
    chips = "\n".join(
        f'<button type="button" class="chip" data-class="{index}" aria-pressed="false" hidden>'
        f"{swatch_html(swatch)} <small></small></button>"
        for index, swatch in enumerate(classes)
    )
    shares = "".join(
        f'<option value="{100 * share:g}"{" selected" if share == LEAST_SHARE else ""}>{100 * share:g} % (1/{1 / share:.0f})'
        "</option>"
        for share in LEAST_SHARES
    )
    return f"""{head_html(title, "page.css", "album.css")}
<body class="album">
<header>
<h1>{escape(title)}</h1>
<p class="intro">{escape(intro)}</p>
</header>
<form class="filter" role="search" aria-label="Images" hidden>
<div class="fields">
<label>File name <input type="search" autocomplete="off" spellcheck="false"></label>
<label>Sort by <select class="order"><option value="name">file name</option>
<option value="share" disabled>share of chosen classes</option></select></label>
<label>A class counts from <select class="least">{shares}</select></label>
<button type="reset" hidden>Show all</button>
<button type="button" class="ask" aria-haspopup="dialog">Keys <kbd>?</kbd></button>
<output></output>
</div>
<div class="chips" role="group" aria-label="Classes in the parsed map">
{chips}
</div>
</form>
<main>
<ul class="pictures" aria-label="Images">
"""


def _help() -> str:
    rows = "\n".join(
        f"<dt>{' '.join(f'<kbd>{key}</kbd>' for key in keys.split())}</dt><dd>{what}</dd>" for keys, what in KEYS.items()
    )
    return f"""<dialog class="help" aria-labelledby="help-h">
<h2 id="help-h">Keys</h2>
<dl>
{rows}
</dl>
<form method="dialog"><button>Close</button></form>
</dialog>
"""


def _item(picture: Picture) -> str:
    height, width = picture.size
    name, shares = escape(picture.name), " ".join(f"{index}:{100 * share:.4g}" for index, share in picture.shares.items())
    files = "".join(
        f'<a href="{url_of(path)}" aria-label="{escape(what)} of {name}">{escape(what)}</a>'
        for what, path in picture.files.items()
    )
    found = picture.detections
    detected = "" if found is None else f' data-detected="{" ".join(f"{index}:{count}" for index, count in found.items())}"'
    return (
        f'<li data-shares="{shares}"{detected}><a class="open" href="{url_of(picture.parsed)}" '
        f'data-photograph="{url_of(picture.photograph)}" data-shape="{width / height:.4f}">'
        f'<img src="{url_of(picture.thumbnail)}" alt="{name}, parsed" loading="lazy" decoding="async"></a>'
        f'<p title="{name}">{name}</p><p class="files">{files}</p></li>\n'
    )
