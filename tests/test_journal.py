"""Journals that were damaged: what is read is what was written, up to the damage, and `--resume` makes the rest again."""

from __future__ import annotations

import errno
import json
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from conftest import draw_pair, run_imptool, write_folder
from PIL import Image

from imptool.files import InputError
from imptool.journal import EntryFile

HEADER = {"of": "coats"}
ENTRIES = [[b"a 1\n"], [b"a 22\n", b"b 2\n"], [b"a 3\n"]]


def write_entries(path: Path, *, header: dict[str, str] = HEADER) -> bytes:
    file = EntryFile(path, header)
    for lines in ENTRIES:
        file.append(*lines)
    file.close()
    return path.read_bytes()


def read_entries(path: Path) -> list[list[bytes]]:
    return [lines for _, lines in EntryFile(path, HEADER).read(other="another's")]


def is_start(entries: list[list[bytes]]) -> bool:
    return entries == ENTRIES[: len(entries)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_entries(tmp_path / "file")
    assert read_entries(tmp_path / "file") == ENTRIES


def test_a_changed_byte_anywhere_ends_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = write_entries(path)
    ends = [place + 1 for place in range(len(whole)) if whole[place : place + 1] == b"\n"]
    seals = [end for start, end in zip([0, *ends], ends, strict=False) if whole[start : start + 1] == b'"']
    for place in range(len(whole)):
        for byte in {0, 10, 34, whole[place] ^ 1, whole[place] ^ 0x80} - {whole[place]}:
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            undamaged = max(sum(end <= place for end in seals) - 1, 0)  # without the header
            assert read_entries(path) == ENTRIES[:undamaged], (place, byte)


def test_what_is_cut_doubled_moved_or_zeroed_ends_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = write_entries(path)
    lines = whole.splitlines(keepends=True)
    for length in range(len(whole)):
        for data in (whole[:length], whole[:length] + bytes(len(whole) - length), whole + whole[length:]):
            path.write_bytes(data)
            assert is_start(read_entries(path))
    for first in range(len(lines)):
        for last in range(first + 1, len(lines) + 1):
            part, rest = lines[first:last], lines[:first] + lines[last:]
            for changed in (rest, lines[:last] + part + lines[last:], part + rest, rest + part):
                path.write_bytes(b"".join(changed))
                read = read_entries(path)
                assert is_start(read)
                assert len(read) < len(ENTRIES) or changed[: len(lines)] == lines


def test_a_line_without_end_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(write_entries(path) + bytes(5000))
    monkeypatch.setattr("imptool.journal._LONGEST", 1000)
    assert read_entries(path) == ENTRIES


def test_entries_of_another_file_are_not_taken(tmp_path: Path) -> None:
    ours, theirs = write_entries(tmp_path / "ours"), write_entries(tmp_path / "theirs", header={"of": "hats"})
    with pytest.raises(InputError, match="another's"):
        read_entries(tmp_path / "theirs")
    first = len(b"".join(ours.splitlines(keepends=True)[:2]))  # the header and its seal
    (tmp_path / "ours").write_bytes(ours[:first] + theirs[first:])
    assert read_entries(tmp_path / "ours") == []


def test_what_follows_damage_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = write_entries(path)
    path.write_bytes(whole.replace(b"b 2", b"b 3"))
    file = EntryFile(path, HEADER)
    assert [lines for _, lines in file.read(other="another's")] == ENTRIES[:1]
    for lines in ENTRIES[1:]:
        file.append(*lines)
    file.close()
    assert path.read_bytes() == whole


def test_an_entry_that_the_disk_did_not_take_is_none_and_the_next_one_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    whole = write_entries(path)
    path.write_bytes(whole[: whole.index(b"a 22")])
    file = EntryFile(path, HEADER)
    assert len(list(file.read(other="another's"))) == 1

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("imptool.journal._SYNC_EVERY", -1)
        patched.setattr("imptool.journal.os.fsync", full)
        with pytest.raises(OSError, match="No space") as caught:
            file.append(b"a lost one\n")
    assert caught.value.filename == str(path)
    for lines in ENTRIES[1:]:
        file.append(*lines)
    file.close()
    assert path.read_bytes() == whole


# --- what a stopped conversion and a prediction leave ---


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def put(files: dict[str, bytes], folder: Path) -> None:
    """Make a folder hold these files and no others."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.unlink()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, bytes]]:
    """What a conversion of 6 images, two a block, leaves in `made` when it is stopped before its result is written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("imptool.convert_instances._BLOCK", 2)
    write_folder(Path("set"))

    def stop(format_: str) -> dict[str, bytes]:
        def fail(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("imptool.convert_instances._write_result", fail)
            assert run_imptool("convert-instances", "set", "--format", format_, "--out", "made").exit_code == 130
        return files_in(Path("made"))

    return stop


def resume_conversion(format_: str) -> Result:
    return run_imptool("convert-instances", "set", "--format", format_, "--out", "made", "--resume", "--workers", "0")


def whole_conversion(format_: str) -> dict[str, bytes]:
    assert run_imptool("convert-instances", "set", "--format", format_, "--out", "made", "--force").exit_code == 0
    return files_in(Path("made"))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A changed byte, a zeroed, cut, doubled or moved part, as a disk, a power cut or a hand leaves it."""
    start = rng.randrange(len(data))
    end = min(start + rng.choice([1, 64, 4096]), len(data))
    lines = data.splitlines(keepends=True)
    line = rng.randrange(len(lines))
    other = [*lines[:line], *lines[line + 1 :]]
    other.insert(rng.randrange(len(other) + 1), lines[line])
    return rng.choice(
        [
            data[:start] + bytes([rng.randrange(256)]) + data[start + 1 :],
            data[:start] + bytes(end - start) + data[end:],
            data[:start],
            data[:start] + data[end:],
            data[:end] + data[start:],
            b"".join(lines[: line + 1] + lines[line:]),
            b"".join(lines[:line] + lines[line + 1 :]),
            b"".join(other),
            data[:start] + b"7" + data[start:],
        ]
    )


@pytest.mark.parametrize("format_", ["coco", "panoptic"])
def test_a_changed_figure_in_a_conversions_journal_is_made_again(
    stopped: Callable[[str], dict[str, bytes]], format_: str
) -> None:
    kept, whole = stopped(format_), whole_conversion(format_)
    (journal,) = [name for name in kept if name.endswith(".lines")]
    assert b'"area":' in kept[journal]
    put({**kept, journal: kept[journal].replace(b'"area":', b'"area":1', 1)}, Path("made"))
    result = resume_conversion(format_)
    assert result.exit_code == 0, result.output
    assert files_in(Path("made")) == whole


@pytest.mark.parametrize("damage", ["missing", "changed", "empty"])
def test_a_png_that_a_conversions_journal_tells_of_is_made_again_where_it_is_damaged(
    stopped: Callable[[str], dict[str, bytes]], damage: str
) -> None:
    kept, whole = stopped("panoptic"), whole_conversion("panoptic")
    name = "all/003.png"
    data = {"missing": {}, "empty": {name: b""}, "changed": {name: kept[name][:-20] + b"\0" + kept[name][-19:]}}[damage]
    put({**{other: kept[other] for other in kept if other != name}, **data}, Path("made"))
    result = resume_conversion("panoptic")
    assert "all: going on after 2 of 6" in result.stdout
    assert files_in(Path("made")) == whole


def sealed_anew(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A journal whose lines a hand has changed, with seals that fit."""
    made, crc = b"", 0
    for line in data.splitlines(keepends=True):
        own = b'"crc32:%08x"\n' % crc if line.startswith(b'"crc32:') else change(line)
        made, crc = made + own, zlib.crc32(own, crc)
    return made


@pytest.mark.parametrize("tally", [b"t[]", b"t{}", b't{"images":"2"}', b"tnull", b"t", b"\xff", b"t" + b"[" * 9])
def test_a_tally_that_is_sealed_and_none_is_made_again(stopped: Callable[[str], dict[str, bytes]], tally: bytes) -> None:
    kept, whole = stopped("coco"), whole_conversion("coco")
    (journal,) = kept
    changed = sealed_anew(kept[journal], lambda line: tally + b"\n" if line.startswith(b"t") else line)
    put({journal: changed}, Path("made"))
    result = resume_conversion("coco")
    assert result.exit_code == 0, result.output
    assert files_in(Path("made")) == whole


def test_force_begins_anew_whatever_stands_for_a_journal(stopped: Callable[[str], dict[str, bytes]]) -> None:
    (journal,) = stopped("coco")
    Path("made", journal).unlink()
    os.mkfifo(Path("made", journal))
    assert not whole_conversion("coco").keys() & {journal}


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["coco", "semantic"])
def test_no_damage_to_a_conversions_journal_changes_its_result(
    stopped: Callable[[str], dict[str, bytes]], format_: str
) -> None:
    kept, whole, rng = stopped(format_), whole_conversion(format_), random.Random(5)
    names = [name for name in kept if kept[name]]
    for turn in range(150):
        name = rng.choice(names)
        put({**kept, name: damaged(kept[name], rng)}, Path("made"))
        result = resume_conversion(format_)
        assert result.exit_code == 0 or (result.exit_code == 2 and len(result.stderr.splitlines()) == 1), (turn, result.output)
        assert result.exit_code == 2 or files_in(Path("made")) == whole, turn


@pytest.fixture
def predicted(run: Path) -> dict[str, bytes]:
    """What a prediction of 2 images leaves in `out`."""
    Path("photos").mkdir()
    for seed in range(2):
        Image.fromarray(draw_pair(seed)[0]).save(f"photos/{seed}.png")
    assert run_imptool("predict", "photos", "--out", "out", "--save", "all").exit_code == 0
    return files_in(Path("out"))


def resume_prediction() -> Result:
    return run_imptool("predict", "photos", "--out", "out", "--save", "all", "--resume", "--workers", "0")


@pytest.mark.parametrize("kind", ["labels/0.png", "overlays/0.jpg", "page/thumbnails/0.jpg", "cutouts/0/coat-1.png"])
def test_a_result_file_that_is_damaged_is_parsed_again(predicted: dict[str, bytes], kind: str) -> None:
    name = kind if kind in predicted else next(name for name in predicted if name.startswith("cutouts/0/"))
    data = predicted[name]
    for changed in (data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], bytes(len(data)), b""):
        put({**predicted, name: changed}, Path("out"))
        result = resume_prediction()
        assert "photos: 2 images, 1 of them done already" in result.stdout
        assert files_in(Path("out")) == predicted


def test_a_pipe_in_place_of_a_result_is_replaced(predicted: dict[str, bytes]) -> None:
    Path("out/labels/0.png").unlink()
    os.mkfifo("out/labels/0.png")
    result = resume_prediction()
    assert "photos: 2 images, 1 of them done already" in result.stdout
    assert files_in(Path("out")) == predicted


@pytest.mark.parametrize(
    "change", [(b'"files":', b'"flies":'), (b'"saved":[', b'"saved":1,"x":['), (b'{"classes', b'[{"classes')]
)
def test_a_record_that_is_sealed_and_none_is_parsed_again(predicted: dict[str, bytes], change: tuple[bytes, bytes]) -> None:
    changed = sealed_anew(predicted[".parsed.jsonl"], lambda line: line.replace(*change))
    assert changed != predicted[".parsed.jsonl"]
    put({**predicted, ".parsed.jsonl": changed}, Path("out"))
    result = resume_prediction()
    assert result.exit_code == 0, result.output
    assert files_in(Path("out")) == predicted


@pytest.mark.parametrize(
    "change",
    [
        (b'"classes":{', b'"classes":{"77":5,'),
        (b'"cutouts"', b'"cut0uts"'),
        (b'"score":', b'"score":1'),
        (b"}]", b":]"),
        (b"0.png", b"\\ud800"),
    ],
)
def test_a_changed_record_of_a_prediction_is_parsed_again(predicted: dict[str, bytes], change: tuple[bytes, bytes]) -> None:
    journal = predicted[".parsed.jsonl"]
    assert change[0] in journal
    put({**predicted, ".parsed.jsonl": journal.replace(*change, 1)}, Path("out"))
    result = resume_prediction()
    assert result.exit_code == 0, result.output
    assert files_in(Path("out")) == predicted


def test_a_prediction_of_another_version_is_refused_in_one_line(predicted: dict[str, bytes]) -> None:
    lines = predicted[".parsed.jsonl"].splitlines(keepends=True)
    header = json.dumps({**json.loads(lines[0]), "journal": 1}).encode() + b"\n"
    put({**predicted, ".parsed.jsonl": header + b'"crc32:%08x"\n' % zlib.crc32(header)}, Path("out"))
    result = resume_prediction()
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1)
    assert "of another version of imptool: add --force to replace them" in result.stderr


@pytest.mark.slow
def test_no_damage_to_a_predictions_journal_or_files_changes_its_results(predicted: dict[str, bytes]) -> None:
    rng = random.Random(7)
    for turn in range(40):
        name = ".parsed.jsonl" if turn % 2 else rng.choice([name for name in predicted if predicted[name]])
        put({**predicted, name: damaged(predicted[name], rng)}, Path("out"))
        result = resume_prediction()
        assert result.exit_code == 0 or (result.exit_code == 2 and len(result.stderr.splitlines()) == 1), (turn, result.output)
        assert result.exit_code == 2 or files_in(Path("out")) == predicted, (turn, name)
