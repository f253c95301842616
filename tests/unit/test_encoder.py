"""The encoder: equal to sentence-transformers, pure vectors, adapters, own classes, errors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.models import (
    HARD_TEXTS,
    KINDS,
    MAX_LEN,
    TROVE,
    byte_tokenizer,
    copy_of,
    encoder_of,
    minilm,
    mixed_texts,
    settings_of,
)
from trove_steps.encoder import Encoder
from trove_steps.errors import TroveStepsError
from trove_steps.models.settings_resolution import resolve_settings

# Padding on the right and on the left, an encoder and a decoder; the rest takes its time.
QUICK_AND_SLOW = [
    kind if kind in ("bert", "qwen3") else pytest.param(kind, marks=pytest.mark.slow)
    for kind in KINDS
]


def sentence_transformer(
    folder: Path, pooling: str, dense: bool = False, normalize: bool = True, **options
):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules as models

    inner = models.Transformer(str(folder), max_seq_length=MAX_LEN, **options)
    if inner.tokenizer.pad_token is None:
        inner.tokenizer.pad_token = inner.tokenizer.eos_token
    modules = [inner, models.Pooling(inner.get_embedding_dimension(), pooling_mode=pooling)]
    if dense:
        modules.append(models.Dense(modules[1].get_embedding_dimension(), 12))
    return SentenceTransformer(
        modules=[*modules, *([models.Normalize()] if normalize else [])], device="cpu"
    )


@pytest.mark.slow  # importing sentence-transformers alone takes 20 seconds
@pytest.mark.parametrize("kind", KINDS)
def test_equals_sentence_transformers(kind, folders, tmp_path):
    reference = sentence_transformer(folders(kind), KINDS[kind])
    reference.save(str(tmp_path))
    settings = resolve_settings(tmp_path, {}, kind)
    assert (settings.pooling, settings.query_max_len) == (TROVE[KINDS[kind]], MAX_LEN)
    texts = HARD_TEXTS + mixed_texts(20)
    encoded = Encoder(tmp_path, settings, MAX_LEN).encode(texts)
    expected = np.stack([reference.encode([text])[0] for text in texts])
    np.testing.assert_allclose(encoded.vectors, expected, atol=1e-5, rtol=0)
    together = reference.encode(texts, batch_size=8)
    np.testing.assert_allclose(encoded.vectors, together, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_minilm_equals_sentence_transformers():
    from sentence_transformers import SentenceTransformer

    folder = minilm()
    settings = resolve_settings(folder, {}, "minilm")
    reference = SentenceTransformer(str(folder), device="cpu")
    long = "The boundary layer over a flat plate at supersonic speed. " * 40
    texts = [*HARD_TEXTS, long, "Ünïcödé 🚀 风洞 " * 100, *mixed_texts(20)]
    encoder = Encoder(folder, settings, settings.passage_max_len)
    encoded = encoder.encode(texts)
    assert settings.passage_max_len == reference.max_seq_length == 256
    assert (encoded.cut > 0).sum() == 2
    expected = reference.encode(texts, batch_size=8)
    np.testing.assert_allclose(encoded.vectors, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["max", "weightedmean"])
def test_other_poolings_equal_sentence_transformers(mode, folders, tmp_path):
    reference = sentence_transformer(folders("bert"), mode)
    reference.save(str(tmp_path))
    settings = resolve_settings(tmp_path, {}, "m")
    texts = HARD_TEXTS + mixed_texts(10)
    encoded = Encoder(tmp_path, settings, MAX_LEN).encode(texts)
    expected = reference.encode(texts, batch_size=8)
    np.testing.assert_allclose(encoded.vectors, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_lower_case_equals_sentence_transformers(folders, tmp_path):
    reference = sentence_transformer(folders("bert"), "mean", do_lower_case=True)
    reference.save(str(tmp_path))
    texts = ["Mixed CASE Straße ÉCOLE", *HARD_TEXTS]
    encoded = Encoder(tmp_path, resolve_settings(tmp_path, {}, "m"), MAX_LEN).encode(texts)
    np.testing.assert_allclose(encoded.vectors, reference.encode(texts), atol=1e-5, rtol=0)
    cased = encoder_of(folders, "bert").encode(texts[:1]).vectors
    assert np.abs(cased - encoded.vectors[:1]).max() > 1e-3


@pytest.mark.slow
def test_dense_module_and_no_normalization(folders, tmp_path):
    reference = sentence_transformer(folders("bert"), "mean", dense=True, normalize=False)
    reference.save(str(tmp_path))
    settings = resolve_settings(tmp_path, {}, "m")
    assert not settings.normalize
    encoder = Encoder(tmp_path, settings, MAX_LEN)
    assert encoder.dim == 12
    texts = HARD_TEXTS + mixed_texts(5)
    np.testing.assert_allclose(
        encoder.encode(texts).vectors, reference.encode(texts), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("kind", QUICK_AND_SLOW)
def test_padding_side_does_not_matter(kind, folders):
    texts = HARD_TEXTS + mixed_texts(10)
    right = encoder_of(folders, kind).encode(texts).vectors
    left = (
        encoder_of(folders, kind, padding_side="left", pad_to_multiple_of=16).encode(texts).vectors
    )
    np.testing.assert_allclose(left, right, atol=1e-5, rtol=0)


def test_counts(folders):
    encoder = encoder_of(folders, "bert")  # two special tokens around one token per byte
    encoded = encoder.encode(["", "abc", "x" * 46, "x" * 47, "x" * 100])
    assert encoded.tokens == 2 + 5 + 3 * MAX_LEN
    assert encoded.truncated_texts == 2
    assert encoded.truncated_tokens == 1 + 54
    assert encoded.padded_tokens >= encoded.tokens
    assert set(encoded.seconds) == {"tokenize", "forward"}
    assert encoder.encode([]).vectors.shape == (0, 32)


def test_lengths_of_each_text(folders):
    encoded = encoder_of(folders, "bert").encode(["abc", "x" * 50, "", "x" * 46])
    assert encoded.lengths.tolist() == [5, MAX_LEN, 2, MAX_LEN]
    assert encoded.cut.tolist() == [0, 4, 0, 0]


def test_figures(folders):
    figures = encoder_of(folders, "bert").figures()
    assert figures["is_pure"] is True
    assert (figures["device"][:5], figures["attention"]) == ("cpu (", "sdpa")
    assert figures["tokens_per_batch"] == 256
    json.dumps(figures)


def test_fused_layers_keep_every_bit(folders, monkeypatch):
    from trove_steps.encoders import model_loading

    texts = HARD_TEXTS + mixed_texts(20)
    fused = encoder_of(folders, "bert")
    changed = [m for m in fused.model.model.modules() if "forward" in vars(m)]
    monkeypatch.setattr(model_loading, "fuse_layers", lambda model: None)
    plain = encoder_of(folders, "bert")
    assert not any("forward" in vars(m) for m in plain.model.model.modules())
    assert np.array_equal(fused.encode(texts).vectors, plain.encode(texts).vectors)
    assert len(changed) in (0, 2 * 3), "GELU and two sums in each of two layers, if torch can"


def test_budget_and_rows_together(folders):
    encoder = Encoder(folders("bert"), settings_of(), MAX_LEN, tokens_per_batch=1024, batch_size=32)
    shapes = []
    forward = encoder.model.forward
    encoder.model.forward = lambda ids, mask: shapes.append(ids.shape) or forward(ids, mask)
    encoder.encode(mixed_texts(60))
    assert max(rows * width for rows, width in shapes) <= 1024
    assert max(rows for rows, _ in shapes) == 32


@pytest.mark.parametrize("side", ["DPRQuestionEncoder", "DPRContextEncoder"])
def test_dpr(side, tmp_path):
    import torch
    import transformers as hf

    torch.manual_seed(4)
    config = hf.DPRConfig(
        vocab_size=260, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64, pad_token_id=1,
    )  # fmt: skip
    model = getattr(hf, side)(config).eval()
    model.save_pretrained(tmp_path)
    byte_tokenizer("bert").save_pretrained(tmp_path)
    encoder = Encoder(tmp_path, settings_of("first_token", normalize=False), MAX_LEN)
    ids = torch.tensor(encoder.tokenize(["laminar flow"]).ids)
    with torch.inference_mode():
        expected = model(ids, attention_mask=torch.ones_like(ids)).pooler_output.numpy()
    np.testing.assert_allclose(encoder.encode(["laminar flow"]).vectors, expected, atol=1e-5)
    with pytest.raises(TroveStepsError, match="set pooling: first_token"):
        Encoder(tmp_path, settings_of("mean"), MAX_LEN)


def test_batch_size_caps_rows(folders):
    encoder = Encoder(folders("bert"), settings_of(), MAX_LEN, batch_size=3)
    rows = []
    forward = encoder.model.forward
    encoder.model.forward = lambda ids, mask: rows.append(len(ids)) or forward(ids, mask)
    texts = mixed_texts(30)
    capped = encoder.encode(texts).vectors
    assert set(rows) == {3}
    whole = encoder_of(folders, "bert").encode(texts).vectors
    np.testing.assert_allclose(capped, whole, atol=1e-6)


def test_text_without_tokens_has_the_zero_vector(folders, tmp_path):
    tokenizer = byte_tokenizer("llama")
    tokenizer.backend_tokenizer.post_processor = None
    for path in folders("llama").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tokenizer.save_pretrained(tmp_path)
    encoded = Encoder(tmp_path, settings_of("last_token"), MAX_LEN).encode(["", "ab"])
    assert not encoded.vectors[0].any()
    assert np.isclose(np.linalg.norm(encoded.vectors[1]), 1)


def test_append_eos(folders):
    plain = encoder_of(folders, "llama")
    ending = encoder_of(folders, "llama", append_eos=True)
    assert ending.tokenize(["ab", "x" * 99]).ids[0] == [*plain.tokenize(["ab"]).ids[0], 2]
    assert len(ending.tokenize(["x" * 99]).ids[0]) == MAX_LEN
    # Qwen's tokenizer ends a text itself: not twice.
    assert encoder_of(folders, "qwen3", append_eos=True).tokenize(["ab"]).ids[0].count(2) == 1


def test_truncation_side(folders):
    text = "start" + "x" * 80 + "end"
    whole = byte_tokenizer("bert")(text)["input_ids"]
    left = encoder_of(folders, "bert", truncation_side="left").tokenize([text]).ids[0]
    assert left == [whole[0], *whole[-MAX_LEN + 1 :]]
    right = encoder_of(folders, "bert").tokenize([text]).ids[0]
    assert right == [*whole[: MAX_LEN - 1], whole[-1]]


@pytest.fixture
def adapter(folders, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    config = LoraConfig(target_modules=["query", "value"], r=4, init_lora_weights=False)
    wrapped = get_peft_model(AutoModel.from_pretrained(folders("bert")), config).eval()
    wrapped.save_pretrained(tmp_path)
    return tmp_path, wrapped


def test_merged_adapter_equals_wrapped(adapter, folders):
    import torch

    from trove_steps.encoders.pooling import pool

    folder, wrapped = adapter
    merged = Encoder(folder, settings_of(normalize=False), MAX_LEN)
    for text in ("laminar flow", "x" * 80):
        ids = torch.tensor(merged.tokenize([text]).ids)
        with torch.inference_mode():
            states = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids))[0]
        expected = pool(states, torch.ones_like(ids), "mean").numpy()
        vector = merged.encode([text]).vectors
        np.testing.assert_allclose(vector, expected, atol=1e-5)
        base = encoder_of(folders, "bert", normalize=False).encode([text]).vectors
        assert np.abs(vector - base).max() > 1e-3, "the adapter changes vectors"


def test_adapter_that_does_not_fit_is_refused(adapter):
    from safetensors.numpy import load_file, save_file

    folder, _ = adapter
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    save_file({name.replace("encoder", "decoder"): value for name, value in weights.items()}, path)
    with pytest.raises(TroveStepsError, match="does not fit its base model"):
        Encoder(folder, settings_of(), MAX_LEN)


def test_adapter_of_a_model_with_a_head(folders, tmp_path):
    """Retrievers are often tuned as language models: the adapter names layers below the head."""
    import torch
    import transformers as hf
    from peft import LoraConfig, get_peft_model

    base = tmp_path / "base"
    torch.manual_seed(5)
    config = hf.AutoConfig.from_pretrained(folders("llama"))
    hf.LlamaForCausalLM(config).save_pretrained(base)
    byte_tokenizer("llama").save_pretrained(base)
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    wrapped = get_peft_model(hf.AutoModelForCausalLM.from_pretrained(base), lora).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    encoder = Encoder(tmp_path / "adapter", settings_of("last_token", normalize=False), MAX_LEN)
    ids = torch.tensor(encoder.tokenize(["laminar flow"]).ids)
    with torch.inference_mode():
        expected = wrapped(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
    vector = encoder.encode(["laminar flow"]).vectors[0]
    np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)
    plain = Encoder(base, settings_of("last_token", normalize=False), MAX_LEN)
    assert np.abs(vector - plain.encode(["laminar flow"]).vectors[0]).max() > 1e-3


def one_line(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing_weights_are_not_made_up(folders, tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = copy_of(folders("bert"), tmp_path)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layer.1" in name)
    save_file(
        {k: v for k, v in weights.items() if k != lost},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(TroveStepsError) as error:
        Encoder(folder, settings_of(), MAX_LEN)
    assert lost in one_line(error)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_damaged_file(name, folders, tmp_path):
    path = copy_of(folders("bert"), tmp_path) / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(TroveStepsError) as error:
        Encoder(tmp_path, settings_of(), MAX_LEN)
    assert str(tmp_path) in one_line(error)


@pytest.mark.parametrize("name", ["cranfield"])
def test_minilm_equals_the_published_reference(name, shared_data):
    reference = shared_data / name / "reference"
    expected = np.load(reference / "doc_emb.npy", mmap_mode="r")
    ids = (reference / "doc_ids.txt").read_text(encoding="utf-8").split()
    lines = (shared_data / name / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    documents = {row["_id"]: row for row in map(json.loads, lines)}
    empty = [
        n
        for n, i in enumerate(ids)
        if not (documents[i].get("title", "") + documents[i]["text"]).strip()
    ]
    chosen = [*range(0, len(ids), len(ids) // 14), *empty]
    texts = [
        (documents[ids[number]].get("title", "") + " " + documents[ids[number]]["text"]).strip()
        for number in chosen
    ]
    folder = minilm()
    encoder = Encoder(folder, resolve_settings(folder, {}, "minilm"), 256)
    encoded = encoder.encode(texts)
    np.testing.assert_allclose(encoded.vectors, expected[chosen], atol=2e-6, rtol=0)
    alone = encoder.encode(texts[:1]).vectors[0]
    assert np.array_equal(alone, encoded.vectors[0])


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings_of().pooling = "max"
