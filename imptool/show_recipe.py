"""`imptool recipe`: a recipe with every key, and what each of them is; the words are those of `imptool.recipe`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from pydantic.fields import FieldInfo
from rich.console import Console

from imptool.files import InputError, Strict, dump_yaml_inline
from imptool.recipe import Recipe, load_recipe
from imptool.report.console import write_text

_WIDTH, _CODE = 100, 40  # columns of a line, and of its key and value, behind which the comment stands


def command(*, name: str | None, override: Sequence[str], console: Console) -> None:
    """`imptool recipe`, with its options: print `show_recipe` of a recipe as it is, for a file.

    Raises:
        InputError: no recipe is named; as `load_recipe`.
    """
    if name is None:
        raise InputError("imptool recipe NAME: say which one; imptool list recipes shows those that come with imptool")
    text = show_recipe(load_recipe(name, override))
    if not console.quiet:
        write_text(text)


def show_recipe(recipe: Recipe) -> str:
    """A recipe as YAML, defaults included, with a comment behind every key; `load_recipe` reads it back equal."""
    return "\n".join(_section(recipe, "")) + "\n"


def describe(field: FieldInfo) -> str:
    """What a key is, in a line: its own words, or of a section the first paragraph of its class."""
    return field.description or " ".join((field.annotation.__doc__ or "").partition("\n\n")[0].split())


def _section(section: Strict, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        key, comment = f"{indent}{field.alias or name}:", describe(field)
        if isinstance(value, Strict):
            yield from _with_comment(key, comment)
            yield from _section(value, indent + "  ")
        elif isinstance(value, dict):  # the stages, whose names are the recipe's own
            yield from _with_comment(key, comment)
            for inner, stage in value.items():
                yield f"{indent}  {dump_yaml_inline(inner)}:"
                yield from _section(stage, indent + "    ")
        else:
            yield from _with_comment(f"{key} {dump_yaml_inline(value)}", comment)


def _with_comment(code: str, comment: str) -> Iterator[str]:
    """A key with its value, and the comment behind it, in as many lines as it takes; above a long one."""
    if len(code) >= _CODE:
        indent = code[: len(code) - len(code.lstrip())] + "# "
        yield from textwrap.wrap(comment, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        yield code
        return
    for left, right in zip_longest([code], textwrap.wrap(comment, _WIDTH - _CODE - 2, break_on_hyphens=False), fillvalue=""):
        yield f"{left:<{_CODE}}# {right}"
