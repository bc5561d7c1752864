"""The page of many photographs: names that do no harm, and that a real browser filters, slides and walks through it."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from PIL import Image

from imptool.report.album import Picture, write_album
from imptool.report.page import Swatch

HARMFUL = '<img src=x onerror=alert(1)>"#50%?.jpg'
CLASSES = [Swatch("coat", (128, 0, 0)), Swatch("<script>alert(2)</script>", (0, 128, 0)), Swatch("hat", (0, 0, 128))]


def picture(number: int, shares: dict[int, float], name: str = "") -> Picture:
    paths = [f"page/{what}/{name or number}.jpg" for what in ("photographs", "parsed", "thumbnails")]
    return Picture(name or f"{number}.jpg", *paths, (80, 60), shares, {"labels": f"labels/{name or number}.png"})


def write(folder: Path, pictures: list[Picture]) -> Path:
    """A page, with its pictures: photographs are black, what was made of them is white."""
    for each in pictures:
        for path, grey in ((each.photograph, 0), (each.parsed, 255), (each.thumbnail, 255)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*each.size, 3), grey, np.uint8)).save(folder / path)
    write_album(folder / "index.html", "my photographs", "An intro.", CLASSES, pictures)
    return folder / "index.html"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    shares = [{0: 0.3, 2: 0.1}, {0: 0.2}, {2: 0.05, 1: 0.01}, {}, {0: 0.5, 2: 0.25}]
    return write(tmp_path, [*(picture(number, share) for number, share in enumerate(shares)), picture(5, {0: 0.1}, HARMFUL)])


def test_nothing_of_a_name_becomes_markup_or_leaves_the_page(tmp_path: Path) -> None:
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attributes)))

    write_album(tmp_path / "index.html", HARMFUL, HARMFUL, CLASSES, [picture(0, {0: 0.1}, HARMFUL)])
    text = (tmp_path / "index.html").read_text()
    Tags().feed(text)
    assert [tag for tag, _ in tags].count("script") == 1
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    (item,) = [attributes for tag, attributes in tags if tag == "img"]
    assert item["src"] == "page/thumbnails/%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E%22%2350%25%3F.jpg.jpg"
    assert not re.search(r"(src|href)=\"?(https?:)?//", text)
    outside = Picture("a", "/etc/passwd", "a.jpg", "a.jpg", (1, 1), {}, {})
    with pytest.raises(ValueError, match="relative"):
        write_album(tmp_path / "index.html", "", "", [], [outside])


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_album(tmp_path / name, "title", "intro", CLASSES, iter([picture(0, {2: 0.125})]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_it_loads_from_disk_and_counts_the_photographs_of_each_class(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    chips = "chips.filter((chip) => !chip.hidden).map((chip) => chip.innerText.replace(/\\s+/g, ' '))"
    assert browser.ask(tab, f"return {chips}") == ["coat 4", "<script>alert(2)</script> 1", "hat 3"]
    assert browser.ask(tab, "return document.querySelector('.filter output').textContent") == "6 photographs"
    assert browser.ask(tab, "return images.filter((one) => !one.naturalWidth).length") == 0


def shown(browser: Browser, tab: str) -> Any:
    visible = "items.filter((item) => item.checkVisibility())"
    return browser.ask(tab, f"return {visible}.map((item) => item.querySelector('p').title)")


def test_classes_filter_and_the_walk_goes_through_what_is_left(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    browser.ask(tab, "chips[0].click()")
    assert shown(browser, tab) == ["0.jpg", "1.jpg", "4.jpg", HARMFUL]
    browser.ask(tab, "chips[2].click()")
    assert shown(browser, tab) == ["0.jpg", "4.jpg"]
    assert browser.ask(tab, "return [chips[1].disabled, count.textContent]") == [True, "2 of 6 photographs"]
    browser.ask(tab, "document.querySelector('.open').click()")
    browser.press(tab, "ArrowRight")
    assert browser.ask(tab, "return about.textContent") == "4.jpg2 of 2coat 50.0 %hat 25.0 %"
    assert browser.ask(tab, "return [before.disabled, after.disabled]") == [False, True]
    browser.press(tab, "ArrowRight")  # there is none
    browser.press(tab, "ArrowLeft")
    pictures = "[photograph, parsed].map((one) => one.src.split('/').slice(-2).join('/'))"
    assert browser.ask(tab, f"return {pictures}") == ["photographs/0.jpg", "parsed/0.jpg"]
    browser.ask(tab, "close.click(); await new Promise((done) => setTimeout(done, 50))")
    assert browser.ask(tab, "all.click(); return [viewer.open, document.activeElement.className]") == [False, "open"]
    assert len(shown(browser, tab)) == 6


def test_the_slider_parts_photograph_and_result(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    browser.ask(tab, "document.querySelector('.open').click()")
    left, top, width, height = browser.ask(
        tab, "const box = frame.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]"
    )
    assert abs(width / height - 60 / 80) < 0.01
    for share in (0.25, 0.75):
        where = {"x": left + share * width, "y": top + height / 2, "button": "left", "buttons": 1, "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            browser.call("Input.dispatchMouseEvent", tab, type=kind, **where)
        assert browser.ask(tab, "return Number(slider.value)") == pytest.approx(100 * share, abs=1)
        assert _brightness(browser, tab, left, top, width, height) == pytest.approx(1 - share, abs=0.03)
    browser.press(tab, "ArrowUp")
    assert browser.ask(tab, "return Number(slider.value)") == pytest.approx(80, abs=1)
    browser.press(tab, "ArrowDown")
    assert browser.ask(tab, "return Number(slider.value)") == pytest.approx(75, abs=1)


def _brightness(browser: Browser, tab: str, left: float, top: float, width: float, height: float) -> float:
    """The share of white: photographs are black and results white."""
    clip = {"x": left, "y": top, "width": width, "height": height, "scale": 1}
    data = base64.b64decode(browser.call("Page.captureScreenshot", tab, format="png", clip=clip)["data"])
    return float(np.asarray(Image.open(io.BytesIO(data)).convert("L")).mean() / 255)


def test_a_harmful_name_is_shown_as_it_is(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    browser.ask(tab, "[...document.querySelectorAll('.open')].at(-1).click()")
    assert browser.ask(tab, "return [photograph.naturalWidth, about.querySelector('.name').textContent]") == [60, HARMFUL]


def test_thousands_of_photographs_load_the_thumbnails_in_view_alone(tmp_path: Path, browser: Browser) -> None:
    write(tmp_path, [picture(0, {0: 0.5})])
    for number in range(1, 5000):
        (tmp_path / f"page/thumbnails/{number}.jpg").symlink_to("0.jpg")
    write_album(tmp_path / "index.html", "many", "", CLASSES, (picture(number, {number % 3: 0.5}) for number in range(5000)))
    tab = browser.open(tmp_path / "index.html")
    code = "[items.length, [...document.images].filter((one) => one.complete && one.naturalWidth).length]"  # `ask` loads all
    answer = browser.call("Runtime.evaluate", tab, expression=code, returnByValue=True)
    photographs, loaded = answer["result"]["value"]
    assert photographs == 5000
    assert 0 < loaded < 500


def test_photographs_without_any_class_have_a_page_too(tmp_path: Path, browser: Browser) -> None:
    tab = browser.open(write(tmp_path, [picture(0, {})]))
    assert browser.ask(tab, "return [chips.every((chip) => chip.hidden), count.textContent]") == [True, "1 photograph"]
