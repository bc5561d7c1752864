"""What every reader and writer of files shares: the user's error, files of a sane size, strict YAML, whole-file writing."""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import json
import math
import os
import re
import reprlib
import secrets
import stat
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeGuard, TypeVar

try:
    import fcntl
except ImportError:  # Windows, where a folder is not held
    fcntl = None  # type: ignore[assignment]

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

LOCK = ".imptool.lock"
_UNFINISHED = ".unfinished-"
RECIPES = Path(__file__).parent / "recipes"  # travels in the wheel; the checkout's recipes/ is a link to it
RUNS = Path("runs")
SHIPPED = Path(__file__).parent / "weights"  # travels in the wheel; a file is known by its name without .safetensors
DEFAULT_WEIGHTS = "ccp-lite"


class InputError(Exception):
    """A user's mistake, told in one line: the file, what is wrong with it and what to do. The command line exits with 2.

    `kind` sorts it among the problems that `imptool inspect` tells, where it is known better than where it was met.
    """

    def __init__(self, line: str, *, kind: str = "") -> None:
        super().__init__(line)
        self.kind = kind


class Held(InputError):
    """Another process is at work in a folder."""


class Limit(NamedTuple):
    """The largest file of a kind, far above any use, and the way out: a wrong file is told before it fills the memory."""

    mebibytes: int
    way_out: str


# By what reading takes. YAML: seconds and a hundred times its size in memory for a MiB; JSON: ten times its size; a picture, a
# MAT-file and a journal are read in pieces; tensors are needed whole.
YAML_FILE = Limit(4, "a recipe or description has some KiB: name another file")
TEXT_FILE = Limit(256, "a list has a short line for each class or image: name another file")
JSON_FILE = Limit(8192, "split it into several files")
PICTURE_FILE = Limit(4096, "save it in a compressed format")
MAT_FILE = Limit(1024, "save the label map alone, compressed (-v7)")
COUNTS_FILE = Limit(8192, "evaluate again, in parts")
TENSORS_FILE = Limit(65536, "name a file of weights")
JOURNAL_FILE = Limit(65536, "begin again with --force")

_NOT_REGULAR = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}


@contextmanager
def open_regular(path: Path, limit: Limit) -> Iterator[BufferedReader]:
    """Open a regular file of a sane size for reading; a pipe would be waited for, and a device may have no end.

    What is asked is the opened file: between a look at a path and its opening there may be another one.

    Raises:
        InputError: it is a folder, pipe, device or socket, or larger than `limit`.
        OSError: it is missing or may not be read.
    """
    try:
        file = open(path, "rb", opener=_open_now)  # noqa: SIM115
    except OSError as error:
        kind = {errno.EISDIR: "a folder", errno.ENXIO: "a socket or device"}.get(error.errno or 0)
        if kind:
            raise InputError(f"{path} is no regular file but {kind}: name a file") from error
        raise
    with file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            kind = _NOT_REGULAR.get(stat.S_IFMT(about.st_mode), "something else")
            raise InputError(f"{path} is no regular file but {kind}: name a file")
        if about.st_size > limit.mebibytes * 2**20:
            size = f"{about.st_size / 2**20:,.0f} MiB, and at most {limit.mebibytes:,} MiB are read"
            raise InputError(f"{path} is too large ({size}): {limit.way_out}")
        yield file


def _open_now(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else opening a pipe waits for its writer


def read_bytes(path: Path, limit: Limit) -> bytes:
    """All of a file; raises as `open_regular`."""
    with open_regular(path, limit) as file:
        return file.read()


def sha256_of(path: Path, limit: Limit) -> str:
    """The sha256 of a file, in hexadecimal; raises as `open_regular`."""
    with open_regular(path, limit) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path, limit: Limit) -> str:
    """All of a file of UTF-8 text, without a byte order mark; UnicodeDecodeError for another text, else as `open_regular`."""
    return read_bytes(path, limit).decode("utf-8-sig")


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text that can be written: half of a surrogate pair, which JSON and YAML can spell, cannot."""
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


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


def check_file_name(name: str) -> str:
    """A name that may become part of a file's name; ValueError for any other."""
    if not name or name.startswith(".") or not set('/\\\0*?[]"<>|:').isdisjoint(name):
        raise ValueError(
            f"'{name}' becomes part of a file's name: write it without any of / \\ * ? [ ] < > | : \" or a leading dot"
        )
    return name


FileName = Annotated[str, AfterValidator(check_file_name)]
"""A name from a YAML that becomes part of a file's name; names from files are never trusted as paths."""

StrictModel = TypeVar("StrictModel", bound=Strict)
Element = TypeVar("Element")
Value = TypeVar("Value")


def find_yaml(source: str, shipped: Path) -> Path | None:
    """A YAML by its path, else one that comes with imptool: `name`, or `recipes/.../name.yaml` outside a checkout."""
    path = Path(source)
    if path.exists() and not path.is_dir():
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
    """YAML with the numbers that people mean, as in YAML 1.2; and PyYAML keeps the last of two equal keys in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        keys = Counter(key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in keys.items() if count > 1]
        if twice:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the key '{twice[0]}' is there twice")
        return super().construct_mapping(node, deep)

    def construct_document(self, node: yaml.Node) -> Any:
        if _count_values(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {_MOST_VALUES:,} values, or one stands for itself")
        return super().construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
            # PyYAML takes the text behind a tag for what the tag says: !!int "", !!timestamp x.
            place, kind = node.start_mark.line + 1, node.tag.rpartition(":")[2]
            raise yaml.YAMLError(f"line {place}: {reprlib.repr(node.value)} is not of the type {kind}") from error


_MOST_VALUES = 1_000_000  # of a YAML with all its aliases written out: 31 lines can stand for 2^31


def _count_values(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a YAML node stands for, its aliases written out; infinitely many where one stands for itself.

    Raises:
        yaml.YAMLError: a text in it cannot be written.
    """
    if isinstance(node, yaml.ScalarNode):
        if not is_text(node.value):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {reprlib.repr(node.value)} holds half a character")
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        pairs = isinstance(node, yaml.MappingNode)
        inner = (each for pair in node.value for each in pair) if pairs else iter(node.value)
        known[id(node)] = 1 + sum(_count_values(each, known) for each in inner)
    return known[id(node)]


class _Dumper(yaml.SafeDumper):
    """Quotes a text that the loader would take for a number."""


# YAML 1.1 takes 1e-3 for text, 1:30 for 90 and 010 for 8. Here the first is a number; the others are text, which a field for
# numbers refuses and a name keeps. The dumper quotes texts that either version takes for numbers.
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_WHOLE = r"(0|[1-9][0-9_]*)"
for _tag, _number in (
    (_INT, rf"[-+]?({_WHOLE}|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    (_FLOAT, rf"[-+]?({_WHOLE}\.[0-9_]*|\.[0-9][0-9_]*|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"),
    (_FLOAT, r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
):
    for _yaml in (_Loader, _Dumper):
        _yaml.add_implicit_resolver(_tag, re.compile(_number), list("-+.0123456789"))


def parse_yaml(text: str) -> Any:
    """Plain values from YAML text; yaml.YAMLError when it is none."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (OverflowError, ValueError) as error:  # a character beyond Unicode, such as "\\UFFFFFFFF"
        raise yaml.YAMLError(one_line(error)) from error
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error


def dump_yaml(value: Any) -> str:
    """YAML text that `parse_yaml` reads back equal."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; InputError otherwise."""
    value = read_any_yaml(path)
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold 'key: value' lines, found {type(value).__name__}")
    return value


def read_any_yaml(path: Path) -> Any:
    """What a YAML file holds; InputError where it is none, or cannot be read."""
    try:
        return parse_yaml(read_text(path, YAML_FILE))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not valid YAML: {one_line(error)}") from error


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
        if first["type"] == "string_type" and not isinstance(first["input"], list | dict):
            message += ": write it in quotes"  # no, null, 1.10 and 2026-01-31 are no texts to YAML
        raise InputError(f"{source}: {place + ': ' if place else ''}{message}") from error


def dump_yaml_inline(value: Any) -> str:
    """The same on one line, as it stands behind a key: `null`, `[1, 2]`."""
    return yaml.dump([value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True, width=math.inf)[1:-2]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, remove it when it does not.

    A crash leaves the old file or none, never half a file. The temporary name keeps the suffix, from which some writers
    take the format. A link named `path` is replaced, not followed.

    Raises:
        OSError: with the name of `path`, where the writer gave none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_UNFINISHED}{secrets.token_hex(4)}{path.suffix}"
    try:
        # The system applies the umask: to read it, a process has to change it, and its threads would see that.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is not None and (error.filename is None or _UNFINISHED in str(error.filename)):
            error.filename, error.filename2 = str(path), None
        raise


def is_unfinished(name: str) -> bool:
    """Whether a file's name is one that `whole_file` gives: a process that was killed leaves it."""
    return re.fullmatch(rf"{re.escape(_UNFINISHED)}\w{{8}}(\..*)?", name) is not None


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write JSON with sorted keys, so that two runs write equal bytes. NaN is refused: JSON has none."""
    separators = (",", ": " if indent else ":")
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, sort_keys=True, indent=indent, allow_nan=False, separators=separators)
        file.write("\n")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes. It is made where it is missing, and removed if it is still empty afterwards.

    The system lets go of it when we end, however we end.

    Raises:
        Held: another process holds it.
        InputError: it is no folder, or it cannot be written to.
    """
    descriptor, made = _take_lock(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            if _stands_for(folder / LOCK, descriptor):  # somebody may have removed it, or the folder
                (folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)
        with contextlib.suppress(OSError):  # it holds something, as it should
            for path in made:
                path.rmdir()


def _take_lock(folder: Path) -> tuple[int | None, list[Path]]:
    """A descriptor of the folder's locked file, and the folders that were made for it, the deepest first."""
    try:
        for _ in range(100):  # a folder that its maker has removed again, before there was a file in it, is made anew
            with contextlib.suppress(FileNotFoundError):
                made = [each for each in (folder, *folder.parents) if not each.exists()]
                folder.mkdir(parents=True, exist_ok=True)
                descriptor = _lock(folder / LOCK) if fcntl is not None else None
                if descriptor is not None or fcntl is None:
                    return descriptor, made
    except BlockingIOError as error:
        raise Held(f"another process is at work in {folder}: wait for it, or choose another --out") from error
    except OSError as error:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, not a folder: choose another --out") from error
        why = "it is a link, which is not followed" if (folder / LOCK).is_symlink() else error.strerror or error
        raise InputError(f"{error.filename or folder}: {why}; choose another --out") from error
    raise InputError(f"{folder} cannot be made: choose another --out")


def _lock(path: Path) -> int | None:
    """A descriptor of the file `path`, locked; None where the name has come to stand for another file, or for none.

    Whoever is inside holds a lock on the file that the name stands for. The holder removes that file at the end, before the
    lock goes. So a process that has opened it before may come to lock a file without a name, while a third one has made and
    locked a new file. Hence the look after locking. Two cannot pass it: one name stands for one file, one file has one holder,
    and nobody but its holder removes it.

    Raises:
        BlockingIOError: another process holds it.
        InputError: the file is somebody else's.
    """
    with contextlib.ExitStack() as opened:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        opened.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size:
            raise InputError(f"{path} is no lock of imptool: remove it, or choose another --out")
        if not _stands_for(path, descriptor):
            return None
        opened.pop_all()
        return descriptor


def _stands_for(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


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


def one_line(error: Exception) -> str:
    """What an error of a library says, as part of a line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def some(values: Iterable[object], most: int = 5) -> str:
    """Values in one line, at most so many, and how many more there are."""
    words = [str(value) for value in values]
    return ", ".join(words[:most]) + (f" and {len(words) - most:,} more" if len(words) > most else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """The part of an error line that helps with a misspelt name: "; did you mean 'x'?" or "; known: a, b, c"."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""
