"""`imptool list`: what comes with imptool, without importing torch, which takes seconds."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from safetensors import safe_open

from imptool.data.dataset import DatasetFile, root_of
from imptool.data.layouts import LAYOUTS
from imptool.files import RECIPES, TEXT_FILE, InputError, nearest, parse_strict, read_text, read_yaml, shipped_weights
from imptool.recipe import Recipe, load_recipe, read_about, recipe_names
from imptool.report.console import WIDTH, wrapped
from imptool.report.progress import say


class Thing(NamedTuple):
    """One thing that comes with imptool: its name, what it is, more of that, and figures for the columns of its table."""

    name: str
    what: str
    more: str = ""
    columns: Sequence[str] = ()


class Kind(NamedTuple):
    """A kind of things: how one is used, the heads of the columns of their table, and which there are."""

    use: str
    heads: Sequence[str]
    find: Callable[[], Iterator[Thing]]


def command(*, kind: str | None, console: Console) -> None:
    """`imptool list`, with its option: print the lines of `list_things`."""
    for line in list_things(kind):
        say(console, line)


def list_things(kind: str | None = None) -> list[str]:
    """The lines that tell of all things in short, or of one kind in full; at most 80 columns, unless a path is longer.

    Raises:
        InputError: there is no such kind.
    """
    if kind is None:
        lines = [line for name in KINDS for line in (*_in_short(name), "")]
        return [*lines, "imptool list recipes, and so on, tells more of each."]
    if kind not in KINDS:
        raise InputError(f"list {kind}: no such kind of things{nearest(kind, KINDS)}")
    return _in_full(kind)


def _in_short(kind: str) -> list[str]:
    """How things of a kind are used, and one line for each."""
    rows = _aligned([(f"  {thing.name}", thing.what) for thing in KINDS[kind].find()])
    return [f"{kind}: {KINDS[kind].use}", *(row if len(row) <= WIDTH else _cut(row) for row in rows)]


def _in_full(kind: str) -> list[str]:
    """A table with a row for each thing of a kind, and below the row what it is; behind it, where there are no columns."""
    things, heads = list(KINDS[kind].find()), KINDS[kind].heads
    head, *rows = _aligned([(kind, *heads), *((thing.name, *thing.columns) for thing in things)])
    texts = ["; ".join(filter(None, (thing.what, thing.more))) for thing in things]
    if not heads:
        width = max(map(len, rows)) + 2
        return [line for row, text in zip(rows, texts, strict=True) for line in wrapped(text, row.ljust(width), " " * width)]
    return [head, *(line for row, text in zip(rows, texts, strict=True) for line in (row, *wrapped(text, "  ", "  ")))]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cut(line: str) -> str:
    """The words of a line that fit, and a sign that there are more."""
    return line[: WIDTH - len(" ...") + 1].rpartition(" ")[0] + " ..."


def _recipes() -> Iterator[Thing]:
    for name in recipe_names():
        recipe, about = load_recipe(name), read_about(name)
        size = f"{recipe.input.short_side}/{recipe.input.long_side}"
        columns = (recipe.dataset, recipe.model.name, size)
        if about is None:
            yield Thing(name, "", columns=columns)
            continue
        minutes = "for" if about.minutes is None else f"{about.minutes:g} minutes on"
        more = [f"{minutes} {about.machine}" if about.machine else "", about.result or ""]
        yield Thing(name, about.what, "; ".join(filter(None, more)), columns)


def _datasets() -> Iterator[Thing]:
    for path in sorted((RECIPES / "datasets").glob("*.yaml")):
        described = parse_strict(DatasetFile, read_yaml(path), source=str(path))
        root = root_of(path, described.root)
        classes = [info.id for info in described.classes or ()]
        columns = (_count_classes(classes, described.background), described.layout, "yes" if root.is_dir() else "no")
        yield Thing(path.stem, _headline(path), f"looked for in {root}", columns)


def _models() -> Iterator[Thing]:
    """From the source of `imptool.models`, which imports torch when it is imported."""
    tree = ast.parse(read_text(Path(__file__).parent / "models" / "__init__.py", TEXT_FILE))
    docs = {each.name: ast.get_docstring(each) for each in tree.body if isinstance(each, ast.FunctionDef)}
    for each in tree.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.value, ast.Dict) and ast.unparse(each.target) == "MODELS":
            for name, row in zip(each.value.keys, each.value.values, strict=True):
                assert isinstance(name, ast.Constant)
                assert isinstance(name.value, str)
                assert isinstance(row, ast.Call)
                yield Thing(name.value, _first_paragraph(docs[ast.unparse(row.args[0])]))


def _weights() -> Iterator[Thing]:
    for name, path in shipped_weights().items():
        if not path.is_file():
            yield Thing(name, f"{path} is missing: install imptool again", columns=("", "", ""))
            continue
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["imptool"])
        classes = _count_classes([row["id"] for row in about["labels"]["classes"]], about["labels"]["background"])
        columns = (classes, f"{path.stat().st_size / 1e6:.1f}", about["version"])
        yield Thing(name, _trained_by(about), columns=columns)


def _trained_by(about: dict[str, Any]) -> str:
    """The model of a file of weights, and the recipe that comes with imptool by which it was trained, if one of them is it."""
    recipe = Recipe.model_validate(about["recipe"])
    same = next((f"the recipe {name}" for name in recipe_names() if load_recipe(name).trains_like(recipe)), "another recipe")
    return f"{about['model']} on {recipe.dataset}, trained by {same}"


def _layouts() -> Iterator[Thing]:
    for name, layout in LAYOUTS.items():
        words = _first_paragraph(inspect.getmodule(layout.find_items).__doc__)
        yield Thing(name, words.removeprefix(f"`{name}`: "))


def _ablations() -> Iterator[Thing]:
    for path in sorted((RECIPES / "ablations").glob("*.yaml")):
        values = read_yaml(path)
        columns = (values["recipe"], str(len(values["cells"])), str(len(values["seeds"])))
        yield Thing(path.stem, _headline(path), columns=columns)


def _first_paragraph(docstring: str | None) -> str:
    return " ".join((docstring or "").partition("\n\n")[0].split())


def _headline(path: Path) -> str:
    """The comment that a YAML begins with, up to its first full stop or colon."""
    comment = re.match(r"(#.*\n)*", read_text(path, TEXT_FILE))
    words = " ".join(comment.group().replace("#", " ").split()) if comment else ""
    return re.split(r"[.:](?: |$)", words)[0]


def _count_classes(ids: Sequence[int], background: int | None) -> str:
    return f"{len(ids) - 1} + background" if background in ids else str(len(ids))


KINDS = {
    "recipes": Kind("imptool train NAME, imptool recipe NAME", ("dataset", "model", "input px"), _recipes),
    "datasets": Kind("imptool convert-instances NAME", ("classes", "layout", "there now"), _datasets),
    "models": Kind("imptool train RECIPE -o model.name=NAME", (), _models),
    "weights": Kind("imptool predict IMAGES --weights NAME", ("classes", "MB", "version"), _weights),
    "layouts": Kind("layout: NAME in a dataset YAML, docs/layouts.md", (), _layouts),
    "ablations": Kind("imptool ablate NAME", ("recipe", "cells", "seeds"), _ablations),
}
