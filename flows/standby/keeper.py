"""The server's side: one process ready as long as the server runs."""

import asyncio
import os
import signal
import sys
from contextlib import suppress

from flows.prefect_server import end_with_parent
from tasks.workspace import Workspace

_PAUSE_SECONDS = 2.0
_STOP_SECONDS = 5.0


async def keep_standby(ws: Workspace) -> None:
    """Start a process that waits, and the next when it has ended; cancelled, end it.

    A command that it is carrying out ends with it, and is taken up again by calling it again.
    """
    log = ws.prefect / "standby.log"
    while True:
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "flows.standby.process",
                str(ws.root),
                cwd=ws.root,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )
        try:
            await process.wait()
            await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, TimeoutError):
            os.killpg(process.pid, sign)  # its workers, too, which would finish what they are at
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
