"""Checking a record and stopping must start fast: neither may import the training stack, which loads in the workers meanwhile."""

import subprocess
import sys

HEAVY = "{'torch', 'diffusers', 'peft', 'open_clip', 'transformers', 'pandas', 'prefect', 'mlflow', 'dvc', 'matplotlib'}"


def test_requests_evidence_and_records_import_nothing_heavy() -> None:
    program = f"import sys, tasks.records, tasks.ledger, tasks.keys, cdm_core.requests; print(sorted(set(sys.modules) & {HEAVY}))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


def test_the_flow_of_a_forget_leaves_the_training_stack_to_its_workers() -> None:
    stack = "{'diffusers', 'peft', 'open_clip', 'transformers', 'timm', 'torchvision', 'matplotlib', 'accelerate'}"
    program = f"import sys, flows.forget; print(sorted(set(sys.modules) & {stack}))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
