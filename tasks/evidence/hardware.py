"""The machine that a record was made on: its kind, not its name."""

import platform
from pathlib import Path

from cdm_core.digests import Json, json_digest


def describe_hardware(instruction_set: str) -> dict[str, Json]:
    """Architecture, processor and instruction set, and their digest."""
    facts: dict[str, Json] = {"machine": platform.machine(), "processor": _read_processor(), "instruction_set": instruction_set}
    return {**facts, "digest": json_digest(facts)}


def _read_processor() -> str:
    """The model name, where the system tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
