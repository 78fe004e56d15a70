"""What besides its inputs decides the bytes that training makes: library builds, processor, threads, and our own code.

A version number doesn't say how torch was built (with which BLAS, for which instruction sets), so its commit and its whole build
configuration are in as well. The instruction set is torch's own choice; oneDNN and MKL choose kernels by the processor and by variables
of the environment, so both count. Machines of two models therefore have two fingerprints, though they may round alike.

Of our own code it covers the core's. What `tasks` does between disk and training (finding rows, reading packs) isn't hashed: it must hand
over the pixels and captions whose digests the keys name, and a release says where that changes.

It is part of every checkpoint's key, so that a checkpoint made elsewhere is not found rather than trusted, and stands in every record:
two digests may be compared only under equal fingerprints; under different ones the answer is "not comparable".
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

from cdm_core.digests import Digest, json_digest, sha256_digest
from cdm_core.processor import read_processor

NUM_THREADS = 1
"""Every computation whose bytes count runs on one thread; parallelism is between processes."""

# ftfy and regex clean and split captions for open_clip's tokenizer.
_LIBRARIES = ("torch", "diffusers", "peft", "accelerate", "open_clip_torch", "ftfy", "regex", "safetensors")
# Centroids, settings and composition documents aren't trained, but a composition's digest is made of them, and a replay compares it.
# Manifests decide which rows a stage trains on, and their digest.
_TRAINING_CODE = (
    "adapters.py",
    "backbone.py",
    "centroids.py",
    "chain.py",
    "clip.py",
    "composition/document.py",
    "digests.py",
    "fingerprint.py",
    "folding.py",
    "processor.py",
    "settings.py",
    "sharding/manifests.py",
    "training.py",
)
# What oneDNN, MKL and torch read before they choose a kernel or a precision. oneDNN knows its variables by an older prefix, too.
_DISPATCH_VARIABLES = (
    *(f"{prefix}_{name}" for prefix in ("ONEDNN", "DNNL") for name in ("MAX_CPU_ISA", "CPU_ISA_HINTS", "DEFAULT_FPMATH_MODE")),
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DISABLE_FAST_MM",
    "MKL_ENABLE_INSTRUCTIONS",
    "TORCH_MKLDNN_MATMUL_MIN_DIM",
    "TORCH_MKLDNN_MATMUL_MIN_SIZE",
)

Comparison = Literal["equal", "different", "not comparable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Compared as a whole, by its digest; `dispatch` has the variables that steer the libraries' choice of kernels, where they're set."""

    libraries: dict[str, str]
    torch_build: Digest
    instruction_set: str
    processor: dict[str, str]
    dispatch: dict[str, str]
    threads: int
    code: Digest

    @property
    def digest(self) -> Digest:
        """Names the fingerprint."""
        return json_digest(asdict(self))


def require_one_thread() -> None:
    """Refuse to compute what counts on more threads: the sums would come out in another order.

    Raises:
        ValueError: this process has not called `torch.set_num_threads(NUM_THREADS)`.
    """
    if torch.get_num_threads() != NUM_THREADS:
        raise ValueError(f"torch runs {torch.get_num_threads()} threads; call torch.set_num_threads({NUM_THREADS}) first")


def measure_fingerprint(environment: Mapping[str, str]) -> Fingerprint:
    """The fingerprint of this process: installed versions, the processor and what steers its use, the bytes of the training code.

    `environment` has the variables that this process was started with.
    """
    folder = Path(__file__).parent
    return Fingerprint(
        libraries={name: version(name) for name in _LIBRARIES},
        torch_build=json_digest({"commit": torch.version.git_version, "configuration": torch.__config__.show()}),
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        processor=asdict(read_processor()),
        dispatch={name: environment[name] for name in _DISPATCH_VARIABLES if name in environment},
        threads=NUM_THREADS,
        code=json_digest({name: sha256_digest((folder / name).read_bytes()) for name in _TRAINING_CODE}),
    )


def compare_digests(first: Digest, second: Digest, first_fingerprint: Digest, second_fingerprint: Digest) -> Comparison:
    """What two digests of the same thing, each made under the fingerprint of that digest, say about each other.

    Under different fingerprints that is nothing: unequal bytes may be another rounding, and equal ones chance.
    """
    if first_fingerprint != second_fingerprint:
        return "not comparable"
    return "equal" if first == second else "different"
