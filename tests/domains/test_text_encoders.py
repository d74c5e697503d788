"""Frozen text encoders: the hashed one's promises, and a real one of transformers, built here and saved."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyjepa.core.errors import UserError
from anyjepa.domains.text_encoders import BAG, bag_of_words, text_encoder, text_reader, words_of
from anyjepa.engine.run import build_method
from anyjepa.recipes import recipe

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "a",
    "red",
    "blue",
    "circle",
    "square",
    "at",
    "the",
    "top",
    "left",
]


def hashed(*texts, length=8, width=64):
    ids, said = text_reader("hashed", length)(texts)
    return text_encoder("hashed", width)(ids, said), said


def cosine(one, other):
    return float(torch.cosine_similarity(one, other, dim=0))


def test_words_are_cut_as_people_write():
    assert words_of("A red-ish Circle, Top left!") == [
        "a",
        "red",
        "-",
        "ish",
        "circle",
        ",",
        "top",
        "left",
        "!",
    ]
    assert words_of("chat «noir» 😀") == ["chat", "«", "noir", "»", "😀"]
    assert words_of(" \n") == []


def test_equal_words_are_alike_and_unlike_ones_are_not():
    (first,), _ = hashed("circle")
    (plural,), _ = hashed("circles")
    (other,), _ = hashed("square")
    assert torch.equal(hashed("circle")[0][0], first), "always the same vectors"
    assert cosine(first[0], plural[0]) > cosine(first[0], other[0]) + 0.2
    tokens, _ = hashed("red circle blue square", "blue circle red square")
    assert cosine(tokens[0, 1], tokens[1, 1]) < 0.99, "a word is told from itself after another word"


@settings(max_examples=30)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=3))
def test_any_text_is_read(texts):
    values, said = hashed(*texts, length=5)
    assert values.shape == (len(texts), 5, 64)
    assert torch.isfinite(values).all()
    assert said.sum(1).tolist() == [min(5, len(words_of(text))) for text in texts]


def test_a_bag_counts_words_whatever_their_order():
    ids, said = text_reader("hashed", 8)(["red red blue", "blue red red", "red"])
    bag = bag_of_words(ids, said)
    assert bag.shape == (3, BAG)
    assert torch.equal(bag[0], bag[1])
    assert bag.sum(1).tolist() == [3, 3, 1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny BERT with a vocabulary of its own, as save_pretrained writes it."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **shape)).save_pretrained(folder)
    return folder


def test_a_model_of_transformers_reads(saved):
    reader, encoder = text_reader(str(saved), 8), text_encoder(str(saved), 1)
    encoder.eval()
    ids, said = reader(["a red circle", "a blue square at the top left", ""])
    assert ids.shape == said.shape == (3, 8)
    assert said.sum(1).tolist() == [5, 8, 0], "with its marks of beginning and end, cut at eight"
    values = encoder(ids, said)
    assert values.shape == (3, 8, 16)
    assert encoder.width == 16
    assert torch.isfinite(values).all(), "also of a text that is all padding"
    more, longer = text_reader(str(saved), 12)(["a red circle"])
    torch.testing.assert_close(encoder(more, longer)[0, :5], values[0, :5])
    assert bag_of_words(ids, said).sum(1).tolist() == [5, 8, 0]


def test_a_folder_of_sentence_transformers_is_such_a_model(saved, tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps([{"idx": 0, "path": "0_Transformer"}]))
    (tmp_path / "0_Transformer").symlink_to(saved)
    ids, said = text_reader(str(tmp_path), 6)(["a red circle"])
    encoders = [text_encoder(str(folder), 1).eval() for folder in (tmp_path, saved)]
    assert torch.equal(encoders[0](ids, said), encoders[1](ids, said))


def test_ti_jepa_learns_upon_it_and_leaves_it_as_it_is(saved):
    small = {"width": 24, "depth": 1, "heads": 2, "stack_heads": 2, "predictor_width": 16,
             "predictor_depth": 1, "predictor_heads": 2, "text": str(saved), "text_length": 8}  # fmt: skip
    kind = recipe("ti-jepa").preset("tiny", **small)
    method = build_method(kind, {"channels": 3, "mean": [119.0] * 3, "std": [58.0] * 3}, 0).train()
    assert not any(part.training for part in method.encoder.text.modules()), "its dropout stays off"
    batch = {"image": torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)}
    batch |= kind.read(["a red circle", "a blue square", "", "the top left"])
    from anyjepa.core.method import Context

    losses = [method(batch, Context(1, 10, torch.Generator().manual_seed(3)))["loss"] for _ in range(2)]
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(one.grad is None for one in method.encoder.text.parameters())
    assert method.encoder.stack.project.weight.grad.any()


def test_an_encoder_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="there is no text encoder"):
        text_encoder(str(tmp_path), 1)
    with pytest.raises(UserError, match="there is no text encoder"):
        text_reader(str(tmp_path / "nowhere"), 4)
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(UserError, match="there is no text encoder"):
        text_encoder(str(tmp_path), 1)
