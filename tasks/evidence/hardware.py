"""The machine that a record was made on: its kind, not its name."""

import platform

from cdm_core.digests import Json, json_digest
from cdm_core.processor import read_processor


def describe_hardware(instruction_set: str) -> dict[str, Json]:
    """Architecture, processor and instruction set, and their digest."""
    facts: dict[str, Json] = {"machine": platform.machine(), "processor": read_processor().name, "instruction_set": instruction_set}
    return {**facts, "digest": json_digest(facts)}
