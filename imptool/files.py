"""What every reader and writer of files shares: the user's error, strict YAML, whole-file writing."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import reprlib
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Annotated, Any, TypeVar

try:
    import fcntl
except ImportError:  # Windows, where a folder is not held
    fcntl = None  # type: ignore[assignment]

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

_UNFINISHED = ".unfinished-"
RECIPES = Path(__file__).parent / "recipes"  # travels in the wheel; the checkout's recipes/ is a link to it
SHIPPED = Path(__file__).parent / "weights"  # travels in the wheel; a file is known by its name without .safetensors
DEFAULT_WEIGHTS = "ccp-lite"


class InputError(Exception):
    """A user's mistake, told in one line: the file, what is wrong with it and what to do. The command line exits with 2.

    `kind` sorts it among the problems that `imptool inspect` tells, where it is known better than where it was met.
    """

    def __init__(self, line: str, *, kind: str = "") -> None:
        super().__init__(line)
        self.kind = kind


class Strict(BaseModel):
    """The base of everything that is read from YAML: an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in value:
                if key not in known:
                    raise ValueError(f"unknown key '{key}'{nearest(str(key), known)}")
        return value


def _check_file_name(name: str) -> str:
    if not name or name.startswith(".") or not set('/\\\0*?[]"<>|:').isdisjoint(name):
        raise ValueError(
            f"'{name}' becomes part of a file's name: write it without any of / \\ * ? [ ] < > | : \" or a leading dot"
        )
    return name


FileName = Annotated[str, AfterValidator(_check_file_name)]
"""A name from a YAML that becomes part of a file's name; names from files are never trusted as paths."""

StrictModel = TypeVar("StrictModel", bound=Strict)
Element = TypeVar("Element")
Value = TypeVar("Value")


def find_yaml(source: str, shipped: Path) -> Path | None:
    """A YAML by its path, else one that comes with imptool: `name`, or `recipes/.../name.yaml` outside a checkout."""
    path = Path(source)
    if path.is_file():
        return path
    beneath = (
        RECIPES / path.relative_to("recipes")
        if path.parts[:1] == ("recipes",)
        else shipped / f"{source.removesuffix('.yaml')}.yaml"
    )
    return beneath if ".." not in path.parts and beneath.is_file() else None


def shipped_weights() -> dict[str, Path]:
    """The weights that come with imptool: name -> file. The default ones are always known, also where their file is missing."""
    names = {DEFAULT_WEIGHTS, *(path.stem for path in SHIPPED.glob("*.safetensors"))}
    return {name: SHIPPED / f"{name}.safetensors" for name in sorted(names)}


def find_shipped_weights(name: str) -> Path | None:
    """The file of weights that come with imptool; None for a name that is not known, InputError where the file is missing."""
    path = shipped_weights().get(name)
    if path is not None and not path.is_file():
        raise InputError(f"{name}: {path} is missing: this installation of imptool is damaged, install it again")
    return path


def find_weights(source: str, *, missing: str) -> Path:
    """A path that exists, else the file of weights that come with imptool under this name.

    Raises:
        InputError: neither; the line begins with `missing`.
    """
    if Path(source).exists():
        return Path(source)
    path = find_shipped_weights(source)
    if path is None:
        raise InputError(
            f"{missing}, and no weights of that name come with imptool{nearest(Path(source).stem, shipped_weights())}"
        )
    return path


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3 for text, where people mean a number; and PyYAML keeps the last of two equal keys in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the key '{twice[0]}' is there twice")
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that the loader would take for a number."""


for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def parse_yaml(text: str) -> Any:
    """Plain values from YAML text; yaml.YAMLError when it is none."""
    try:
        return yaml.load(text, Loader=_Loader)
    except ValueError as error:  # 2026-02-30 looks like a date
        raise yaml.YAMLError(str(error)) from error
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


def dump_yaml(value: Any) -> str:
    """YAML text that `parse_yaml` reads back equal."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; InputError otherwise."""
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold 'key: value' lines, found {type(value).__name__}")
    return value


def parse_strict(model: type[StrictModel], value: Any, *, source: str) -> StrictModel:
    """Validate plain values as `model`; InputError with the first fault in one line: source, key, rule."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        message = re.sub(r"^Value error, ", "", first["msg"])
        if first["type"] not in ("value_error", "missing"):
            message += f", found {reprlib.repr(first['input'])}"
        raise InputError(f"{source}: {place + ': ' if place else ''}{message}") from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    A crash leaves the old file or none, never half a file. The temporary name keeps the suffix, from which some writers
    take the format.

    Raises:
        OSError: with the name of `path`, where the writer gave none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path.parent.absolute())
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=_UNFINISHED, suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files private; a result is an ordinary file
        temporary.replace(path)
    except OSError as error:
        if error.errno is not None and (error.filename is None or _UNFINISHED in str(error.filename)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@cache
def _remove_stale(folder: Path) -> None:
    """Remove what a killed process left unfinished in a folder; once, as a listing for each file of many would be slow."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - 3600:  # a younger one may still be written
                path.unlink()


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write JSON with sorted keys, so that two runs write equal bytes. NaN is refused: JSON has none."""
    separators = (",", ": " if indent else ":")
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, sort_keys=True, indent=indent, allow_nan=False, separators=separators)
        file.write("\n")


def check_free(path: Path, *, force: bool | None) -> None:
    """InputError when an output folder holds results and `force` was not asked for; None: there is no such switch."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a folder: choose another --out")
    if path.is_dir() and any(path.iterdir()) and not force:
        way_out = "choose another --out" if force is None else "add --force, or choose another --out"
        raise InputError(f"{path} already holds results: {way_out}")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes; InputError when one of them holds it. The system lets go of it when we end."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with path.open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another process is at work in {folder}: wait for it, or choose another --out") from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def read_ahead(
    read: Callable[[Element], Value], elements: Iterable[Element], *, workers: int
) -> Iterator[tuple[Element, Value | None, str]]:
    """Read elements in threads, a few ahead and in order: (element, value, "") each, or (element, None, problem).

    Without workers they are read when their turn comes: of work that is all reading, that is the least.

    The problem is an InputError's line: one bad file among many does not end a loop.
    """

    def attempt(element: Element) -> tuple[Element, Value | None, str]:
        try:
            return element, read(element), ""
        except InputError as error:
            return element, None, str(error)

    if workers == 0:
        yield from map(attempt, elements)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[tuple[Element, Value | None, str]]] = deque()
        for element in elements:
            waiting.append(pool.submit(attempt, element))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def map_ahead(work: Callable[[Element], Value], elements: Sequence[Element], *, workers: int) -> Iterator[Value]:
    """Work on elements in processes, a few ahead and in order; with fewer than two workers, in this one.

    `work` is pickled; a process takes a second to start.
    """
    if workers < 2:
        yield from map(work, elements)
        return
    pool = process_pool(min(workers, max(len(elements), 1)))
    try:
        waiting: deque[Future[Value]] = deque()
        for element in elements:
            waiting.append(pool.submit(work, element))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Processes for work that is pickled; spawned, not forked: a fork of a process with threads (OpenCV, torch) may hang."""
    return ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)


def _start_worker() -> None:
    import cv2  # here, as `imptool --help` imports this file

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes; the first one ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # a process for every core is enough


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()  # killed, it cannot end its workers itself
        os._exit(1)


def one_line(error: Exception) -> str:
    """What an error of a library says, as part of a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """The part of an error line that helps with a misspelt name: "; did you mean 'x'?" or "; known: a, b, c"."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""
