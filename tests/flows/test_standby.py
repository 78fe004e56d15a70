"""Handing a command over to the process that waits: taken, not taken, cut short; and the real one, beside a real server."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from built_workspace import Built, copy_workspace
from served_workspace import Served, are_gone, serve
from tiny_workspace import OWNERS, draw_picture, signed_request

from cdm_core.digests import Digest
from cdm_core.errors import StateError
from flows import receive
from flows.standby import process
from flows.standby.channel import Job, address_file, receive_job, send_message
from flows.standby.client import hand_over
from tasks.ledger.store import Ledger
from tasks.locks import exclusive_lock
from tasks.requests.inbox import create_inbox
from tasks.workspace import Workspace

LETHE = [sys.executable, "-c", "from flows.cli import main; main()"]


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    ws = Workspace(tmp_path / "ws")
    ws.private.mkdir(parents=True)
    return ws


@contextmanager
def waiting(ws: Workspace, serve_one: Callable[[socket.socket], None]) -> Iterator[None]:
    """A thread that waits for one command as the process would."""
    address = ws.root / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        listener.listen(1)
        address_file(ws).write_text(str(address))

        def accept() -> None:
            with listener.accept()[0] as connection:
                serve_one(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_whoever_takes_it_writes_to_the_commands_streams_and_gives_its_exit_code(
    ws: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, taken = ["submit", "r.json", "x" * 300_000], list[Job]()

    def take(connection: socket.socket) -> None:
        received = receive_job(connection)
        assert received is not None
        job, (out, err) = received
        taken.append(job)
        send_message(connection, {"accepted": True})
        os.write(out, b"answer\n")
        for descriptor in (out, err):
            os.close(descriptor)
        send_message(connection, {"exit_code": 3})

    with waiting(ws, take), (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert hand_over(ws.root, arguments) == 3
    assert [(job.arguments, job.directory) for job in taken] == [(arguments, str(tmp_path))]
    assert (tmp_path / "out").read_text() == "answer\n"


def test_what_is_not_taken_is_done_by_the_command_itself(ws: Workspace) -> None:
    assert hand_over(ws.root, ["submit"]) is None  # none waits
    with waiting(ws, lambda connection: None):
        assert hand_over(ws.root, ["submit"]) is None  # it ends without a word
    assert hand_over(ws.root, ["submit"]) is None  # its address was left behind
    assert hand_over(ws.root / "elsewhere", ["submit"]) is None


def test_streams_that_lead_into_this_process_stay_here(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", StringIO())
    with waiting(ws, lambda connection: None):
        assert hand_over(ws.root, ["submit"]) is None
        with socket.socket(socket.AF_UNIX) as other:
            other.connect(address_file(ws).read_text())  # so that the thread ends: nobody had called


def test_one_that_ends_after_taking_it_is_an_error(ws: Workspace) -> None:
    def take_and_end(connection: socket.socket) -> None:
        assert receive_job(connection) is not None
        send_message(connection, {"accepted": True})

    with waiting(ws, take_and_end), pytest.raises(StateError, match="was ended; run the same command again"):
        hand_over(ws.root, ["submit"])
    address_file(ws).unlink()
    (ws.root / "s").unlink()
    with waiting(ws, take_and_end):
        receive._try_standby(ws, "submit", "r.json")  # the run of an item then does the work itself


def test_what_a_quiet_command_prints_goes_nowhere(ws: Workspace, capfd: pytest.CaptureFixture[str]) -> None:
    def take(connection: socket.socket) -> None:
        received = receive_job(connection)
        assert received is not None
        send_message(connection, {"accepted": True})
        for descriptor in received[1]:
            os.write(descriptor, b"an owner's name\n")
            os.close(descriptor)
        send_message(connection, {"exit_code": 0})

    with waiting(ws, take):
        assert hand_over(ws.root, ["submit"], quiet=True) == 0
    assert capfd.readouterr() == ("", "")


def test_one_whose_code_has_changed_takes_nothing(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It loads what is installed when it starts; by the time a command comes, other code is."""
    monkeypatch.setattr(process, "_prepare", lambda ws: None)
    described = iter([Digest("loaded"), Digest("installed since")])
    monkeypatch.setattr(process, "_describe_code", lambda: next(described))
    thread = threading.Thread(target=process.wait_for_job, args=(ws,))
    thread.start()
    while not address_file(ws).is_file():
        assert thread.is_alive()
        time.sleep(0.01)
    assert stat.S_IMODE(Path(address_file(ws).read_text()).parent.stat().st_mode) == 0o700  # nobody else may hand it anything
    assert hand_over(ws.root, ["submit"], quiet=True) is None
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert next(described, None) is None


def wait_until_ready(served: Served, before: str = "") -> str:
    """The address of a process that waits and isn't the one before."""

    def find() -> str | None:
        path = address_file(served.ws)
        address = path.read_text() if path.is_file() else before
        return None if address == before else address

    return served.wait_for(find)


def call(ws: Workspace, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*LETHE, *map(str, arguments), "--workspace", str(ws.root), "--json"], capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_beside_a_server_a_command_is_carried_out_by_the_process_that_waits(built: Built, tmp_path: Path) -> None:
    """Refused, interrupted, called again: as if the command had done it itself. The end of the server ends whoever waits."""
    ws = copy_workspace(built.ws, tmp_path / "ws")
    create_inbox(ws)
    with serve(ws, standby=True) as served:
        address = wait_until_ready(served)
        missing = call(ws, "submit", tmp_path / "missing.json")
        assert (missing.returncode, missing.stdout) == (1, "")
        assert missing.stderr == f"lethe: {tmp_path / 'missing.json'}: can't be read: No such file or directory\n"

        address = wait_until_ready(served, address)
        request = signed_request(ws, tmp_path / "requests", "r-1", owner_ids=[OWNERS[0].owner_id])
        command = [*LETHE, "submit", str(request), "--workspace", str(ws.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as interrupted:
            # It can't get past the evaluation, however fast it is, while its pictures can't be kept; a thread that waits to is ended last.
            with exclusive_lock(ws.cache / "generated.lock"):
                served.wait_for(lambda: Ledger(ws).last("stopped", "r-1"))
                interrupted.send_signal(signal.SIGINT)
            assert interrupted.wait(timeout=60) != 0
        assert Ledger(ws).last("closed", "r-1") is None

        address = wait_until_ready(served, address)
        done = call(ws, "submit", request)
        assert done.returncode == 0, done.stderr
        assert '"status": "completed"' in done.stdout
        assert Ledger(ws).last("closed", "r-1") is not None

        address = wait_until_ready(served, address)
        pictures = tmp_path / "pictures"
        pictures.mkdir()
        (pictures / "red heart.png").write_bytes(draw_picture(20, 0))
        learnt = call(ws, "learn", pictures, "--owner", "a new owner")
        assert learnt.returncode == 0, learnt.stderr

        address = wait_until_ready(served, address)
        signed_request(ws, ws.inbox / "requests", "r-2", owner_ids=[OWNERS[1].owner_id])
        assert served.outcome("done", "request")["status"] == "completed"
        wait_until_ready(served, address)  # the one before had been taken
        assert (ws.prefect / "standby.log").read_text() == ""

        started = served.descendants()
        assert served.stop() == 0
        assert are_gone(started)
        assert not address_file(ws).exists()
