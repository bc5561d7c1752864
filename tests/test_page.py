"""The HTML page: what its parts say, that names do no harm, and that a real browser shows it from disk."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from browser import Browser
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imptool.report.page import (
    Cell,
    Difference,
    Embedded,
    Example,
    Share,
    Step,
    Swatch,
    duration,
    figure_html,
    gallery_html,
    headline_html,
    steps_html,
    table_html,
    terms_html,
    text_html,
    write_page,
)

DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
HARMFUL_FILE = "<img src=x onerror=alert(1)>#50%?.png"
HARMFUL_CLASS = """"><script>alert('&amp;')</script>"""


@dataclass
class Outline(HTMLParser):
    """A page as a list of (tag, attributes) and its text, with a check that every tag is closed in order."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    still_open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.still_open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.still_open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def values(self, tag: str, attribute: str) -> list[str | None]:
        return [attributes[attribute] for name, attributes in self.tags if name == tag and attribute in attributes]


def outline(html: str) -> Outline:
    parsed = Outline()
    parsed.feed(html)
    parsed.close()
    assert parsed.still_open == []
    return parsed


def write_sample(folder: Path, *, examples: int = 2, name: str = "0001.png", class_name: str = "coat") -> Path:
    """A page with every kind of part; each example has five pictures of 48x32."""
    for caption in ("photograph", "target", "instances", "canvas", "prediction"):
        (folder / caption).mkdir(parents=True, exist_ok=True)
        for index in range(examples):
            Image.new("RGB", (32, 48), (20 * index, 90, 160)).save(folder / caption / f"{index} {name}")
    Image.new("RGB", (1100, 440), "white").save(folder / "bands.png")
    kinds = ("photograph", "target", "instances", "canvas", "prediction")
    shown = [
        Example(
            f"{index} {name}",
            {kind: f"{kind}/{index} {name}" for kind in kinds},
            [(class_name, (128, 0, 0))],
            "pixel accuracy 90.0 %",
            (48, 32),
        )
        for index in range(examples)
    ]
    rows: list[list[Cell]] = [
        [Swatch(class_name, (128, 0, 0)), 0.25, 0.5, Share(0.455, 0.431, 0.479), Difference(-0.025, -0.031, -0.019, True)],
        ["hat", math.nan, 0.4, Share(math.nan, math.nan, math.nan), Difference(0.1, -0.05, 0.25, False)],
        ["bag", 0.875, 0.3, Share(0.09, 0.05, 0.13), Difference(0.014, 0.001, 0.027, True)],
    ]
    sections = {
        "The steps": [
            steps_html([Step("imptool eval --boundary-bands", "Measure.", 3), Step("imptool predict x", "Parse.", 4)])
        ],
        "Results": [
            headline_html({"mIOU": "61.4 %", "mask AP": "40.1 %"}),
            table_html(["class", "IOU", "accuracy", "mIOU", "change"], rows, caption=class_name),
            figure_html("bands.png", "mIOU against distance", "Near the boundary."),
        ],
        "Images": [text_html("Click one."), gallery_html(shown)],
        "How this was made": [terms_html({"seed": "7"})],
    }
    write_page(folder / "index.html", "Outfits", "Two sentences. Here.", sections, {"IOU": "both / either"})
    return folder / "index.html"


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="20"><rect width="40" height="20" fill="#fff"/></svg>'


def embedded_picture(colour: int) -> Embedded:
    data = io.BytesIO()
    Image.new("RGB", (32, 48), (colour, 90, 160)).save(data, "PNG")
    return Embedded(data.getvalue(), "image/png")


def write_embedded(folder: Path) -> Path:
    """A page of a plot and two examples, whose images stand in the page and whose targets are files."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (32, 48)).save(folder / "target.png")
    examples = [
        Example(name, {"photograph": embedded_picture(colour), "target": "target.png"}, size=(48, 32))
        for name, colour in {"a": 10, "b": 200}.items()
    ]
    plot = figure_html(Embedded(SVG, "image/svg+xml"), "bars", "By class.")
    write_page(folder / "index.html", "Two", "Here.", {"Plots": [plot], "Images": [gallery_html(examples)]}, {})
    return folder / "index.html"


def test_the_page_keeps_its_order_and_every_tag_is_closed(tmp_path: Path) -> None:
    page = outline(write_sample(tmp_path).read_text(encoding="utf-8"))
    wanted = ["Outfits", "Two sentences. Here.", "Measure. ", "3.0 s", "--boundary-bands", "In all 7.0 s."]
    wanted += ["mIOU", "61.4 %"]
    wanted += ["coat", "25.0", "50.0", "45.5", f"43.1{DASH}47.9", f"{MINUS}2.5", f"{MINUS}3.1 to {MINUS}1.9"]
    wanted += ["hat", "—", "40.0", "—", "+10.0", f"{MINUS}5.0 to +25.0"]
    wanted += ["bag", "87.5", "30.0", "9.0", f"5.0{DASH}13.0", "+1.4", "+0.1 to +2.7"]
    wanted += ["Near the boundary.", "0 0001.png", "pixel accuracy 90.0 %"]
    wanted += ["photograph", "target", "instances", "canvas", "prediction", "1 0001.png", "seed", "7", "both / either"]
    texts = iter(page.texts)
    assert [text for text in wanted if text not in texts] == []  # `in` an iterator reads on: the order counts


def test_every_picture_has_an_alternative_text_and_a_size_and_loads_lazily(tmp_path: Path) -> None:
    page = outline(write_sample(tmp_path).read_text(encoding="utf-8"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 11  # five for each of two examples, and the plot
    assert all(image["alt"] and image["loading"] == "lazy" for image in images)
    assert [(image["height"], image["width"]) for image in images if image["src"] != "bands.png"] == [("48", "32")] * 10


def test_equal_values_write_equal_bytes(tmp_path: Path) -> None:
    assert write_sample(tmp_path / "a").read_bytes() == write_sample(tmp_path / "b").read_bytes()


@settings(deadline=None, max_examples=60)
@given(st.text(min_size=1))
def test_a_name_is_text_and_a_path_is_quoted_whatever_it_holds(name: str) -> None:
    example = Example(name, {name: f"labels/{name}"}, [(name, (1, 2, 3))], name)
    tables = table_html([name, "b"], [[name, 0.5], [Swatch(name, (1, 2, 3)), 0.5]], caption=name)
    parts = [gallery_html([example]), tables, headline_html({name: name}), terms_html({name: name})]
    parts += [text_html(name), figure_html(f"a/{name}", name, name), steps_html([Step("x", name, 1.0)])]
    plain = [gallery_html([Example("x", {"x": "x"}, [("x", (1, 2, 3))], "x")])]
    plain += [table_html(["x", "b"], [["x", 0.5], [Swatch("x", (1, 2, 3)), 0.5]], caption="x"), headline_html({"x": "x"})]
    plain += [terms_html({"x": "x"}), text_html("x"), figure_html("a/x", "x", "x"), steps_html([Step("x", "x", 1.0)])]
    page, same = outline("".join(parts)), outline("".join(plain))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in same.tags]
    assert [set(attributes) for _, attributes in page.tags] == [set(attributes) for _, attributes in same.tags]
    sources = page.values("img", "src")
    assert [unquote(source or "") for source in sources] == [f"labels/{name}", f"a/{name}"]
    assert all(set("?#:\\ \"'<>").isdisjoint(source or "") for source in sources)


@settings(deadline=None, max_examples=60)
@given(st.text(min_size=1))
def test_a_command_stands_there_to_the_letter(command: str) -> None:
    steps = outline(steps_html([Step(command, "", 1.0)]))
    assert "".join(steps.texts) == f"\n 1.0 s\n{command}\n"
    assert {tag for tag, _ in steps.tags} <= {"ol", "li", "p", "span", "div", "pre", "code"}


@pytest.mark.parametrize("path", ["", "/etc/passwd", "//host/picture.png"])
def test_a_picture_outside_the_page_s_reach_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must be relative to the page"):
        figure_html(path, "alt", "caption")


def test_an_embedded_picture_stands_in_the_page_once_without_a_link(tmp_path: Path) -> None:
    text = write_embedded(tmp_path).read_text(encoding="utf-8")
    page = outline(text)
    sources = [source or "" for source in page.values("img", "src")]
    kinds = ["image/svg+xml", "image/png", "target.png", "image/png", "target.png"]
    assert [source.removeprefix("data:").partition(";")[0] for source in sources] == kinds
    parts = [base64.b64decode(source.partition(";base64,")[2]) for source in sources if source.startswith("data:")]
    assert parts == [SVG, embedded_picture(10).data, embedded_picture(200).data]
    assert [text.count(source) for source in sources if source.startswith("data:")] == [1, 1, 1]
    assert [link for link in page.values("a", "href") if not (link or "").startswith("#")] == ["target.png"] * 2


def test_a_path_that_looks_like_a_picture_s_data_is_still_a_path() -> None:
    harmful = "data:image/svg+xml;base64,AAAA"
    page = outline(figure_html(harmful, "alt", "caption"))
    assert page.values("img", "src") == page.values("a", "href") == ["data%3Aimage/svg%2Bxml%3Bbase64%2CAAAA"]


def test_an_embedded_picture_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be one of image/jpeg, image/png, image/svg\+xml, got 'text/html'"):
        Embedded(b"<script>", "text/html")


def test_a_file_name_that_is_no_text_is_still_found(tmp_path: Path) -> None:
    """Linux gives names that are not UTF-8 with lone surrogates; the browser asks for the bytes."""
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    write_page(tmp_path / "a.html", "t", "i", {"s": [gallery_html([Example(name, {"photograph": name})])]}, {})
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert 'src="caf%E9.png"' in text
    assert "<h3>caf?.png</h3>" in text


@pytest.mark.parametrize(
    ("cell", "text"), [(0.534, "53.4"), (1, "100.0"), (0, "0.0"), (np.float32(0.25), "25.0"), (math.nan, "—"), ("<b>", "<b>")]
)
def test_a_number_in_a_table_is_a_share_in_percent(cell: Any, text: str) -> None:
    assert outline(table_html(["class", "IOU"], [["coat", cell]])).texts[-2:][0].strip() == text


@pytest.mark.parametrize(
    ("difference", "texts"),
    [
        (Difference(0.0004, -0.0006, 0.0014, False), ["0.0", f"{MINUS}0.1 to +0.1"]),
        (Difference(-0.0004, math.nan, math.nan, False), ["0.0"]),
        (Difference(-0.104, -0.2, -0.05, True), [f"{MINUS}10.4", f"{MINUS}20.0 to {MINUS}5.0"]),
        (Difference(math.nan, math.nan, math.nan, False), ["—"]),
    ],
)
def test_a_difference_is_in_points_and_bold_where_it_is_significant(difference: Difference, texts: list[str]) -> None:
    cell = outline(table_html(["class", "change"], [["coat", difference]]))
    assert [text for text in cell.texts if text.strip()][3:] == texts
    assert ("strong" in dict(cell.tags)) == difference.significant


def test_a_share_without_an_interval_looks_like_a_plain_number() -> None:
    share = Share(0.5, math.nan, math.nan)
    assert [text for text in outline(table_html(["class", "IOU"], [["coat", share]])).texts if text.strip()][3:] == ["50.0"]
    assert table_html(["class", "IOU"], [["coat", share]]) == table_html(["class", "IOU"], [["coat", 0.5]])


@pytest.mark.parametrize("cell", [Difference(1.4, 0.1, 0.2, True), Difference(0.1, -1.4, 0.2, True), Share(0.5, 0.1, 1.4)])
def test_a_difference_or_interval_in_points_is_refused(cell: Cell) -> None:
    """1.4 points are 0.014."""
    with pytest.raises(ValueError, match=r"1 or nan, got -?1\.4"):
        table_html(["class", "change"], [["coat", cell]])


@pytest.mark.parametrize("share", [53.4, -0.1, math.inf])
def test_a_number_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"must be a share 0..1 or nan, got {share}")):
        table_html(["class", "IOU"], [["coat", share]])


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="one cell for each of 2 columns, got 3"):
        table_html(["class", "IOU"], [["coat", 0.1, 0.2]])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.6, "1 h 00 min"),
        (4200, "1 h 10 min"),
        (math.nan, ""),
    ],
)
def test_a_duration_reads_as_people_say_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_steps_without_times_have_no_total() -> None:
    assert "In all" not in steps_html([Step("a", "A."), Step("b", "B.")])


def test_a_gallery_without_photographs_says_so() -> None:
    assert outline(gallery_html([])).texts == ["There are no images."]


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    page = write_sample(tmp_path)
    before = page.read_bytes()
    with pytest.raises(ValueError, match="relative"):
        write_page(page, "t", "i", {"s": [gallery_html([Example("a", {"photograph": "/a.png"})])]}, {})
    assert page.read_bytes() == before


def test_a_browser_loads_every_picture_from_disk_and_nothing_else(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(write_sample(tmp_path / "with space"))
    found = browser.ask(
        tab,
        """return {widths: images.map((image) => image.naturalWidth),
                   asked: performance.getEntriesByType("resource").map((entry) => entry.name)}""",
    )
    assert found["widths"] == [1100] + [32] * 10
    assert all(name.startswith((tmp_path / "with space").as_uri()) for name in found["asked"])


def test_harmful_names_do_no_harm_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(write_sample(tmp_path, name=HARMFUL_FILE, class_name=HARMFUL_CLASS))
    found = browser.ask(
        tab,
        """return {broken: images.filter((image) => !image.naturalWidth).length, images: images.length,
                   scripts: document.scripts.length, names: [...document.querySelectorAll("h3")].map((h) => h.textContent),
                   legend: document.querySelector("ul .swatch").textContent}""",
    )
    assert found == {
        "broken": 0,
        "images": 11,
        "scripts": 1,
        "names": [f"0 {HARMFUL_FILE}", f"1 {HARMFUL_FILE}"],
        "legend": HARMFUL_CLASS,
    }


def test_a_click_on_a_heading_sorts_with_absent_shares_last(browser: Browser, tmp_path: Path) -> None:
    orders = browser.ask(
        browser.open(write_sample(tmp_path)),
        """const names = () => [...document.querySelectorAll("tbody th")].map((cell) => cell.textContent);
           const click = (column) => { document.querySelectorAll("thead button")[column].click(); return names(); };
           return [names(), click(1), click(1), click(0), click(0), click(2), click(3), click(3), click(4), click(4)]""",
    )
    written, falling, rising = ["coat", "hat", "bag"], ["bag", "coat", "hat"], ["coat", "bag", "hat"]
    by_name, by_accuracy = [["bag", "coat", "hat"], ["hat", "coat", "bag"]], ["coat", "hat", "bag"]
    by_share, by_change = [["coat", "bag", "hat"], ["bag", "coat", "hat"]], [["hat", "bag", "coat"], ["coat", "bag", "hat"]]
    assert orders == [written, falling, rising, *by_name, by_accuracy, *by_share, *by_change]


def test_texts_with_signs_sort_as_numbers(browser: Browser, tmp_path: Path) -> None:
    rows = [[text, text] for text in ("+9", "-10", "", "+1,000.5", f"{MINUS}2.5", "3%")]
    write_page(tmp_path / "index.html", "t", "i", {"s": [table_html(["name", "change"], rows)]}, {})
    falling = browser.ask(
        browser.open(tmp_path / "index.html"),
        """document.querySelectorAll("thead button")[1].click();
           return [...document.querySelectorAll("tbody th")].map((cell) => cell.textContent)""",
    )
    assert falling == ["+1,000.5", "+9", "3%", f"{MINUS}2.5", "-10", ""]


def test_a_command_is_copied_without_its_prompt(browser: Browser, tmp_path: Path) -> None:
    copied = browser.ask(
        browser.open(write_sample(tmp_path)),
        """let copied;
           navigator.clipboard.writeText = async (text) => { copied = text; };
           document.querySelectorAll(".steps button")[1].click();
           return copied""",
    )
    assert copied == "imptool predict x"


def test_the_viewer_opens_with_a_click_and_walks_with_the_arrow_keys(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(write_sample(tmp_path))
    browser.ask(tab, """document.querySelectorAll("article a")[1].click()""")
    words = """return document.querySelector("dialog[open] p")?.textContent"""
    shown = [browser.ask(tab, words)]
    for side in ("Right", "Down", "Right", "Right", "Right", "Left", "Up", "Up"):
        browser.press(tab, f"Arrow{side}")
        shown.append(browser.ask(tab, words))
    first, second = "0 0001.png", "1 0001.png"
    assert shown == [
        f"target, {first}",
        f"instances, {first}",
        f"instances, {second}",
        f"canvas, {second}",
        f"prediction, {second}",
        f"prediction, {second}",  # the last of all
        f"canvas, {second}",
        f"canvas, {first}",
        f"canvas, {first}",  # nothing above
    ]
    browser.ask(
        tab,
        """const closed = new Promise((done) => document.querySelector("dialog").addEventListener("close", done));
           document.querySelector("[aria-label=Close]").click();
           await closed""",
    )
    assert browser.ask(tab, words) is None
    assert browser.ask(tab, "return document.activeElement.firstElementChild.alt") == f"canvas, {first}"


def test_embedded_pictures_load_from_disk(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(write_embedded(tmp_path))
    assert browser.ask(tab, "return images.map((image) => image.naturalWidth)") == [40, 32, 32, 32, 32]


SHOWN = """const open = document.querySelector("dialog[open]"), image = open?.querySelector("img");
           await image?.decode();
           return open && [open.querySelector("p").textContent, image.src.slice(0, 14), image.naturalWidth]"""


def test_the_viewer_walks_over_embedded_pictures_and_files(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(write_embedded(tmp_path))
    browser.ask(tab, """document.querySelector(".plot img").click()""")
    shown = [browser.ask(tab, SHOWN)]
    for side in ("Left", "Right", "Down", "Right", "Up"):
        browser.press(tab, f"Arrow{side}")
        shown.append(browser.ask(tab, SHOWN))
    embedded, file = "data:image/png", tmp_path.as_uri()[:14]
    plot = ["bars", "data:image/svg", 40]
    assert shown == [
        plot,
        plot,  # the first of all
        ["photograph, a", embedded, 32],
        ["photograph, b", embedded, 32],
        ["target, b", file, 32],
        ["target, a", file, 32],
    ]


@pytest.mark.parametrize("key", ["Enter", " "])
def test_keys_alone_open_and_close_an_embedded_picture(browser: Browser, tmp_path: Path, key: str) -> None:
    tab = browser.open(write_embedded(tmp_path))
    focused = """const focused = document.activeElement; return [focused.tagName, focused.querySelector("img")?.alt]"""
    browser.ask(tab, """document.querySelector("nav a:last-child").focus()""")
    for seen in ("bars", "photograph, a"):
        browser.strike(tab, "Tab")
        assert browser.ask(tab, focused) == ["BUTTON", seen]
    browser.strike(tab, key)
    assert browser.ask(tab, SHOWN) == ["photograph, a", "data:image/png", 32]
    browser.press(tab, "ArrowDown")
    browser.ask(
        tab, """window.closed_once = new Promise((done) => document.querySelector("dialog").addEventListener("close", done))"""
    )
    browser.strike(tab, "Escape")
    browser.ask(tab, "await window.closed_once")
    assert browser.ask(tab, SHOWN) is None
    assert browser.ask(tab, focused) == ["BUTTON", "photograph, b"]


@pytest.mark.parametrize(("selector", "opens"), [("a.full", False), ("button.full", True)])
def test_a_click_with_control_is_left_to_the_browser_where_there_is_a_link(
    browser: Browser, tmp_path: Path, selector: str, opens: bool
) -> None:
    tab = browser.open(write_embedded(tmp_path))
    left = browser.ask(
        tab,
        f"""const click = new MouseEvent("click", {{ctrlKey: true, bubbles: true, cancelable: true}});
            let left;
            addEventListener("click", (event) => {{ left = !event.defaultPrevented; event.preventDefault(); }});
            document.querySelector("{selector}").dispatchEvent(click);
            return left""",
    )
    assert left == (not opens)
    assert (browser.ask(tab, SHOWN) is not None) == opens


@pytest.mark.parametrize("width", [380, 800, 2000])
def test_the_page_never_scrolls_sideways(browser: Browser, tmp_path: Path, width: int) -> None:
    """The wide rows scroll inside their own boxes; a name without spaces breaks."""
    tab = browser.open(write_sample(tmp_path, name=f"{'long' * 40}.png", class_name="scarf" * 60), width=width)
    page = "const page = document.documentElement;"
    assert browser.ask(tab, f"{page} return [innerWidth, page.scrollWidth - page.clientWidth]") == [width, 0]


CONTRAST = """
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => numbers(colour).slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, channel) => sum + value * [0.2126, 0.7152, 0.0722][channel], 0);
  const behind = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return (numbers(colour)[3] ?? 1) ? colour : behind(node.parentElement);
  };
  const contrast = (node) => {
    const [dark, light] = [luminance(getComputedStyle(node).color), luminance(behind(node))].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const worded = [...document.body.querySelectorAll("*:not(script, dialog *)")]
    .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  return worded.map((node) => [contrast(node), node.outerHTML.slice(0, 80)]).sort((a, b) => a[0] - b[0])
"""


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_the_contrast_of_wcag_aa(browser: Browser, tmp_path: Path, dark: bool) -> None:
    """WCAG 2.2, 1.4.3: at least 4.5 to 1."""
    worst, *rest = browser.ask(browser.open(write_sample(tmp_path), dark=dark), CONTRAST)
    assert len(rest) > 40
    assert worst[0] >= 4.5, worst


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [420, 1200])
def test_axe_finds_nothing_wrong_with_the_page_and_its_viewer(browser: Browser, tmp_path: Path, dark: bool, width: int) -> None:
    tab = browser.open(write_sample(tmp_path), width=width, dark=dark)
    assert browser.violations(tab) == []
    browser.ask(tab, """document.querySelector("article a").click()""")
    assert browser.violations(tab) == []


def test_the_viewer_keeps_the_focus_inside(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(write_sample(tmp_path))
    browser.ask(tab, """document.querySelectorAll("article a")[1].click()""")
    focused = set()
    for _ in range(8):
        browser.strike(tab, "Tab")
        focused.add(browser.ask(tab, "return document.activeElement.ariaLabel ?? document.activeElement.tagName"))
    assert focused - {"BODY"} == {"Previous picture", "Next picture", "Close"}  # the body: where the browser's own bar follows
