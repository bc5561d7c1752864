"""Files written whole, and folders held: what a crash, a full disk, a kill or another process does to them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from pathlib import Path
from typing import Any

import pytest

from imptool.data.output import results_folder
from imptool.files import LOCK, InputError, alone_in, whole_file, write_json


def test_what_a_killed_process_left_is_removed_by_the_next_one_in_the_folder(tmp_path: Path) -> None:
    ours = (".unfinished-0a1b2c3d.json", "labels/.unfinished-x1_y2_z3.png", "labels/deep/.unfinished-00000000")
    others = (".unfinished-note", "unfinished.json", ".hidden", ".lock", "labels/a.png", "others/.unfinished-0a1b2c3d")
    for name in (*ours, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with results_folder(tmp_path, lambda _: None, parts=["labels"]):
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*others, LOCK}


def test_a_lock_on_a_file_that_its_holder_has_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, first, second = fcntl.flock, contextlib.ExitStack(), contextlib.ExitStack()

    def late(descriptor: int, operation: int) -> None:  # between opening and locking, the first leaves and a second one enters
        monkeypatch.setattr(fcntl, "flock", lock)
        first.close()
        second.enter_context(alone_in(tmp_path))
        lock(descriptor, operation)

    first.enter_context(alone_in(tmp_path))
    monkeypatch.setattr(fcntl, "flock", late)
    with second, pytest.raises(InputError, match="another process is at work"), alone_in(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_its_maker_removes_on_our_way_in_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, opened = tmp_path / "deep/er", os.open

    def late(path: Any, *arguments: int) -> int:
        monkeypatch.setattr(os, "open", opened)
        folder.rmdir()
        folder.parent.rmdir()
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", late)
    with alone_in(folder):
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []  # nothing was put into it


@pytest.mark.parametrize("kind", ["text", "link", "folder", "pipe"])
def test_what_is_not_ours_under_the_name_of_the_lock_is_left_alone(tmp_path: Path, kind: str) -> None:
    path, elsewhere = tmp_path / "out" / LOCK, tmp_path / "elsewhere"
    path.parent.mkdir()
    elsewhere.write_text("precious")
    if kind == "text":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to(elsewhere)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(InputError, match=re.escape(str(path))), alone_in(tmp_path / "out"):
        pass
    assert elsewhere.read_text() == "precious"
    assert os.path.lexists(path)
    assert kind != "text" or path.read_text() == "mine"


def test_a_file_called_lock_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".lock").symlink_to("precious")
    with alone_in(tmp_path):
        assert (tmp_path / "precious").read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "precious"}


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # the superuser is refused nothing
    with pytest.raises(InputError, match="Permission denied; choose another --out"), alone_in(tmp_path):
        pass


def test_files_have_the_mode_of_the_umask_which_nobody_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            patched.delattr(os, "umask")
            write_json(tmp_path / "a.json", 1)
    finally:
        assert os.umask(before) == 0o027
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a.json").symlink_to("precious")
    write_json(tmp_path / "a.json", 1)
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "a.json").is_symlink()


@pytest.mark.parametrize("raised", [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error")])
def test_an_error_of_the_disk_names_the_file_that_was_wanted(tmp_path: Path, raised: OSError) -> None:
    with pytest.raises(OSError) as caught, whole_file(tmp_path / "a.json"):  # noqa: PT011
        raise raised
    assert caught.value.filename == str(tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_too_long_is_told_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / f"{'x' * 300}.json"
    with pytest.raises(OSError, match="File name too long") as caught:
        write_json(path, 1)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
