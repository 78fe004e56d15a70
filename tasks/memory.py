"""The memory that a command needs at most, its worker processes and servers included.

Linux keeps each process's peak of resident memory; pages that processes share are counted in each, and the peaks needn't have come
together, so the sum is an upper bound.
"""

from pathlib import Path

import psutil


def peak_memory_megabytes() -> int | None:
    """Peaks of this process and of all that descend from it and still run, summed, in MB of 10^6 bytes; None where no peak is kept."""
    here = psutil.Process()
    peaks = [_peak_bytes(process.pid) for process in [here, *here.children(recursive=True)]]
    return None if peaks[0] is None else sum(peak or 0 for peak in peaks) // 10**6


def _peak_bytes(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has ended, or there is no /proc
        return None
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
    return peaks[0] if peaks else None
