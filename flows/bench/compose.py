"""`lethe bench compose`: what composing N adapters costs against one model, on the shipped backbone.

All sides sample the same pictures with our sampler in one process of one thread, in alternation; a ratio is the median over repetitions
of a side's time to one model's just before and after it. `sequential` and `stacked` are the dense method `average` (`knn` adds one CLIP
embedding a step), `adapter_names` is peft's mixed-batch inference at the same steps, with its own batch of N rows a picture, not padded.
Adapters are drawn at random: their values change no running time.
"""

from collections.abc import Callable
from itertools import combinations

import torch

from cdm_core.adapters import AdapterTensors, attach_adapter, initial_adapter, merge_adapter, read_adapter
from cdm_core.backbone import TIME_SCALE, PixelBackbone, load_backbone
from cdm_core.composition.document import Composition, Expert
from cdm_core.composition.mixing import Condition, build_mixer
from cdm_core.composition.sampling import draw_start, encode_each, evaluate_network, sample_latents
from cdm_core.composition.stacking import TOLERANCE, StackedExperts
from cdm_core.digests import Digest, derive_seed
from cdm_core.fingerprint import NUM_THREADS
from cdm_core.settings import Method, SamplingSettings
from flows.bench.alternation import measure_ratios

COUNTS = (1, 2, 4, 8, 16)
_RANK = 8
_CAPTION = "red heart"


def run_bench_compose(*, pictures: int, steps: int, repetitions: int, counts: tuple[int, ...] = COUNTS) -> dict[str, object]:
    """Ratios by method and number of adapters."""
    torch.set_num_threads(NUM_THREADS)
    backbone = load_backbone()
    adapters = _draw_adapters(backbone, max(counts))
    networks = [merge_adapter(backbone, adapter) for adapter in adapters]
    condition = Condition(captions=[_CAPTION] * pictures, seeds=list(range(pictures)))
    one_model = _sampler(backbone, networks[:1], "shard_per_image", condition, steps)
    sides: dict[str, Callable[[], object]] = {}
    for count in counts:
        experts = networks[:count]
        sides[f"sequential/{count}"] = _sampler(backbone, experts, "average", condition, steps)
        sides[f"adapter_names/{count}"] = _peft_sampler(backbone, adapters[:count], condition, steps)
        stacked = StackedExperts(backbone, adapters[:count])
        sides[f"stacked/{count}"] = _sampler(backbone, experts, "average", condition, steps, stacked)
        sides[f"shard_per_image/{count}"] = _sampler(backbone, experts, "shard_per_image", condition, steps)
    rows: list[dict[str, object]] = []
    for name, ratio in measure_ratios(one_model, sides, repetitions).items():
        method, _, count_text = name.partition("/")
        rows.append({"method": method, "adapters": int(count_text), "ratio": ratio})
    largest, apart = _compare_velocities(backbone, networks, adapters)
    return {
        "pictures": pictures,
        "steps": steps,
        "repetitions": repetitions,
        "threads": NUM_THREADS,
        "tolerance": TOLERANCE,
        "largest_difference": largest,
        "experts_apart": apart,
        "rows": rows,
    }


def _draw_adapters(backbone: PixelBackbone, num: int) -> list[AdapterTensors]:
    model, generator = attach_adapter(backbone, _RANK), torch.Generator().manual_seed(derive_seed("bench compose"))
    starts = [initial_adapter(model, shard) for shard in range(num)]
    return [
        {name: 0.02 * torch.randn(tensor.shape, generator=generator) if "lora_B" in name else tensor for name, tensor in start.items()}
        for start in starts
    ]


def _sampler(
    backbone: PixelBackbone,
    experts: list[torch.nn.Module],
    method: Method,
    condition: Condition,
    steps: int,
    stacked: StackedExperts | None = None,
) -> Callable[[], object]:
    sampling = SamplingSettings(steps=steps, guidance_scale=1.0, method=method)
    listed = tuple(Expert(shard=shard, adapter=Digest(""), samples=1, centroids=None) for shard in range(len(experts)))
    composition = Composition(backbone=backbone.digest, experts=listed, sampling=sampling, knn_temperature=1.0)
    mixer = build_mixer(composition, backbone, {})
    return lambda: sample_latents(backbone, experts, mixer, condition, sampling, stacked=stacked)


def _peft_sampler(backbone: PixelBackbone, adapters: list[AdapterTensors], condition: Condition, steps: int) -> Callable[[], object]:
    """peft with all adapters loaded and `adapter_names` for each row."""
    from peft import LoraConfig, set_peft_model_state_dict

    model = attach_adapter(backbone, _RANK)
    assert set(read_adapter(model)) == set(adapters[0])
    for number, adapter in enumerate(adapters):
        with torch.random.fork_rng(devices=[]):
            model.add_adapter(f"shard-{number}", LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=backbone.adapter_targets))
        set_peft_model_state_dict(model, adapter, adapter_name=f"shard-{number}")
    model.eval()
    names = [f"shard-{number}" for number in range(len(adapters)) for _ in condition.seeds]

    @torch.no_grad()
    def sample() -> torch.Tensor:
        x = torch.stack([draw_start(backbone, seed) for seed in condition.seeds])
        tokens = encode_each(backbone, condition.captions).repeat(len(adapters), 1, 1)
        for step in range(steps):
            rows = x.repeat(len(adapters), 1, 1, 1).contiguous(memory_format=torch.channels_last)
            t = torch.full((len(rows),), 1 - step / steps)
            velocity = model(rows, t * TIME_SCALE, tokens, return_dict=False, adapter_names=names)[0]
            x = x - velocity.view(len(adapters), *x.shape).mean(dim=0) / steps
        return x

    return sample


@torch.no_grad()
def _compare_velocities(backbone: PixelBackbone, networks: list[torch.nn.Module], adapters: list[AdapterTensors]) -> tuple[float, float]:
    """Of one picture's velocities: the largest difference between stacked and merged, and how far the two most alike experts are apart.

    The second is what the first would be if stacking mixed experts up.
    """
    x, tokens = draw_start(backbone, 0)[None], encode_each(backbone, [_CAPTION])
    together = StackedExperts(backbone, adapters).predict_velocities(x, 0.5, tokens)
    in_turn = torch.stack([evaluate_network(network, x, 0.5, tokens) for network in networks])
    apart = [float((first - second).abs().max()) for first, second in combinations(in_turn, 2)]
    return float((together - in_turn).abs().max()), min(apart, default=0.0)
