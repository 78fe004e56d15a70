"""What an installation gets: the wheel holds all that the commands read, and nothing that would hide another package."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hatchling.builders.wheel import WheelBuilder

from tasks.data.shipped import shipped_file

REPOSITORY = Path(__file__).resolve().parents[1]
WEIGHTS = (
    "backbone/config.json",
    "backbone/diffusion_pytorch_model.safetensors",
    "clip/bpe_merges.txt.gz",
    "clip/open_clip_config.json",
    "clip/open_clip_model.safetensors",
)
TEMPLATES = {"openmoji.csv": "data_manifests/openmoji.csv", "params.yaml": "params.yaml", "dvc.yaml": "dvc.yaml"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """As `pip wheel` builds it."""
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = WheelBuilder(str(REPOSITORY)).build(directory=str(folder), versions=["standard"])
    return zipfile.ZipFile(path)


def test_every_source_and_weight_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    for package in ("cdm_core", "tasks", "flows"):
        sources = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / package).rglob("*.py")}
        assert sources
        assert sources <= names
    weights = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "cdm_core" / "weights").rglob("*") if path.is_file()}
    assert weights >= {f"cdm_core/weights/{name}" for name in WEIGHTS}
    assert weights <= names
    assert all(wheel.read(name) == (REPOSITORY / name).read_bytes() for name in weights)


def test_weights_are_small_enough_to_ship(wheel: zipfile.ZipFile) -> None:
    assert sum(entry.file_size for entry in wheel.infolist() if entry.filename.startswith("cdm_core/weights/")) < 40e6


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert {PurePosixPath(name).parts[0] for name in wheel.namelist()} == {"cdm_core", "tasks", "flows", "lethe-0.1.0.dist-info"}
    assert not [name for name in wheel.namelist() if "__pycache__" in name]


def test_templates_are_found_in_a_checkout_and_in_an_installed_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    assert {name: shipped_file(name) for name in TEMPLATES} == {name: REPOSITORY / source for name, source in TEMPLATES.items()}
    wheel.extractall(tmp_path)
    code = f"from tasks.data.shipped import shipped_file; [print(shipped_file(name)) for name in {list(TEMPLATES)}]"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    assert printed.split() == [str(tmp_path / "tasks" / "data" / name) for name in TEMPLATES]
    for name, source in TEMPLATES.items():
        assert (tmp_path / "tasks" / "data" / name).read_bytes() == (REPOSITORY / source).read_bytes()
