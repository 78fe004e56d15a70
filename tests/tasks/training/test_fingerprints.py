import pytest

from cdm_core.fingerprint import measure_fingerprint
from tasks.training.fingerprints import measure_own_fingerprint


def test_the_environment_of_this_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert measure_own_fingerprint().dispatch["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert measure_own_fingerprint().digest != measure_fingerprint({"ONEDNN_MAX_CPU_ISA": "AVX2"}).digest
