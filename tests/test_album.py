"""The page of many images: names that do no harm, and that a real browser filters, sorts, slides and walks through it."""

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

from imptool.data.label_set import ClassInfo, LabelSet
from imptool.data.prediction import Prediction
from imptool.prediction.photographs import Photograph
from imptool.prediction.results import source_of, write_results
from imptool.recipe import Panoptic
from imptool.report.album import Picture, write_album
from imptool.report.page import Swatch

HARMFUL = '<img src=x onerror=alert(1)>"#50%?.jpg'
CLASSES = [Swatch("coat", (128, 0, 0)), Swatch("<script>alert(2)</script>", (0, 128, 0)), Swatch("hat", (0, 0, 128))]


def picture(number: int, shares: dict[int, float], name: str = "", *, detections: dict[int, int] | None = None) -> Picture:
    paths = [f"page/{what}/{name or number}.jpg" for what in ("photographs", "parsed", "thumbnails")]
    files = {"labels": f"labels/{name or number}.png"}
    return Picture(name or f"{number}.jpg", *paths, (80, 60), shares, files, detections)


def write(folder: Path, pictures: list[Picture]) -> Path:
    """A page, with its pictures: images are black, what was made of them is white."""
    for each in pictures:
        for path, grey in ((each.photograph, 0), (each.parsed, 255), (each.thumbnail, 255)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*each.size, 3), grey, np.uint8)).save(folder / path)
    write_album(folder / "index.html", "my images", "An intro.", CLASSES, pictures)
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
    assert browser.ask(tab, "return document.querySelector('.filter output').textContent") == "6 images"
    assert browser.ask(tab, "return images.filter((one) => !one.naturalWidth).length") == 0


def shown(browser: Browser, tab: str) -> Any:
    visible = "[...document.querySelectorAll('.pictures li')].filter((item) => item.checkVisibility())"
    return browser.ask(tab, f"return {visible}.map((item) => item.querySelector('p').title)")


def test_classes_filter_and_the_walk_goes_through_what_is_left(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    browser.ask(tab, "chips[0].click()")
    assert shown(browser, tab) == ["0.jpg", "1.jpg", "4.jpg", HARMFUL]
    browser.ask(tab, "chips[2].click()")
    assert shown(browser, tab) == ["0.jpg", "4.jpg"]
    assert browser.ask(tab, "return [chips[1].disabled, count.textContent]") == [True, "2 of 6 images"]
    browser.ask(tab, "document.querySelector('.open').click()")
    browser.press(tab, "ArrowRight")
    assert browser.ask(tab, "return about.textContent") == "4.jpg 2 of 2Parsed map: coat 50.0 %hat 25.0 %"
    assert browser.ask(tab, "return [before.disabled, after.disabled]") == [False, True]
    browser.press(tab, "ArrowRight")  # there is none
    browser.press(tab, "ArrowLeft")
    pictures = "[photograph, parsed].map((one) => one.src.split('/').slice(-2).join('/'))"
    assert browser.ask(tab, f"return {pictures}") == ["photographs/0.jpg", "parsed/0.jpg"]
    browser.ask(tab, "close.click(); await new Promise((done) => setTimeout(done, 50))")
    assert browser.ask(tab, "all.click(); return [viewer.open, document.activeElement.className]") == [False, "open"]
    assert len(shown(browser, tab)) == 6


def choose(browser: Browser, tab: str, field: str, value: str) -> None:
    browser.ask(tab, f"{field}.value = {value!r}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")


def test_a_name_is_searched_beside_the_chosen_classes(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    choose(browser, tab, "search", "ALERT .jpg")  # both words, in any case
    assert shown(browser, tab) == [HARMFUL]
    choose(browser, tab, "search", "4")
    assert shown(browser, tab) == ["4.jpg"]
    browser.ask(tab, "chips[2].click()")
    assert browser.ask(tab, "return count.textContent") == "1 of 6 images"
    choose(browser, tab, "search", "1.jpg")  # has no hat
    assert shown(browser, tab) == []
    assert browser.ask(tab, "return chips[2].disabled") is False  # it can be given up
    browser.ask(tab, "all.click(); await new Promise((done) => setTimeout(done, 50))")
    assert len(shown(browser, tab)) == 6
    assert browser.ask(tab, "return search.value") == ""


def test_images_sort_by_the_share_of_the_chosen_classes_and_by_name_again(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    assert browser.ask(tab, "return order.querySelector('[value=share]').disabled") is True
    browser.ask(tab, "chips[0].click()")
    choose(browser, tab, "order", "share")
    assert shown(browser, tab) == ["4.jpg", "0.jpg", "1.jpg", HARMFUL]  # 0.5, 0.3, 0.2, 0.1
    browser.ask(tab, "opener(shown[0]).click()")
    assert browser.ask(tab, "return about.querySelector('p').textContent") == "4.jpg 1 of 4"
    browser.ask(tab, "close.click()")
    choose(browser, tab, "order", "name")
    assert shown(browser, tab) == ["0.jpg", "1.jpg", "4.jpg", HARMFUL]
    choose(browser, tab, "order", "share")
    browser.ask(tab, "chips[0].click()")  # without a class there is no share
    assert shown(browser, tab) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", HARMFUL]


def test_a_class_counts_from_the_share_that_the_page_says(tmp_path: Path, browser: Browser) -> None:
    """1/2000 of 6000 px are 3: of two images one has 3 px of a coat, one 2."""
    tab = browser.open(write(tmp_path, [picture(0, {0: 3 / 6000}), picture(1, {0: 2 / 6000})]))
    assert browser.ask(tab, "return least.selectedOptions[0].textContent") == "0.05 % (1/2000)"
    browser.ask(tab, "chips[0].click()")
    assert shown(browser, tab) == ["0.jpg"]
    choose(browser, tab, "least", "0.02")  # 1.2 px
    assert shown(browser, tab) == ["0.jpg", "1.jpg"]
    choose(browser, tab, "least", "10")
    assert shown(browser, tab) == []


def test_detected_instances_are_counted_apart_from_the_parsed_map(tmp_path: Path, browser: Browser) -> None:
    pictures = [picture(0, {0: 0.5}, detections={0: 2, 2: 1}), picture(1, {2: 0.5}, detections={}), picture(2, {})]
    tab = browser.open(write(tmp_path, pictures))
    browser.ask(tab, "document.querySelector('.open').click()")
    lines = "return [...about.querySelectorAll('p')].slice(1).map((line) => line.textContent)"
    assert browser.ask(tab, lines) == ["Parsed map: coat 50.0 %", "Detected instances: coat 2hat 1"]
    browser.press(tab, "ArrowRight")
    assert browser.ask(tab, lines) == ["Parsed map: hat 50.0 %", "Detected instances: none"]
    browser.press(tab, "ArrowRight")
    assert browser.ask(tab, lines) == ["Parsed map: none"]  # nothing is known of detections
    browser.ask(tab, "close.click(); chips[2].click()")
    assert shown(browser, tab) == ["1.jpg"]  # a hat that is detected, and not in the map, is not in the map


def test_detections_are_counted_from_a_score_of_a_half(tmp_path: Path) -> None:
    """Of three coats one has less, and so has the only hat."""
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 6)).save(path)
    photograph = Photograph(1, path, "a.png", "a")
    labels = LabelSet(tuple(ClassInfo(id=number, name=name) for number, name in ((0, "none"), (4, "coat"), (7, "hat"))), 0, 255)
    scores = np.array([0.9, 0.5, 0.49, 0.4], np.float32)
    prediction = Prediction(
        (6, 8), np.zeros((6, 8), np.uint8), np.zeros((4, 4)), np.array([1, 1, 1, 2]), scores, np.zeros((4, 28, 28))
    )
    record, _ = write_results(photograph, source_of(photograph), prediction, labels, tmp_path / "out", frozenset(), Panoptic())
    assert record["detected"] == {"4": 2}
    assert record["instances"] == {"4": 3, "7": 1}


def test_keys_show_the_help_and_reach_the_search(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    for opened in (True, False, True):
        browser.strike(tab, "?")
        assert browser.ask(tab, "return help.open") is opened
    for key in ("/", "?", "\N{LEFTWARDS ARROW}", "Home", "Esc"):
        assert key in browser.ask(tab, "return [...help.querySelectorAll('kbd')].map((one) => one.textContent)")
    browser.strike(tab, "Escape")
    assert browser.ask(tab, "return help.open") is False
    browser.strike(tab, "/")
    assert browser.ask(tab, "return [document.activeElement === search, search.value]") == [True, ""]
    browser.strike(tab, "?")  # a letter like any other in a name
    assert browser.ask(tab, "return [help.open, search.value]") == [False, "?"]


def test_keys_alone_open_an_image_stay_in_the_viewer_and_come_back(page: Path, browser: Browser) -> None:
    tab = browser.open(page)
    browser.ask(tab, "document.querySelectorAll('.open')[1].focus()")
    browser.strike(tab, "Enter")
    focused = set()
    for _ in range(10):
        browser.strike(tab, "Tab")
        outside = "document.activeElement !== document.body && !viewer.contains(document.activeElement)"
        focused.add(browser.ask(tab, f"return {outside} ? 'outside' : document.activeElement.ariaLabel"))
    assert focused - {None} == {"Image or result", "Previous image", "Next image", "Close"}
    browser.strike(tab, "Escape")
    browser.ask(tab, "await new Promise((done) => setTimeout(done, 50))")
    assert browser.ask(
        tab, "return [viewer.open, document.activeElement.ariaLabel, names.get(document.activeElement.closest('li'))]"
    ) == [False, None, "1.jpg"]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [420, 1200])
def test_axe_finds_nothing_wrong_with_the_page_its_viewer_and_its_help(
    page: Path, browser: Browser, dark: bool, width: int
) -> None:
    tab = browser.open(page, width=width, dark=dark)
    browser.ask(tab, "chips[0].click()")
    assert browser.violations(tab) == []
    browser.ask(tab, "document.querySelector('.open').click()")
    assert browser.violations(tab) == []
    browser.ask(tab, "close.click(); help.showModal()")
    assert browser.violations(tab) == []
    assert browser.ask(tab, "const page = document.documentElement; return page.scrollWidth - page.clientWidth") == 0


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
    """The share of white: images are black and results white."""
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
    assert browser.ask(tab, "return [chips.every((chip) => chip.hidden), count.textContent]") == [True, "1 image"]
