"""The lock keeps others out until it is released, and a dead holder's lock is free."""

import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest

from cdm_core.errors import StateError
from tasks.locks import claim_lock, exclusive_lock, is_locked

HOLD_FOREVER = """
import sys, time
from pathlib import Path
from tasks.locks import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_waits(tmp_path: Path) -> None:
    entered: list[str] = []

    def enter() -> None:
        with exclusive_lock(tmp_path / "lock"):
            entered.append("second")

    with exclusive_lock(tmp_path / "lock"):
        second = Thread(target=enter)
        second.start()
        second.join(timeout=0.2)
        assert second.is_alive()
        assert not entered
    second.join(timeout=10)
    assert entered == ["second"]


def test_a_killed_holder_frees_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD_FOREVER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    with exclusive_lock(tmp_path / "lock"):
        pass


def test_a_claimed_lock_refuses_a_second_holder(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "lock")
    with claim_lock(tmp_path / "lock", "taken"):
        assert is_locked(tmp_path / "lock")
        with pytest.raises(StateError, match="taken"), claim_lock(tmp_path / "lock", "taken"):
            pass
        assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")
    with claim_lock(tmp_path / "lock", "taken"):
        pass
