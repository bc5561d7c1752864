"""Where text leaves: names steer no terminal, odd outputs and surroundings end no work, and progress fits its line."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from conftest import PROJECT, write_folder
from rich.console import Console

from imptool.report.progress import ProgressBar, say

Imptool = Callable[..., Result]
FULL = Path("/dev/full")

# ESC and BEL (a title for the terminal), DEL, a C1 control sequence, and what turns the text around
STEERING = "\x1b]0;title\x07 \x7f \x9b31m \u202e \u2066"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def run_apart(*words: str, folder: Path, redirect: str = "", **environment: str | None) -> subprocess.CompletedProcess[str]:
    """imptool in a process of its own, with a shell's redirections."""
    given = {**os.environ, "PYTHONPATH": os.pathsep.join((str(PROJECT), str(PROJECT / "kernels"))), **environment}
    return subprocess.run(
        ["bash", "-c", f'exec "$@" {redirect}', "bash", sys.executable, "-m", "imptool", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={key: value for key, value in given.items() if value is not None},
    )


@pytest.fixture
def steering(workplace: Path) -> Path:
    """A dataset whose names of classes, groups, splits and itself hold what steers a terminal, and rich's markup."""
    coat = STEERING.encode("unicode_escape").decode()
    (workplace / "odd.yaml").write_text(f"""
layout: folder
root: drawn
name: "odd\\a"
classes:
  - {{id: 0, name: background}}
  - {{id: 1, name: "coat {coat}", group: "[red]a[/]"}}
  - {{id: 2, name: "hat\\nx"}}
random_splits: {{seed: 1, sizes: {{"val\\u202e": 2}}, rest: train}}
""")
    return workplace


@pytest.mark.parametrize("words", [("convert-instances",), ("inspect", "--workers", "0")])
def test_names_from_files_are_shown_as_text_and_not_as_markup(steering: Path, imptool: Imptool, words: tuple[str, ...]) -> None:
    text = imptool(words[0], "odd.yaml", *words[1:]).output
    assert "coat" in text
    assert "[red]a[/]" in text
    assert not CONTROL.search(text)
    (row,) = (line for line in text.splitlines() if "hat" in line and "│" in line)
    assert "x" in row  # the line break in the name breaks no line


def test_errors_show_what_they_name_as_text(workplace: Path, imptool: Imptool) -> None:
    (workplace / "odd.yaml").write_text('layout: "a\\e[31mb\\nc"\nroot: drawn\n')
    for words in (("convert-instances", "odd.yaml"), ("eval", "--weights", f"x{STEERING}"), ("train", f"x\n{STEERING}")):
        result = imptool(*words)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert not CONTROL.search(result.output)


def test_the_colours_of_a_terminal_pass_where_those_of_names_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from imptool.report.console import Console as PlainConsole

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    console = PlainConsole()
    console.print("a\x1b[31mb [red]c[/]", style="bold")
    say(console, "d\ne")
    assert sys.stdout.getvalue() == "\x1b[1ma�[31mb [red]c[/]\x1b[0m\nd�e\n"  # type: ignore[attr-defined]


def test_a_closed_output_ends_no_work_and_gets_into_no_file(workplace: Path) -> None:
    result = run_apart("convert-instances", "drawn.yaml", "--workers", "0", folder=workplace, redirect=">&-")
    assert (result.returncode, result.stderr) == (0, "")
    closed = sorted((path.name, path.read_bytes()) for path in workplace.glob("instances/drawn/*.json"))
    again = run_apart(
        "convert-instances", "drawn.yaml", "--workers", "0", "--out", "again", folder=workplace, redirect="0<&- 2>&- | head -0"
    )
    assert again.returncode == 0
    assert sorted((path.name, path.read_bytes()) for path in workplace.glob("again/*.json")) == closed
    assert [name for name, _ in closed] == ["train.json", "val.json"]


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", [("--help",), ("--version",), ("predict", "--help"), ("convert-instances", "drawn.yaml")])
def test_a_full_disk_behind_the_output_is_told_in_one_line(workplace: Path, words: tuple[str, ...]) -> None:
    result = run_apart(*words, folder=workplace, redirect="> /dev/full")
    assert result.returncode == 2
    assert result.stderr == "Error: standard output cannot be written: No space left on device\n"
    assert len(list(workplace.glob("instances/drawn/*.json"))) == 2 * (words[0] == "convert-instances")
    assert run_apart(*words, "--nonsense", folder=workplace, redirect="2> /dev/full").returncode == 2 or words[0].startswith(
        "-"
    )


def test_a_removed_current_folder_is_told_in_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = (
        f"import os; os.rmdir({str(gone)!r}); from imptool.cli import main; main(['predict', 'a.jpg'], prog_name='imptool')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(PROJECT), str(PROJECT / "kernels")))}
    result = subprocess.run([sys.executable, "-c", script], cwd=gone, capture_output=True, text=True, env=environment)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert "the current folder does not exist any more" in result.stderr


def test_surroundings_that_say_nothing_change_nothing(workplace: Path) -> None:
    odd = {"HOME": None, "TERM": None, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "1"}
    write_folder(workplace / "größe")
    result = run_apart("inspect", "größe", "--out", "seen", "--workers", "0", folder=workplace, **odd, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    assert "gr\\udcc3" in result.stdout
    assert (workplace / "seen" / "classes.csv").is_file()


def test_surroundings_that_cannot_be_worked_in_are_told_in_one_line(workplace: Path) -> None:
    (workplace / "named.yaml").write_text("layout: folder\nroot: drawn\nname: größe\n", encoding="utf-8")
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for words, odd, told in (
        (("convert-instances", "named.yaml", "--workers", "0"), ascii_alone, "LC_ALL=C.UTF-8"),
        (("inspect", "drawn.yaml", "--out", "seen"), {"MPLBACKEND": "foo"}, "matplotlib cannot be imported: "),
        (("convert-instances", "drawn.yaml", "--workers", "0"), {"NUMBA_NUM_THREADS": "0"}, "numba cannot be imported: "),
    ):
        refused = run_apart(*words, folder=workplace, **odd)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1), refused.stderr
        assert told in refused.stderr


def test_compiled_code_has_a_folder_of_its_own_where_neither_home_nor_installation_can_be_written(tmp_path: Path) -> None:
    script = (
        "import os; os.access = lambda *_: False\n"  # as of somebody with no right to either; root has them all
        "import imptool, numba\n"
        "folder = numba.config.CACHE_DIR; print(folder, oct(os.stat(folder).st_mode & 0o777))"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HOME": "/nonexistent", "PYTHONPATH": str(PROJECT)}
    environment.pop("NUMBA_CACHE_DIR", None)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    folder, mode = result.stdout.split()
    assert Path(folder).parent == tmp_path
    assert mode == "0o700"  # what others could write there would be run
    assert list(tmp_path.iterdir()) == []


def test_only_the_first_use_says_that_it_compiles_and_only_on_standard_error(workplace: Path) -> None:
    script = "from imptool.report import progress; progress.COMPILING_PATIENCE = 0.0; from imptool.cli import main; main()"
    command = [sys.executable, "-c", script, "inspect", "drawn.yaml", "--json", "--workers", "0"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(workplace / "compiled"), "PYTHONPATH": str(PROJECT)}
    first, second = (subprocess.run(command, capture_output=True, text=True, env=environment, check=False) for _ in range(2))
    lines = [line for line in first.stderr.splitlines() if "compiling kernels for this machine" in line]
    assert len(lines) == 1, first.stderr
    assert "compiling" not in second.stderr
    assert first.stdout == second.stdout != ""


LONG_NOTE = (
    "loss 5.23 (rpn_objectness 0.69, rpn_box 0.05, classifier 0.51, box 0.10, mask 0.70, semantic 2.31)"
    "  3.2 images/s  canvas 100%"
)


@pytest.mark.parametrize("width", [40, 60, 80, 110, 160])
def test_position_and_time_left_stay_at_every_width_and_losses_go_first(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm"})
    with ProgressBar(console, "detector", total=2500) as bar:
        bar.update(1250, LONG_NOTE)
        bar.began -= 3600
        bar.update(1250, LONG_NOTE)
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    line = re.sub(r"\x1b\[[0-?]*[@-~]", "", drawn).splitlines()[-1].rpartition("\r")[2]
    assert len(line) <= width
    assert line.startswith("detector ")
    assert " 1250/2500 " in line
    assert line.endswith(" 1:00:00 left")  # half is done, after an hour
    assert ("loss 5.23" in line) == (width >= 80)
    assert ("canvas 100%" in line) == (width >= 200)


def test_position_and_time_left_are_printed_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imptool.report.progress._SECONDS_BETWEEN_LINES", 0.0)
    for options in ({}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}):
        console = Console(file=io.StringIO(), width=40, **options)
        with ProgressBar(console, "full", total=20, start=10) as bar:
            bar.began -= 50
            bar.update(15, LONG_NOTE)
            bar.update(20, LONG_NOTE)
        first, last = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert first == f"full 15/20  {LONG_NOTE}  0:00:50 left"  # five took 50 s
        assert last == f"full 20/20  {LONG_NOTE}  took 0:00:50"
