"""`lethe bench lookup`: what a look-up costs in manifests of many rows, by the look-up that `lethe plan` uses (`tasks.data.lookup`).

Making manifests and index is measured here; the look-ups are measured in a process of their own, which holds nothing else, so that its
peak is theirs: imports, both look-ups, and every page of a mapped file that they touched. The index's making is a process of its own too.
"""

import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from cdm_core.errors import InvalidInputError, StateError
from flows.console import progress_bars
from tasks.data.many_samples import make_manifests

Document = dict[str, object]


def run_bench_lookup(rows: int, folder: Path | None, seed: int) -> Document:
    """Make manifests of `rows` rows in `folder` (else in a temporary one) and measure look-ups in them."""
    if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(f"{folder}: is not an empty folder")
    with ExitStack() as stack:
        root = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lethe-bench-")))
        started = time.monotonic()
        with progress_bars({"rows made": rows}) as advance:
            ws, sample_ids, owner_keys = make_manifests(root, rows=rows, seed=seed, progress=advance)
        made = time.monotonic() - started
        asked = json.dumps({"sample_ids": sample_ids, "owner_keys": owner_keys[:1]})
        index, looked = _measure(ws.root, "index", asked), _measure(ws.root, "look-up", asked)
        if looked["samples_found"] != len(sample_ids):
            raise StateError(f"look-up: {looked['samples_found']} of {len(sample_ids)} samples were found")
        manifests = sum(ws.manifest(shard).stat().st_size for shard in ws.settings().shard_ids)
    return {
        "rows": rows,
        "seed": seed,
        "sample_ids": len(sample_ids),
        "samples_seconds": looked["samples_seconds"],
        "owner_samples": looked["owner_samples"],
        "owner_seconds": looked["owner_seconds"],
        "peak_memory_bytes": looked["peak_memory_bytes"],
        "make_seconds": made,
        "index_seconds": index["seconds"],
        "index_peak_memory_bytes": index["peak_memory_bytes"],
        "index_bytes": index["bytes"],
        "manifest_bytes": manifests,
    }


def _measure(root: Path, what: str, asked: str) -> Document:
    command = [sys.executable, "-m", "flows.bench.lookup_probe", str(root), what]
    ran = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise StateError(f"the measuring process failed: {(ran.stderr.splitlines() or ['without a word'])[-1]}")
    document: Document = json.loads(ran.stdout)
    return document
