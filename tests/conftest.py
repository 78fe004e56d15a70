"""Every test runs as the commands do: quiet, offline, and on one thread, since the bits of a result depend on the number of threads.

BLAS and OpenMP read their variables when they load, so these are set before anything imports them. A job in a shell's background ignores
SIGINT, and so would every command that the tests start.
"""

import signal
import sys

import hypothesis
import pytest

from flows.environment import configure_libraries

configure_libraries()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# How long an example takes depends on what else the machine does; a test that hangs meets pytest's own limit.
hypothesis.settings.register_profile("lethe", deadline=None)
hypothesis.settings.load_profile("lethe")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Put torch back to one thread where it's loaded: tests that don't need it aren't made to import it."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
