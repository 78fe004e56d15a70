"""Checking a record and stopping must start fast: neither may import the training stack, which loads in the workers meanwhile."""

import subprocess
import sys

import pytest

HEAVY = "{'torch', 'diffusers', 'peft', 'open_clip', 'transformers', 'pandas', 'prefect', 'mlflow', 'dvc', 'matplotlib'}"


def test_requests_evidence_and_records_import_nothing_heavy() -> None:
    ours = "tasks.evidence.records, tasks.ledger.store, tasks.keys, cdm_core.intake.requests"
    program = f"import sys, {ours}; print(sorted(set(sys.modules) & {HEAVY}))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


def test_the_flow_of_a_forget_leaves_the_training_stack_to_its_workers() -> None:
    stack = "{'diffusers', 'peft', 'open_clip', 'transformers', 'timm', 'torchvision', 'matplotlib', 'accelerate'}"
    program = f"import sys, flows.forget; print(sorted(set(sys.modules) & {stack}))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


@pytest.mark.slow
def test_what_workers_run_beside_the_training_imports_no_servers() -> None:
    program = (
        "import sys, tasks.models.evaluation, tasks.training.shard_training, tasks.deletion.membership, tasks.deletion.neighbours; "
        "print(sorted(set(sys.modules) & {'prefect', 'mlflow', 'dvc'}))"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
