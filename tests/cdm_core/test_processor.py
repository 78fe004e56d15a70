import pytest

from cdm_core import processor
from cdm_core.processor import Processor, parse_processor, read_processor

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC

processor\t: 1
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: Another
"""
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd0c\n"


def test_the_first_processor_is_described() -> None:
    assert parse_processor(X86) == Processor(name="AMD EPYC", vendor="AuthenticAMD", family="25", model="17")


def test_what_is_not_told_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.platform, "processor", lambda: "")
    assert parse_processor(ARM) == Processor(name="unknown", vendor="0x41", family="8", model="0xd0c")
    assert parse_processor("") == Processor(name="unknown", vendor="unknown", family="unknown", model="unknown")


def test_one_machine_has_one_processor() -> None:
    assert read_processor() == read_processor()
