"""What `test_mixing` and `test_known_mixtures` don't cover: gating, priors, the classifier, predictions made when asked for."""

from pathlib import Path

import pytest
import torch
from gaussian_experts import condition_of, evaluate_each, experts_of, gaussian, start_of
from tiny_backbone import make_composition, make_samples, shipped_clip, tiny_backbone

from cdm_core.composition.mixing import build_mixer
from cdm_core.composition.samplers import build_sampler
from cdm_core.composition.sampling import walk
from cdm_core.digests import sha256_digest
from cdm_core.errors import VerificationError
from cdm_core.fingerprint import measure_fingerprint
from cdm_core.methods import classifier
from cdm_core.methods.bayes import Bayes
from cdm_core.methods.classifier import ClassifierSettings, classifier_key, classifier_to_bytes, load_classifier, train_classifier
from cdm_core.methods.interface import Condition, Predictions
from cdm_core.methods.priors import ClipPriors, ConditionalCountPriors, CountPriors
from cdm_core.methods.shard_per_image import ShardPerImage
from cdm_core.methods.top_k import TopK
from cdm_core.training import StageSamples

X = torch.zeros(2, 3, 4, 4)


class Fixed:
    """The same weights at every step."""

    def __init__(self, *rows: list[float]) -> None:
        self.rows = torch.tensor(rows)

    def weights(self, x: torch.Tensor, t: float, predictions: Predictions, condition: Condition) -> torch.Tensor:
        return self.rows


def predictions(num: int, experts: int, previous: torch.Tensor | None = None, evidence: torch.Tensor | None = None) -> Predictions:
    return Predictions(
        step=0,
        evaluate=lambda position, rows: torch.full((len(rows), 1, 1, 1), float(position)),
        active_BN=torch.ones(num, experts, dtype=torch.bool),
        previous_BN=previous,
        evidence_BN=evidence,
    )


def test_gating_waits_until_the_weights_have_concentrated() -> None:
    mixer = TopK(inner=Fixed([0.5, 0.3, 0.2], [0.6, 0.38, 0.02]), k=2)
    weights = mixer.weights(X, 0.5, predictions(2, 3), condition_of(2))
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.3, 0.2], [0.6 / 0.98, 0.38 / 0.98, 0.0]]))


def test_what_was_gated_out_stays_out_and_is_not_evaluated() -> None:
    asked: list[tuple[int, list[int]]] = []

    def evaluate(position: int, rows: torch.Tensor) -> torch.Tensor:
        asked.append((position, rows.tolist()))
        return torch.zeros(len(rows), 1, 1, 1)

    previous, everyone = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0]]), torch.ones(2, 3, dtype=torch.bool)
    said = Predictions(step=1, evaluate=evaluate, active_BN=everyone, previous_BN=previous, evidence_BN=torch.zeros(2, 3))
    priors = CountPriors(experts=experts_of([1, 1, 2]))
    weights = TopK(inner=Bayes(priors=priors)).weights(X, 0.5, said, condition_of(2))
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0]]))
    assert asked == [(0, [0, 1]), (1, [0, 1]), (2, [0])]


def test_a_gate_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k needs k of 1 or more, not 0"):
        TopK(inner=Fixed([1.0]), k=0)


def test_gated_bayes_still_makes_every_shards_pictures() -> None:
    parts = [gaussian([-2.0], 0.2), gaussian([0.0], 0.2), gaussian([2.0], 0.2)]
    mixer = TopK(inner=Bayes(priors=CountPriors(experts=experts_of([6, 3, 1]))), k=1)
    made = walk(build_sampler("ddpm", 200), mixer, evaluate_each(parts), start_of(1000, 1), condition_of(1000), 3).flatten()
    shares = torch.stack([(made < -1), (made.abs() <= 1), (made > 1)]).double().mean(dim=1)
    assert float((shares - torch.tensor([0.6, 0.3, 0.1])).abs().sum() / 2) < 0.06


def test_bayes_without_a_stochastic_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="bayes needs a stochastic sampler: a deterministic path has no likelihood"):
        Bayes(priors=CountPriors(experts=experts_of([1]))).weights(X, 0.5, predictions(2, 1), condition_of(2))


def test_conditional_priors_are_counts_of_the_condition() -> None:
    priors = ConditionalCountPriors(experts=experts_of([30, 10]), counts={0: {"cat": 3, "dog": 1}, 1: {"cat": 1}})
    shares = priors.of(Condition(captions=["cat", "dog", "bird"], seeds=[0, 1, 2]))
    assert torch.equal(shares, torch.tensor([[0.75, 0.25], [1.0, 0.0], [0.75, 0.25]]))


def test_a_shard_that_lacks_the_condition_draws_none_of_its_pictures() -> None:
    experts = experts_of([30, 10])
    mixer = ShardPerImage(experts=experts, priors=ConditionalCountPriors(experts=experts, counts={0: {}, 1: {"dog": 1}}))
    assert set(mixer.draw(Condition(captions=["dog"] * 50, seeds=list(range(50))))) == {1}
    drawn = mixer.draw(Condition(captions=["bird"] * 2000, seeds=list(range(2000))))
    assert abs(sum(drawn) / 2000 - 0.25) < 0.03


def test_a_free_prompt_goes_to_the_shard_whose_centroid_it_is_nearest_to() -> None:
    clip = shipped_clip()
    centroids = [clip.embed_captions([caption]) for caption in ("red heart", "green tree")]
    priors = ClipPriors(experts=experts_of([1, 3]), centroids=centroids, clip=clip, temperature=0.01)
    shares = priors.of(Condition(captions=["red heart", "green tree", ""], seeds=[0, 1, 2]))
    assert shares[:2].argmax(dim=1).tolist() == [0, 1]
    assert shares[2].tolist() == [0.25, 0.75]


def bright_and_dark() -> dict[int, StageSamples]:
    samples = {shard: make_samples([f"{shard} {number}" for number in range(12)]) for shard in (2, 5)}
    return {
        shard: StageSamples(sample_ids=part.sample_ids, captions=part.captions, pictures=part.pictures // 4 + (0 if shard == 2 else 190))
        for shard, part in samples.items()
    }


QUICK = ClassifierSettings(steps=60, width=16, heads=2, learning_rate=0.01)


def test_a_classifier_learns_the_shards_and_travels_as_bytes() -> None:
    backbone, shards = tiny_backbone(), bright_and_dark()
    network = train_classifier(backbone, shards, QUICK)
    content = classifier_to_bytes(network, [5, 2])
    assert content == classifier_to_bytes(train_classifier(backbone, shards, QUICK), [2, 5])
    latents = torch.cat([backbone.encode_pictures(shards[shard].pictures) for shard in (2, 5)])
    mixer = load_classifier(backbone, content, [2, 5], QUICK)
    weights = mixer.weights(0.95 * latents, 0.05, predictions(24, 2), condition_of(24))
    assert float(weights[:12, 0].mean()) > 0.9
    assert float(weights[12:, 1].mean()) > 0.9
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(24))
    # A picture's weights are its own, and columns follow the composition.
    alone = mixer.weights(0.95 * latents[3:4], 0.05, predictions(1, 2), condition_of(1))
    assert torch.equal(alone[0], weights[3])
    turned = load_classifier(backbone, content, [5, 2], QUICK).weights(0.95 * latents, 0.05, predictions(24, 2), condition_of(24))
    assert torch.equal(turned, weights.flip(1))


def test_a_classifier_of_other_shards_or_no_classifier_is_refused() -> None:
    backbone = tiny_backbone()
    content = classifier_to_bytes(train_classifier(backbone, bright_and_dark(), ClassifierSettings(steps=1, width=16, heads=2)), [2, 5])
    with pytest.raises(VerificationError, match=r"^classifier: it never saw shard 3$"):
        load_classifier(backbone, content, [2, 3], QUICK)
    for damaged in (content[:-1], b"", content[:50]):
        with pytest.raises(VerificationError, match=r"^classifier: not one of these settings: [^\n]*$"):
            load_classifier(backbone, damaged, [2, 5], QUICK)


def test_a_classifier_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a classifier needs samples"):
        train_classifier(tiny_backbone(), {}, QUICK)


def test_any_samples_withdrawal_renames_the_classifier() -> None:
    backbone, one, other = tiny_backbone().digest, sha256_digest(b"1"), sha256_digest(b"2")
    fingerprint = measure_fingerprint({})
    keys = [
        classifier_key(backbone, {0: one, 1: other}, QUICK, fingerprint),
        classifier_key(backbone, {0: one, 1: one}, QUICK, fingerprint),
        classifier_key(backbone, {0: one}, QUICK, fingerprint),
        classifier_key(backbone, {0: one, 1: other}, ClassifierSettings(), fingerprint),
    ]
    assert len(set(keys)) == 4


def test_other_code_or_another_machine_renames_the_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, fingerprint = sha256_digest(b"one"), measure_fingerprint({})
    name = classifier_key(digest, {0: digest}, QUICK, fingerprint)
    assert classifier_key(digest, {0: digest}, QUICK, fingerprint) == name
    assert classifier_key(digest, {0: digest}, QUICK, measure_fingerprint({"MKL_CBWR": "COMPATIBLE"})) != name
    (tmp_path / "classifier.py").write_bytes(Path(classifier.__file__).read_bytes() + b"# changed")
    monkeypatch.setattr(classifier, "__file__", str(tmp_path / "classifier.py"))
    assert classifier_key(digest, {0: digest}, QUICK, fingerprint) != name


def test_a_restricted_composition_drops_the_classifier_that_saw_more() -> None:
    whole = make_composition(tiny_backbone(), {0: 3, 1: 4}).with_method("classifier").with_classifier(sha256_digest(b"c"))
    assert whole.restricted_to([0, 1]).classifier == sha256_digest(b"c")
    assert whole.restricted_to([1]).classifier is None


@pytest.mark.parametrize("method", ["classifier", "cp_delta"])
def test_what_cannot_be_mixed_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} needs a trained classifier, or is no mixture"):
        build_mixer(make_composition(tiny_backbone(), {0: 3}).with_method(method), tiny_backbone(), {})  # type: ignore[arg-type]  # a method's name
