"""The process whose look-ups `flows.bench.lookup` measures: what to look up comes on stdin, the figures go to stdout, as JSON."""

import json
import resource
import sys
import time
from pathlib import Path

from tasks.data.lookup import look_up, make_indices
from tasks.workspace import Workspace


def main(root: str, what: str) -> None:
    """Measure "index" or "look-up" in the workspace at `root`."""
    ws, asked = Workspace(Path(root)), json.load(sys.stdin)
    started = time.monotonic()
    if what == "index":
        figures: dict[str, float] = {"bytes": make_indices(ws), "seconds": time.monotonic() - started}
    else:
        samples = look_up(ws, sample_ids=asked["sample_ids"])
        after_samples = time.monotonic()
        owned = look_up(ws, owner_keys=asked["owner_keys"])
        figures = {
            "samples_found": int(samples["sample_id"].nunique()),
            "samples_seconds": after_samples - started,
            "owner_samples": len(owned),
            "owner_seconds": time.monotonic() - after_samples,
        }
    json.dump(figures | {"peak_memory_bytes": read_peak_memory()}, sys.stdout)


def read_peak_memory() -> int:
    """Peak resident bytes of this program alone. `getrusage` counts the peak of the parent before exec too, hence Linux's own figure."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


if __name__ == "__main__":
    main(*sys.argv[1:])
