"""Files written whole: what a crash, a full disk or a kill leaves behind."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from imptool.files import whole_file, write_json


def test_what_a_killed_process_left_is_removed_when_it_is_old_and_ours(tmp_path: Path) -> None:
    names = (".unfinished-aaaaaaaa.json", ".unfinished-bbbbbbbb.json", "unfinished.json", ".hidden")
    for name in names:
        (tmp_path / name).touch()
    for name in (names[0], *names[2:]):
        os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    write_json(tmp_path / "a.json", 1)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", *names[1:]}


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
