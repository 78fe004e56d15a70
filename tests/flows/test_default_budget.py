"""The main job's model at its default budget: the adapters earn their place."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

LARGEST_SHARE = 0.85  # of the bare backbone's Fréchet distance


def test_every_adapter_and_the_composition_beat_the_bare_backbone(tmp_path: Path) -> None:
    _lethe("init", str(tmp_path / "ws"))
    built = _lethe("build", "--workspace", str(tmp_path / "ws"))
    assert [shard["shard"] for shard in built["shards"] if shard["loss_adapter"] >= shard["loss_backbone"]] == []
    assert built["gate"]["fd_after"] <= LARGEST_SHARE * built["gate"]["fd_before"]


def _lethe(*arguments: str) -> Any:
    ran = subprocess.run([Path(sys.executable).with_name("lethe"), *arguments, "--json"], capture_output=True, check=True)
    return json.loads(ran.stdout)
