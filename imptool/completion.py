"""Completion by Tab: what the shell offers for an argument or option. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from imptool.files import RECIPES, RUNS, Strict, shipped_weights


def complete_names(kinds: Iterable[str], incomplete: str) -> list[str]:
    """The names of these kinds, of `FINDERS`, that begin so."""
    return sorted({name for kind in kinds for name in FINDERS[kind]() if name.startswith(incomplete)})


def complete_override(incomplete: str) -> list[str]:
    """Keys of a recipe that begin so, and after `model.name=` the models."""
    key, equals, value = incomplete.partition("=")
    if equals and key == "model.name":
        return [f"{key}={name}" for name in _models() if name.startswith(value)]
    return [f"{name}=" for name in _keys() if not equals and name.startswith(incomplete)]


def _keys() -> Iterator[str]:
    from imptool.recipe import Recipe

    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Strict):
            yield from (f"{name}.{key}" for key in section.model_fields)
        elif name != "stages":
            yield name


def _models() -> list[str]:
    from imptool.list_things import KINDS

    return [thing.name for thing in KINDS["models"].find()]


def _runs() -> list[str]:
    return sorted({str(path.parent) for path in RUNS.glob("*/*/recipe.yaml")})


def _yamls(folder: str) -> Callable[[], list[str]]:
    return lambda: [path.stem for path in (RECIPES / folder).glob("*.yaml")]


def _kinds() -> list[str]:
    from imptool.list_things import KINDS

    return list(KINDS)


FINDERS: dict[str, Callable[[], list[str]]] = {
    "recipes": _yamls(""),
    "datasets": _yamls("datasets"),
    "ablations": _yamls("ablations"),
    "weights": lambda: list(shipped_weights()),
    "runs": _runs,
    "kinds": _kinds,
}
