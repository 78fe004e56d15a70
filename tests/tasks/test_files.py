import os
import re
from pathlib import Path

import pytest

from cdm_core.errors import InvalidInputError
from tasks.files import PARTIAL_PATTERN, check_writable, write_atomically, write_output


def test_a_file_is_made_with_its_folder_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_partial_file_that_a_crash_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".file.partial").write_bytes(b"half of an older and longer content")
    write_atomically(tmp_path / "file", b"two")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"two"]
    assert not list(tmp_path.glob(PARTIAL_PATTERN))


def test_what_a_person_named_is_written_where_its_links_lead(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "file")
    write_output(tmp_path / "link", b"one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder" / "file").read_bytes() == b"one"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is a folder"),
        ("folder", "is a folder"),
        ("file/below", ".*/file is not a folder"),
        ("file/far/below", ".*/file is not a folder"),
        ("pipe", "is not a file"),
        ("loop", "its links lead nowhere"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_cannot_become_a_file_is_refused_and_nothing_is_left(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    for refuse in (check_writable, lambda path: write_output(path, b"content")):
        with pytest.raises(InvalidInputError, match=f"^{re.escape(str(tmp_path / name))}: can't be written: {problem}$"):
            refuse(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_may_not_be_written_to_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InvalidInputError, match=rf"out: can't be written: {tmp_path} can't be written to$"):
        check_writable(tmp_path / "out")


def test_a_write_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"^.*: can't be written: File name too long$"):
        write_output(tmp_path / ("x" * 250), b"content")  # the partial file's name is longer
    assert list(tmp_path.iterdir()) == []
