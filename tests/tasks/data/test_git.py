import os
import subprocess
import time
from pathlib import Path

import pytest

from cdm_core.errors import StateError
from tasks.data import git
from tasks.data.git import STALE_SECONDS, read_blobs, run_git, write_git


def make_repository(root: Path) -> None:
    run_git(root, "init", "--quiet", "--initial-branch=main")
    (root / "file").write_text("1")
    run_git(root, "add", "file")
    run_git(root, "commit", "--quiet", "--message=One")


def test_commits_are_by_lethe_whatever_the_user_has_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text("[user]\nname = Anna\nemail = anna@example.org\n[commit]\ngpgsign = true\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Anna")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    (tmp_path / "ws").mkdir()
    make_repository(tmp_path / "ws")
    assert run_git(tmp_path / "ws", "log", "--format=%an <%ae> %cn <%ce>") == "Lethe <lethe@localhost> Lethe <lethe@localhost>\n"


def test_hooks_are_not_run(tmp_path: Path) -> None:
    make_repository(tmp_path)
    hook = tmp_path / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    run_git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=Two")
    assert run_git(tmp_path, "rev-list", "--count", "HEAD") == "2\n"


def test_failures_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_repository(tmp_path)
    with pytest.raises(StateError, match=r": git rev-parse: fatal: Needed a single revision$"):
        run_git(tmp_path, "rev-parse", "--verify", "nothing")
    (tmp_path / "file").write_text("2")
    with pytest.raises(StateError, match=r": git diff: exit code 1$"):
        run_git(tmp_path, "diff", "--quiet")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StateError, match=r"^git: not found; install it$"):
        run_git(tmp_path, "status")


def test_files_of_a_revision_are_read_together_and_as_they_are(tmp_path: Path) -> None:
    make_repository(tmp_path)
    contents = {"empty": "", "two": "1\r\n2", "Ünï": "codé\n\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode())
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "--quiet", "--message=Two")
    assert read_blobs(tmp_path, [f"HEAD:{name}" for name in contents]) == list(contents.values())
    assert read_blobs(tmp_path, ["HEAD:two", "HEAD~1:file", "HEAD:two"]) == ["1\r\n2", "1", "1\r\n2"]
    assert read_blobs(tmp_path, []) == []
    with pytest.raises(StateError, match=r": git cat-file: HEAD:nothing is missing$"):
        read_blobs(tmp_path, ["HEAD:two", "HEAD:nothing"])


@pytest.mark.parametrize("name", ["index.lock", "HEAD.lock", "refs/heads/main.lock"])
def test_a_lock_that_a_killed_git_left_is_freed_once_it_is_old(tmp_path: Path, name: str) -> None:
    make_repository(tmp_path)
    leave_lock(tmp_path, name, age=STALE_SECONDS + 1)
    (tmp_path / "file").write_text("2")
    write_git(tmp_path, "add", "file")
    write_git(tmp_path, "commit", "--quiet", "--message=Two")
    assert run_git(tmp_path, "rev-list", "--count", "HEAD") == "2\n"


def test_a_fresh_lock_is_waited_for_and_then_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_repository(tmp_path)
    lock = leave_lock(tmp_path, "index.lock", age=-60)
    monkeypatch.setattr(git, "STALE_SECONDS", 0.3)
    with pytest.raises(StateError, match=r": git: another git command has locked \.git/index\.lock; try again when it has ended$"):
        write_git(tmp_path, "add", "file")
    assert lock.exists()
    monkeypatch.setattr(git.time, "sleep", lambda seconds: lock.unlink())
    write_git(tmp_path, "add", "file")


def test_the_lock_of_a_git_that_is_at_work_in_the_workspace_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_repository(tmp_path)
    lock = leave_lock(tmp_path, "index.lock", age=STALE_SECONDS + 1)
    monkeypatch.setattr(git, "STALE_SECONDS", 0.3)
    with subprocess.Popen(["git", "cat-file", "--batch"], cwd=tmp_path, stdin=subprocess.PIPE) as user:
        with pytest.raises(StateError, match="another git command has locked"):
            write_git(tmp_path, "add", "file")
        assert lock.exists()
        user.communicate()
    write_git(tmp_path, "add", "file")
    assert not lock.exists()


def leave_lock(root: Path, name: str, *, age: float) -> Path:
    """What a git that was killed so many seconds ago has left."""
    lock = root / ".git" / name
    lock.touch()
    os.utime(lock, (time.time() - age, time.time() - age))
    return lock
