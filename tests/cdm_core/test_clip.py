import gzip

import pytest
import torch

from cdm_core.clip import CLIP_FOLDER, EMBEDDING_BATCH, Clip, load_clip, num_merges, pack_merges


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip()


def pictures(num: int) -> torch.Tensor:
    return torch.rand(num, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_embeddings_are_of_unit_length(clip: Clip) -> None:
    for embeddings in (clip.embed_pictures(pictures(3)), clip.embed_captions(["red heart", "grinning face", ""])):
        assert embeddings.shape == (3, 128)
        assert torch.allclose(embeddings.norm(dim=-1), torch.ones(3), atol=1e-5)


@pytest.mark.parametrize("num", [1, 2, 15, 16, 17])
def test_a_picture_is_embedded_alike_whatever_others_there_are(clip: Clip, num: int) -> None:
    all_of_them = pictures(EMBEDDING_BATCH + 5)
    together = clip.embed_pictures(all_of_them)
    assert torch.equal(clip.embed_pictures(all_of_them[-num:]), together[-num:])


def test_tokens_follow_from_the_caption(clip: Clip) -> None:
    tokens = clip.encode_tokens(["red heart", "red heart", "blue heart"])
    assert tokens.shape == (3, 24, 128)
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])


def test_a_long_caption_is_cut(clip: Clip) -> None:
    long = " ".join(["heart"] * 100)
    assert torch.equal(clip.encode_tokens([long]), clip.encode_tokens([long + " and more"]))


def test_no_picture_gives_no_embedding(clip: Clip) -> None:
    assert clip.embed_pictures(torch.empty(0, 3, 32, 32)).shape == (0, 128)


def test_loading_is_frozen_and_repeatable(clip: Clip) -> None:
    again = load_clip().model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in clip.model.state_dict().items())
    assert not clip.model.training
    assert not any(parameter.requires_grad for parameter in clip.model.parameters())


def test_the_shipped_vocabulary_fills_its_table(clip: Clip) -> None:
    assert clip.model.token_embedding.num_embeddings == clip.tokenizer.vocab_size == 2048
    assert len(gzip.decompress((CLIP_FOLDER / "bpe_merges.txt.gz").read_bytes()).splitlines()) == 1 + num_merges(2048)


def test_packed_merges_have_one_form() -> None:
    packed = pack_merges([("a", "b"), ("ab", "c</w>")])
    assert packed == pack_merges([("a", "b"), ("ab", "c</w>")])
    assert gzip.decompress(packed) == b"#version: 0.2\na b\nab c</w>"
