"""The CLIP model: one small open_clip model that embeds pictures and captions and gives the backbone its text tokens.

It was trained from nothing on the public corpus alone (`cdm_core.pretraining.clip`), so no owner's picture is in it and it never
needs retraining when one withdraws. The folder follows open_clip's `local-dir:` layout: `open_clip_config.json`,
`open_clip_model.safetensors`, and `bpe_merges.txt.gz` for open_clip's own tokenizer: its standard table of 49,408 entries would take
12 MB here, ours takes 2,048.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

if TYPE_CHECKING:
    from open_clip import CLIP
    from open_clip.tokenizer import SimpleTokenizer

CLIP_FOLDER = Path(__file__).parent / "weights" / "clip"
EMBEDDING_WIDTH = 128
EMBEDDING_BATCH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A loaded CLIP with its tokenizer; pictures are float [B, 3, 32, 32] in [-1, 1], captions are text."""

    model: "CLIP"
    tokenizer: "SimpleTokenizer"

    @torch.no_grad()
    def embed_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Unit-length embeddings, float [B, 128], in batches of one shape, the last one padded: none depends on the others' number."""
        padded = torch.cat([pictures, pictures.new_zeros(-len(pictures) % EMBEDDING_BATCH, *pictures.shape[1:])])
        embeddings = [self.model.encode_image(batch) for batch in padded.split(EMBEDDING_BATCH)]
        return F.normalize(torch.cat(embeddings), dim=-1)[: len(pictures)]

    @torch.no_grad()
    def embed_captions(self, captions: list[str]) -> torch.Tensor:
        """Unit-length embeddings, float [B, 128]."""
        return F.normalize(self.model.encode_text(self.tokenizer(captions)), dim=-1)

    @torch.no_grad()
    def encode_tokens(self, captions: list[str]) -> torch.Tensor:
        """The text tower's last hidden states, float [B, 24, 128]: what the backbone's cross-attention reads."""
        tower = self.model
        hidden = tower.token_embedding(self.tokenizer(captions)) + tower.positional_embedding
        tokens: torch.Tensor = tower.ln_final(tower.transformer(hidden, attn_mask=tower.attn_mask))
        return tokens


def build_clip(config: dict[str, object], merges: Path) -> Clip:
    """An untrained model of the given `open_clip_config.json` contents."""
    from open_clip import CLIP  # imported here, as below: seconds, and who only composes and compares needs none of it
    from open_clip.tokenizer import SimpleTokenizer

    model = CLIP(**config["model_cfg"])  # type: ignore[arg-type]  # open_clip's own config keys
    context_length = model.context_length
    return Clip(model=model, tokenizer=SimpleTokenizer(bpe_path=str(merges), context_length=context_length))


def load_clip(folder: Path = CLIP_FOLDER) -> Clip:
    """Load the folder's weights in float32, in evaluation mode, without gradients."""
    config = json.loads((folder / "open_clip_config.json").read_bytes())
    clip = build_clip(config, folder / "bpe_merges.txt.gz")
    weights = {name: tensor.float() for name, tensor in load_file(folder / "open_clip_model.safetensors").items()}
    clip.model.load_state_dict(weights)
    clip.model.eval().requires_grad_(False)
    return clip


def pack_merges(merges: list[tuple[str, str]]) -> bytes:
    """The tokenizer file of open_clip's format: a comment line, then one merge a line, gzipped without a time stamp."""
    lines = ["#version: 0.2"] + [" ".join(pair) for pair in merges]
    return gzip.compress("\n".join(lines).encode(), mtime=0)


def num_merges(vocabulary_size: int) -> int:
    """Merges that fill the vocabulary beside the byte symbols (with and without word end) and the two special tokens."""
    from open_clip.tokenizer import bytes_to_unicode

    return vocabulary_size - 2 * len(bytes_to_unicode()) - 2
