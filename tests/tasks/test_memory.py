"""Peaks of memory, of a process and of its children."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import multiprocessing
from tasks.memory import peak_memory_megabytes

def fill(megabytes, done, go):
    data = b"x" * (megabytes * 10**6)
    del data
    done.set()
    go.wait()

if __name__ == "__main__":
    alone = peak_memory_megabytes()
    context = multiprocessing.get_context("spawn")
    done, go = context.Event(), context.Event()
    child = context.Process(target=fill, args=(200, done, go))
    child.start()
    done.wait()
    print(alone, peak_memory_megabytes())
    go.set()
    child.join()
"""


def test_a_childs_peak_counts_after_it_has_freed_its_memory(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    alone, together = map(int, subprocess.check_output([sys.executable, str(program)], text=True).split())
    assert 5 <= alone < 500
    assert 200 <= together - alone < 500
