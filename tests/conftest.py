"""What all tests share: a tiny real model, a tiny data set, and the paths of the real test data."""

import json
import os
import random
import signal
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("TROVE_SHARED", PROJECT.parent / "shared"))

# A shell that runs the tests in the background has them ignore Ctrl-C, and all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test reaches the Hub or a tracker, and none writes to the user's folders.
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false")
# Two tests at a time share two cores: threads that have nothing to do must not spin while they wait.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real test collections; set TROVE_SHARED to the folder that holds data/."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"real test data not found: {SHARED / 'data'} (set TROVE_SHARED)")
    return SHARED / "data"


WORDS = [
    "wing", "flow", "heat", "shock", "wave", "layer", "plate", "jet", "drag", "lift", "nose", "cone",
    "speed", "sound", "mach", "gas", "body", "edge", "test", "model", "theory", "mixing", "pressure",
    "laminar", "turbulent", "supersonic", "boundary", "transfer", "velocity", "cylinder",
]  # fmt: skip


def make_model(
    folder: Path, seed: int = 0, width: int = 32, positions: int = 128, layers: int = 2
) -> Path:
    """Write a small random BERT with a word-piece tokenizer over WORDS, as transformers saves it."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = [chr(code) for code in range(97, 123)]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
    )
    BertModel(config).eval().save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_dataset(folder: Path, documents: int = 60, queries: int = 12, seed: int = 0) -> Path:
    """Write corpus.jsonl, queries.jsonl and qrels.tsv (BEIR's layout) of random words."""
    chance = random.Random(seed)

    def phrase(length: int) -> str:
        return " ".join(chance.choice(WORDS) for _ in range(length))

    corpus = [
        {"_id": f"d{n}", "title": phrase(2), "text": phrase(chance.randint(3, 40))}
        for n in range(documents)
    ]
    write_jsonl(folder / "corpus.jsonl", corpus)
    asked = [{"_id": f"q{n}", "text": phrase(4)} for n in range(queries)]
    write_jsonl(folder / "queries.jsonl", asked)
    lines = ["query-id\tcorpus-id\tscore"]
    for query in asked[:-1]:  # the last query has no judgments
        for document in chance.sample(corpus, 3):
            lines.append(f"{query['_id']}\t{document['_id']}\t{chance.randint(0, 2)}")
    (folder / "qrels.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "other", seed=1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """kind → folder with a random model and its tokenizer, as transformers saves them; made once."""
    from tests.models import byte_tokenizer, random_model

    made = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            random_model(kind).eval().save_pretrained(made[kind])
            byte_tokenizer(kind).save_pretrained(made[kind])
        return made[kind]

    return folder
