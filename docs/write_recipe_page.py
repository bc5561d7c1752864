"""Write docs/recipe.md, the page of all keys of a recipe, from `imptool.recipe`, where they are defined.

    python docs/write_recipe_page.py              # writes docs/recipe.md
    python docs/write_recipe_page.py other.md

A test compares the page with what this script gives.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic.fields import FieldInfo

from imptool.files import Strict, dump_yaml_inline
from imptool.recipe import About, Recipe, Stage
from imptool.show_recipe import describe

HEAD = """# The keys of a recipe

`imptool recipe ccp_lite` prints a recipe with all of them, `imptool list recipes` shows which recipes there are, and
[training](training.md) says what some of the settings are for. Change a value with `-o solver.lr=0.005`, or write a recipe of
your own:

```yaml
extends: ccp_lite.yaml        # a recipe beside this one, or one that comes with imptool; only what differs follows
dataset: shirts.yaml
solver: {lr: 0.0005}          # sections are merged key by key; stages and lists are given whole
```

This page is written by `python docs/write_recipe_page.py` from `imptool/recipe.py`.
"""


def recipe_page() -> str:
    """The page: a table for the keys of a recipe, and one for each of its sections."""
    sections = {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, Strict)
    }
    tables = [("Recipe", Recipe), *sections.items(), ("stages.NAME", Stage), ("about", About)]
    return "\n".join([HEAD, *("\n".join(_table(title, section)) for title, section in tables)])


def _table(title: str, section: type[Strict]) -> Iterator[str]:
    yield from (f"## `{title}`" if section is not Recipe else f"## {title}", "")
    yield from (inspect.cleandoc(section.__doc__ or ""), "", "| key | default | what it is |", "|---|---|---|")
    for name, field in section.model_fields.items():
        yield f"| `{field.alias or name}` | {_default(name, field)} | {describe(field)} |"
    yield ""


def _default(name: str, field: FieldInfo) -> str:
    """A key's default; of a section, which has one for each of its keys, where they stand."""
    if field.is_required():
        return "must be given"
    return f"[below](#{name})" if isinstance(field.default, Strict) else f"`{dump_yaml_inline(field.default)}`"


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("recipe.md")
    path.write_text(recipe_page(), encoding="utf-8")
