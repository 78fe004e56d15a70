"""Versions, found again after a crash and loadable by MLflow."""

import io
import sys
from pathlib import Path
from types import ModuleType

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from composition_maker import CompositionMaker
from mlflow import MlflowClient
from PIL import Image

from cdm_core.composition.document import Composition
from cdm_core.errors import StateError, VerificationError
from tasks.evidence.audit_log import open_run
from tasks.models import tracking
from tasks.models.model_registry import Champion, adapters_of, champion, composition_of, register_composition
from tasks.workspace import Workspace


def _models(ws: Workspace) -> list[Path]:
    return sorted((ws.mlflow / "artifacts" / "models").glob("*"))


def test_a_version_holds_the_composition_and_its_adapters(maker: CompositionMaker) -> None:
    version = maker.register("a", "b", step_key="build")
    composition = maker.composition("a", "b")
    assert version == 1
    assert composition_of(maker.ws, version) == composition.to_bytes()
    assert {shard: path.read_bytes() for shard, path in adapters_of(maker.ws, version).items()} == {0: b"a", 1: b"b"}
    registered = tracking.client(maker.ws).get_model_version(tracking.MODEL, "1")
    assert registered.tags["composition"] == composition.digest
    assert registered.tags["step_key"] == "build"
    assert registered.tags["purpose"] == "build"


def test_the_run_the_model_and_the_version_name_each_other(maker: CompositionMaker) -> None:
    maker.register("a", step_key="build")
    store = tracking.client(maker.ws)
    version = store.get_model_version(tracking.MODEL, "1")
    model = store.get_logged_model(version.tags["logged_model"])
    outputs = store.get_run(version.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [model.model_id]
    assert model.tags["mlflow.modelVersions"] == '[{"name": "lethe", "version": 1}]'
    assert model.status == "READY"


def test_nothing_is_pickled_and_nothing_stays_staged(maker: CompositionMaker) -> None:
    maker.register("a", step_key="build")
    names = {path.name for path in maker.ws.mlflow.rglob("*")}
    assert "served_model.py" in names
    assert not [name for name in names if name.endswith(".pkl") or name.startswith("staging-")]


def test_registering_a_step_again_changes_nothing(maker: CompositionMaker) -> None:
    assert [maker.register("a", step_key="build") for _ in range(2)] == [1, 1]
    assert len(_models(maker.ws)) == 1
    assert maker.register("a", step_key="another") == 2


class _KilledError(Exception):
    """Stands for the process's end."""


@pytest.mark.parametrize(
    "step", ["log_model_artifacts", "finalize_logged_model", "log_outputs", "create_model_version", "set_logged_model_tags"]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_registration_that_was_cut_short_is_finished(
    step: str, when: str, maker: CompositionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(MlflowClient, step)

    def dying(*arguments: object, **options: object) -> None:
        if when == "after":
            original(*arguments, **options)
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, step, dying)
        with pytest.raises(_KilledError):
            maker.register("a", step_key="build")
    assert maker.register("a", step_key="build") == 1
    assert len(_models(maker.ws)) == 1
    assert composition_of(maker.ws, 1) == maker.composition("a").to_bytes()
    test_the_run_the_model_and_the_version_name_each_other(maker)


def test_a_step_cannot_register_two_compositions(maker: CompositionMaker) -> None:
    maker.register("a", step_key="build")
    with pytest.raises(StateError, match=r"step build: already registered composition [0-9a-f]{64}, not [0-9a-f]{64}"):
        maker.register("b", step_key="build")


def _register(
    maker: CompositionMaker, composition: Composition, adapters: dict[int, Path], centroids: dict[int, Path] | None = None
) -> int:
    run_id = open_run(maker.ws, name="build", step_key="build", tags={})
    return register_composition(
        maker.ws,
        composition=composition.to_bytes(),
        adapters=adapters,
        centroids=centroids,
        run_id=run_id,
        purpose="build",
        step_key="build",
    )


def test_an_adapter_that_the_composition_does_not_name_is_refused(maker: CompositionMaker) -> None:
    composition = maker.composition("a", "b")
    adapters = maker.adapters_of(composition)
    with pytest.raises(VerificationError, match="not the adapters that the composition names for shard 1"):
        _register(maker, composition, {0: adapters[0], 1: adapters[0]})
    with pytest.raises(VerificationError, match="adapters: no file for shard 1 of the composition"):
        _register(maker, composition, {0: adapters[0]})
    assert _register(maker, composition, adapters) == 1


def test_a_composition_that_is_none_is_refused(maker: CompositionMaker) -> None:
    with pytest.raises(VerificationError, match="composition: not a"):
        register_composition(maker.ws, composition=b"{}", adapters={}, run_id="none", purpose="build", step_key="build")


def test_a_changed_composition_file_is_refused(maker: CompositionMaker) -> None:
    maker.register("a", step_key="build")
    (file,) = maker.ws.mlflow.rglob("composition.json")
    file.write_bytes(file.read_bytes().replace(b'"samples":10', b'"samples":11'))
    with pytest.raises(VerificationError, match=r"model version 1: composition\.json is not the one that was registered"):
        composition_of(maker.ws, 1)


def test_an_unknown_version_is_refused(tracked: Workspace) -> None:
    with pytest.raises(StateError, match="model version 7: not registered, or erased"):
        composition_of(tracked, 7)


def test_the_champion_is_what_the_alias_names(maker: CompositionMaker) -> None:
    assert champion(maker.ws) is None
    version = maker.register("a", step_key="build")
    tracking.client(maker.ws).set_registered_model_alias(tracking.MODEL, "champion", str(version))
    assert champion(maker.ws) == Champion(version=1, composition=maker.composition("a").digest)


class _SeedPainter:
    """A model whose pictures tell what it was asked."""

    def __init__(self, composition: bytes, adapters: dict[int, Path], centroids: dict[int, Path]) -> None:
        self.loaded = (composition, {shard: path.read_bytes() for shard, path in adapters.items()}, len(centroids))

    def generate(self, prompts: list[str | None], seeds: list[int]) -> torch.Tensor:
        """Red is the seed, green the prompt's length (0: none), blue 1."""
        colours = [[seed, len(prompt or ""), 1] for prompt, seed in zip(prompts, seeds, strict=True)]
        return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 32, 32)


def test_mlflow_loads_and_serves_a_version(maker: CompositionMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through MLflow's own loader; the network is replaced, since training adapters is another test's matter."""
    serving = ModuleType("cdm_core.composition.serving")
    serving.load_composed_model = _SeedPainter
    monkeypatch.setitem(sys.modules, "cdm_core.composition.serving", serving)
    composition = maker.composition("a", "b")
    _register(maker, composition, maker.adapters_of(composition), maker.centroids_of(composition))
    source = tracking.client(maker.ws).get_model_version(tracking.MODEL, "1").source
    model = mlflow.pyfunc.load_model(source)
    assert model.unwrap_python_model().model.loaded == (composition.to_bytes(), {0: b"a", 1: b"b"}, 2)
    pictures = model.predict(pd.DataFrame({"prompt": ["heart", None], "seed": [3, 4]}))
    pixels = [np.asarray(Image.open(io.BytesIO(picture))) for picture in pictures]
    assert [image.shape for image in pixels] == [(32, 32, 3)] * 2
    assert [image[0, 0].tolist() for image in pixels] == [[3, 5, 1], [4, 0, 1]]
