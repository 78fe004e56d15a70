"""The processor that this process runs on, as the system tells it: libraries choose their kernels by it."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """A model name, and the numbers that tell apart what a virtual machine calls by one name; "unknown" where the system tells none."""

    name: str
    vendor: str
    family: str
    model: str


@cache
def read_processor() -> Processor:
    """The first of this machine's, which are taken to be alike."""
    return parse_processor(_CPU_INFO.read_text(errors="replace") if _CPU_INFO.is_file() else "")


def parse_processor(cpu_info: str) -> Processor:
    """What Linux's `/proc/cpuinfo` says of its first processor; a text that lacks a name leaves it to Python's `platform`."""
    facts: dict[str, str] = {}
    for line in cpu_info.splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return Processor(
        name=facts.get("model name") or platform.processor() or "unknown",
        vendor=facts.get("vendor_id", facts.get("CPU implementer", "unknown")),
        family=facts.get("cpu family", facts.get("CPU architecture", "unknown")),
        model=facts.get("model", facts.get("CPU part", "unknown")),
    )
