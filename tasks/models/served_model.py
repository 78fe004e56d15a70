"""The code that MLflow keeps with every version and runs to serve it ("models from code": nothing is pickled).

MLflow executes a copy of this file, so it imports nothing of Lethe's before a model is really loaded: registering one must not pay for
torch. `adapters/`, and `centroids/` if it was given any, lie beside `composition.json`, one `shard-<n>.safetensors` a shard.
"""

import io
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image


class ComposedModel(PythonModel):
    """A composition behind MLflow's generic interface."""

    def load_context(self, context: PythonModelContext) -> None:
        """Put the backbone and the adapters together."""
        import torch

        from cdm_core.composition.serving import load_composed_model
        from cdm_core.fingerprint import NUM_THREADS

        torch.set_num_threads(NUM_THREADS)
        composition = Path(context.artifacts["composition"])
        files = composition.parent
        self.model = load_composed_model(composition.read_bytes(), _by_shard(files / "adapters"), _by_shard(files / "centroids"))

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> list[bytes]:
        """One PNG a row of (prompt, seed); a missing prompt generates unconditionally."""
        prompts = [None if pd.isna(prompt) else str(prompt) for prompt in model_input["prompt"]]
        seeds = [int(seed) for seed in model_input["seed"]]
        images_NCHW = self.model.generate(prompts, seeds)
        return [_encode_png(image_HWC) for image_HWC in images_NCHW.permute(0, 2, 3, 1).cpu().numpy()]


def _by_shard(folder: Path) -> dict[int, Path]:
    return {int(path.stem.removeprefix("shard-")): path for path in folder.glob("shard-*.safetensors")}


def _encode_png(image_HWC: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_HWC).save(buffer, format="PNG")
    return buffer.getvalue()


mlflow.models.set_model(ComposedModel())
