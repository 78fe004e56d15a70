import ast
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import cdm_core
from cdm_core import fingerprint
from cdm_core.digests import sha256_digest
from cdm_core.fingerprint import NUM_THREADS, compare_digests, measure_fingerprint, require_one_thread
from cdm_core.processor import read_processor

CORE = Path(cdm_core.__path__[0])


def test_one_machine_has_one_fingerprint() -> None:
    measured = measure_fingerprint({})
    assert measure_fingerprint({}) == measured
    assert measured.digest == measure_fingerprint({}).digest
    assert measured.threads == 1
    assert measured.libraries["torch"] == version("torch")


def test_every_part_counts() -> None:
    measured = measure_fingerprint({})
    others = [
        replace(measured, libraries=measured.libraries | {"torch": "0.0"}),
        replace(measured, torch_build=sha256_digest(b"another build")),
        replace(measured, instruction_set="NO AVX"),
        replace(measured, processor={"name": "another"}),
        replace(measured, dispatch={"MKL_CBWR": "COMPATIBLE"}),
        replace(measured, threads=2),
        replace(measured, code=sha256_digest(b"other code")),
    ]
    assert len({measured.digest, *(other.digest for other in others)}) == 8


def test_the_code_that_training_runs_is_in_the_fingerprint() -> None:
    # Partition and tiers decide inputs, which the key names by their values; errors decide nothing.
    named_otherwise = {"sharding/partition.py", "sharding/tiers.py", "errors.py"}
    for name in ("training.py", "sharding/manifests.py", "composition/document.py"):
        assert imported_by(name) - named_otherwise <= set(fingerprint._TRAINING_CODE)


@pytest.mark.parametrize(
    "variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"]
)
def test_what_steers_the_libraries_kernels_is_in_the_fingerprint(variable: str) -> None:
    assert measure_fingerprint({variable: "AVX2", "HOME": "/root"}) == replace(measure_fingerprint({}), dispatch={variable: "AVX2"})


def test_the_processor_is_in_the_fingerprint() -> None:
    assert measure_fingerprint({}).processor == asdict(read_processor())


def imported_by(name: str) -> set[str]:
    """The core's modules that a module of it imports, with those that they import."""
    found, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            tree = ast.parse((CORE / current).read_text())
            modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
            waiting += [f"{module.removeprefix('cdm_core.').replace('.', '/')}.py" for module in modules if module.startswith("cdm_core.")]
    return found


def test_digests_are_compared_under_one_fingerprint_only() -> None:
    a, b, here, there = (sha256_digest(name) for name in (b"a", b"b", b"here", b"there"))
    assert compare_digests(a, a, here, here) == "equal"
    assert compare_digests(a, b, here, here) == "different"
    assert compare_digests(a, a, here, there) == "not comparable"
    assert compare_digests(a, b, here, there) == "not comparable"


def test_one_thread_is_required() -> None:
    torch.set_num_threads(NUM_THREADS)
    require_one_thread()
    torch.set_num_threads(2)
    with pytest.raises(ValueError, match=r"^torch runs 2 threads; call torch\.set_num_threads\(1\) first$"):
        require_one_thread()
