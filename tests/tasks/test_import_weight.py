"""Checking a record must start fast: none of it may import the training stack or the servers."""

import subprocess
import sys

HEAVY = "{'torch', 'diffusers', 'peft', 'open_clip', 'transformers', 'pandas', 'prefect', 'mlflow', 'dvc', 'matplotlib'}"


def test_requests_evidence_and_records_import_nothing_heavy() -> None:
    program = f"import sys, tasks.records, tasks.ledger, tasks.keys, cdm_core.requests; print(sorted(set(sys.modules) & {HEAVY}))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
