"""Loading a model: its own code, attention kernels, quantization; and pooling in numbers."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.models import HARD_TEXTS, KINDS, MAX_LEN, copy_of, encoder_of, mixed_texts, settings_of
from trove_steps.encoder import Encoder
from trove_steps.encoders.model_loading import _quantization
from trove_steps.encoders.pooling import pool
from trove_steps.errors import TroveStepsError
from trove_steps.models.files import model_files


def with_code(model: Path, folder: Path) -> Path:
    """Copy a BERT and give it code of its own, which doubles every state."""
    copy_of(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "own_bert"
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "factor.py").write_text("FACTOR = 2.0\n")
    (folder / "own.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        "from .factor import FACTOR\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own_bert'\n"
        "class OwnModel(BertModel):\n    config_class = OwnConfig\n"
        "    def forward(self, *args, **kwargs):\n"
        "        return (super().forward(*args, **kwargs)[0] * FACTOR,)\n"
    )
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_a_vocabulary_is_refused(folders, tmp_path, kind):
    """transformers makes a tokenizer that knows no word: every text would be the same unknown tokens."""
    copy_of(folders(kind), tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(TroveStepsError, match="tokenizer"):
        Encoder(tmp_path, settings_of(), MAX_LEN)


def edited(name: str, **changes):
    """A function that changes entries of a JSON file of a folder."""

    def edit(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return edit


DAMAGED = {
    "another width": (
        edited("config.json", hidden_size=64),
        r"do not fit its config.json: \d+ are",
    ),
    "weights cut off": (
        lambda folder: os.truncate(folder / "model.safetensors", 5000),
        r"SafetensorError: .*; is the folder complete",
    ),
    "no weights in the file": (
        lambda folder: (folder / "model.safetensors").write_bytes(b"junk"),
        r"the model in \S*m can't be loaded: ",
    ),
    "a tokenizer that is none": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        r"the tokenizer in \S*m can't be loaded: \w+: ",
    ),
    "fewer words than the tokenizer": (
        edited("config.json", vocab_size=5),
        r"do not fit its config.json|which the model lacks",
    ),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_folder_is_named_with_the_reason(tiny_model, tmp_path, monkeypatch, damage):
    """By the name that the user gave it, not by that of a link in the cache."""
    change, message = DAMAGED[damage]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, "m")
    change(tmp_path / "m")
    Path("link").symlink_to("m")
    with pytest.raises(TroveStepsError, match=message) as error:
        Encoder(Path("link"), settings_of(), MAX_LEN).encode(["wing flow heat"])
    assert "link" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_token_that_the_model_lacks(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "m")
    path = tmp_path / "m" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["wing"] = 5000
    path.write_text(json.dumps(content))
    with pytest.raises(TroveStepsError, match="a token of the number 5000, which the model lacks"):
        Encoder(tmp_path / "m", settings_of(), MAX_LEN).encode(["wing"])


def test_code_in_the_folder_needs_the_switch(folders, tmp_path):
    folder = with_code(folders("bert"), tmp_path)
    with pytest.raises(TroveStepsError) as error:
        Encoder(folder, settings_of(), MAX_LEN)
    assert "trust_remote_code: true" in str(error.value)
    assert "\n" not in str(error.value)


def test_code_in_the_folder_is_run_with_the_switch(folders, tmp_path, monkeypatch):
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "m").mkdir()
    folder = with_code(folders("bert"), tmp_path / "m")
    texts = HARD_TEXTS + mixed_texts(5)
    trusted = settings_of(normalize=False, trust_remote_code=True)
    encoder = Encoder(folder, trusted, MAX_LEN)
    plain = encoder_of(folders, "bert", normalize=False).encode(texts).vectors
    np.testing.assert_allclose(encoder.encode(texts).vectors, 2 * plain, atol=1e-5, rtol=0)
    assert encoder.is_pure
    assert {"own.py", "factor.py"} <= set(model_files(folder))


def test_attention_kernels_agree(folders):
    texts = HARD_TEXTS + mixed_texts(10)
    eager = encoder_of(folders, "bert", attn_implementation="eager")
    sdpa = encoder_of(folders, "bert", attn_implementation="sdpa")
    assert (eager.figures()["attention"], sdpa.figures()["attention"]) == ("eager", "sdpa")
    difference = eager.encode(texts).vectors - sdpa.encode(texts).vectors
    assert np.abs(difference).max() < 1e-5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"load_in_8bit": True}, "load_in_8bit: needs a GPU.*leave it out"),
        ({"load_in_4bit": True}, "load_in_4bit: needs a GPU.*leave it out"),
        ({"attn_implementation": "flash_attention_2"}, "flash_attention_2 needs a GPU.*set sdpa"),
    ],
)
def test_what_needs_a_gpu(folders, options, said):
    with pytest.raises(TroveStepsError, match=said):
        encoder_of(folders, "bert", **options)


def test_flash_attention_needs_half_precision(folders):
    settings = settings_of(attn_implementation="flash_attention_2")
    with pytest.raises(TroveStepsError, match="set torch_dtype: bfloat16 or float16"):
        Encoder(folders("bert"), settings, MAX_LEN, device="cuda:0")


@pytest.mark.parametrize("option", ["load_in_8bit", "load_in_4bit"])
def test_quantization_needs_its_package(option, monkeypatch):
    from trove_steps.encoders import model_loading

    monkeypatch.setattr(model_loading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TroveStepsError, match=f"{option}: .*pip install bitsandbytes"):
        _quantization(settings_of(**{option: True}), "cuda:0")


# Two rows of three tokens, the first padded on the right, the second on the left.
STATES = [[[1.0, 8.0], [3.0, -2.0], [99.0, 99.0]], [[99.0, 99.0], [-1.0, 0.0], [5.0, 3.0]]]
MASK = [[1, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[2, 3], [2, 1.5]]),
        ("max", [[3, 8], [5, 3]]),
        ("first_token", [[1, 8], [-1, 0]]),
        ("last_token", [[3, -2], [5, 3]]),
        ("weighted_mean", [[7 / 3, 4 / 3], [3, 2]]),  # (1 · first + 2 · second) / 3
    ],
)
def test_pooling_by_hand(pooling, expected):
    import torch

    found = pool(torch.tensor(STATES), torch.tensor(MASK), pooling)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_lower_case_is_applied_before_the_tokenizer(folders, tmp_path):
    folder = copy_of(folders("bert"), tmp_path)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    encoder = Encoder(folder, settings_of(), MAX_LEN)
    lower = encoder_of(folders, "bert").encode(["wing école"]).vectors
    assert np.array_equal(encoder.encode(["Wing ÉCOLE"]).vectors, lower)
