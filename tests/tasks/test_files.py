from pathlib import Path

import pytest

from tasks.files import PARTIAL_PATTERN, write_atomically


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
    assert [left.name for left in tmp_path.glob(PARTIAL_PATTERN)] == [".file.partial"]
    write_atomically(path, b"two")
    assert list(tmp_path.iterdir()) == [path]
