"""Settings that the libraries read from the environment, made before any of them is imported.

Quiet: no telemetry and no network. Bounded: everything that Prefect keeps lies in the workspace. One thread: BLAS and OpenMP read their
variables when they load, and results must not depend on how many cores there are.
"""

import os
from pathlib import Path

from tasks.locks import is_locked

SERVER_ADDRESS, SERVER_LOCK = "server.url", "server.lock"
"""In Prefect's home: where the server that `lethe serve` runs answers, and the lock that is held as long as it does."""

_ALWAYS = {
    "DO_NOT_TRACK": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_UNLESS_SET = {
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_CLI_PROMPT": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def configure_libraries() -> None:
    """For every command: quiet, offline, one thread."""
    os.environ.update(_ALWAYS)
    for name, value in _UNLESS_SET.items():
        os.environ.setdefault(name, value)


def configure_prefect(home: Path) -> None:
    """Keep Prefect's files under `home`, and use the server that `lethe serve` runs there, if it does."""
    os.environ["PREFECT_HOME"] = str(home)
    address = home / SERVER_ADDRESS
    # One that was killed leaves its address behind, but not its lock.
    if address.is_file() and is_locked(home / SERVER_LOCK):
        os.environ["PREFECT_API_URL"] = address.read_text().strip()
