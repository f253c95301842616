"""Settings: what a model's folder says, what the configuration overrides, what is refused."""

import json
import subprocess
import sys

import pytest

from trove_steps import own_code
from trove_steps.errors import TroveStepsError
from trove_steps.models.files import model_files, relevant_files
from trove_steps.models.folder import base_folder
from trove_steps.models.sentence_transformers_files import read_modules
from trove_steps.models.settings import ModelSettings
from trove_steps.models.settings_resolution import resolve_settings

ST = "sentence_transformers.models."


def write(folder, name, value):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


@pytest.fixture
def plain(tmp_path):
    """A folder with configuration and weights, without sentence-transformers files."""
    folder = tmp_path / "model"
    write(folder, "config.json", {"model_type": "bert", "max_position_embeddings": 512})
    write(folder, "model.safetensors", "weights")
    write(folder, "tokenizer.json", "{}")
    return folder


def add_modules(folder, kinds=("Transformer", "Pooling", "Normalize"), pooling=None):
    """Write modules.json and what it names; a kind with a dot is a type of its own."""
    modules = []
    for number, kind in enumerate(kinds):
        path = "" if kind.endswith("Transformer") else f"{number}_{kind}"
        full = kind if "." in kind else ST + kind
        modules.append({"idx": number, "name": str(number), "path": path, "type": full})
        if kind == "Pooling":
            write(folder, f"{path}/config.json", pooling or {"pooling_mode_mean_tokens": True})
        elif kind == "Dense":
            write(folder, f"{path}/config.json", {"in_features": 2, "out_features": 2})
            write(folder, f"{path}/model.safetensors", "weights")
    write(folder, "modules.json", modules)
    return folder


def test_pooling_is_never_guessed(plain):
    with pytest.raises(TroveStepsError, match=r"models\.m\.pooling.*mean, first_token, last_token"):
        resolve_settings(plain, {}, "m")


def test_defaults_are_troves(plain):
    settings = resolve_settings(plain, {"pooling": "mean"}, "m")
    assert (settings.query_max_len, settings.passage_max_len) == (32, 128)
    assert not settings.normalize
    assert settings.similarity == "dot"
    assert settings.sources["pooling"] == "config"
    assert settings.sources["query_max_len"] == "default"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "first_token"),
        ({"pooling_mode_lasttoken": True}, "last_token"),
        ({"pooling_mode": "cls"}, "first_token"),
        ({"pooling_mode": ["lasttoken"]}, "last_token"),
        ({"pooling_mode": "weightedmean"}, "weighted_mean"),
    ],
)
def test_pooling_of_sentence_transformers(plain, config, expected):
    settings = resolve_settings(add_modules(plain, pooling=config), {}, "m")
    assert settings.pooling == expected
    assert settings.sources["pooling"] == "1_Pooling/config.json"
    assert settings.normalize
    assert not settings.append_eos, "sentence-transformers appends nothing itself"


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
        {"pooling_mode": "mean_sqrt_len_tokens"},
        {"pooling_mode": "mean", "include_prompt": False},
    ],
)
def test_pooling_that_cannot_be_run_is_refused_unless_overridden(plain, config):
    add_modules(plain, pooling=config)
    with pytest.raises(TroveStepsError, match=r"models\.m\.pooling"):
        resolve_settings(plain, {}, "m")
    assert resolve_settings(plain, {"pooling": "first_token"}, "m").pooling == "first_token"


def test_configuration_wins(plain):
    add_modules(plain)
    given = {"pooling": "first_token", "normalize": "no", "query_max_len": 7, "similarity": "dot"}
    settings = resolve_settings(plain, given, "m")
    chosen = (settings.pooling, settings.normalize, settings.query_max_len, settings.similarity)
    assert chosen == ("first_token", False, 7, "dot")
    assert settings.sources["normalize"] == "config"


def test_length_prompts_and_similarity_come_from_the_files(plain):
    add_modules(plain, kinds=("Transformer", "Pooling"))
    write(plain, "sentence_bert_config.json", {"max_seq_length": 300})
    described = {
        "prompts": {"query": "ask {it}: ", "document": "doc: "},
        "similarity_fn_name": "dot",
    }
    write(plain, "config_sentence_transformers.json", described)
    settings = resolve_settings(plain, {}, "m")
    assert settings.query_max_len == settings.passage_max_len == 300
    assert settings.query_format.format(text="x") == "ask {it}: x"
    assert settings.passage_format.format(title="t", text="x") == "doc: t x"
    assert (settings.similarity, settings.normalize) == ("dot", False)


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [(("Transformer", "Pooling"), "cosine"), (("Transformer", "Pooling", "Normalize"), "dot")],
)
def test_similarity_of_sentence_transformers_is_cosine_by_default(plain, kinds, expected):
    assert resolve_settings(add_modules(plain, kinds), {}, "m").similarity == expected


def test_unknown_similarity_is_refused(plain):
    add_modules(plain)
    write(plain, "config_sentence_transformers.json", {"similarity_fn_name": "euclidean"})
    with pytest.raises(TroveStepsError, match="euclidean"):
        resolve_settings(plain, {}, "m")
    assert resolve_settings(plain, {"similarity": "dot"}, "m").similarity == "dot"


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("Transformer", "WeightedLayerPooling", "Pooling"), "WeightedLayerPooling"),
        (("Transformer", "Pooling", "Normalize", "Dense"), "order"),
        (("Transformer", "Dense", "Pooling"), "order"),
        (("Transformer", "Pooling", "LayerNorm"), "LayerNorm"),
    ],
)
def test_modules_that_would_be_skipped_are_refused(plain, kinds, message):
    with pytest.raises(TroveStepsError, match=message):
        resolve_settings(add_modules(plain, kinds), {}, "m")


@pytest.mark.parametrize(
    "kinds",
    [
        ("custom_st.Transformer", "Pooling", "Normalize"),  # as jina-embeddings-v3 has it
        ("Transformer", "my_code.pooling.Pooling"),
        ("Transformer", "Pooling", "sentence_transformers_of_mine.Normalize"),
    ],
)
def test_a_module_of_the_models_own_is_not_taken_for_the_stock_one(plain, tmp_path, kinds):
    add_modules(plain, kinds)
    own = next(kind for kind in kinds if "." in kind)
    with pytest.raises(TroveStepsError, match=rf"{own} can't be run here.*encoder_class"):
        resolve_settings(plain, {"pooling": "mean"}, "m")
    write(plain, "1_my_code.pooling.Pooling/any.bin", "x")
    names = relevant_files(plain)
    assert ("1_my_code.pooling.Pooling/any.bin" in names) == ("my_code.pooling.Pooling" in kinds)


def test_a_class_of_ones_own_runs_modules_of_the_models_own(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "runs_all.py", "class Mine: ...\n")
    add_modules(plain, ("custom_st.Transformer", "Pooling", "Normalize"))
    write(plain, "sentence_bert_config.json", {"max_seq_length": 300})
    settings = resolve_settings(plain, {"encoder_class": "runs_all:Mine"}, "m")
    assert (settings.pooling, settings.normalize) == (None, False)
    assert settings.passage_max_len == 300


@pytest.mark.parametrize(
    "prefix",
    ["sentence_transformers.base.modules.", "sentence_transformers.sentence_transformer.modules."],
)
def test_types_as_newer_sentence_transformers_writes_them(plain, prefix):
    kinds = [f"{prefix}{kind.lower()}.{kind}" for kind in ("Transformer", "Pooling", "Normalize")]
    write(
        plain,
        "modules.json",
        [{"idx": n, "path": f"{n}" if n else "", "type": kind} for n, kind in enumerate(kinds)],
    )
    write(plain, "1/config.json", {"pooling_mode": "cls"})
    assert resolve_settings(plain, {}, "m").pooling == "first_token"


def test_code_in_subfolders_is_in_the_key(plain):
    write(plain, "modeling.py", "from .layers.attention import A")
    write(plain, "layers/attention.py", "A = 1")
    write(plain, ".cache/old.py", "")
    write(plain, "__pycache__/x.py", "")
    assert {"modeling.py", "layers/attention.py"} <= set(relevant_files(plain))
    assert not {name for name in relevant_files(plain) if "cache" in name}


def test_dense_modules_are_found_and_in_the_key(plain):
    add_modules(plain, ("Transformer", "Pooling", "Dense", "Normalize"))
    assert read_modules(plain).dense == ("2_Dense",)
    assert {"2_Dense/config.json", "2_Dense/model.safetensors"} <= set(relevant_files(plain))


def test_length_must_fit_the_positions(plain):
    with pytest.raises(TroveStepsError, match=r"models\.m\.passage_max_len: 513 .*512"):
        resolve_settings(plain, {"pooling": "mean", "passage_max_len": 513}, "m")
    config = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    write(plain, "config.json", config)
    assert resolve_settings(plain, {"pooling": "mean", "passage_max_len": 512}, "m")
    with pytest.raises(TroveStepsError, match="512 positions"):
        resolve_settings(plain, {"pooling": "mean", "passage_max_len": 513}, "m")


def test_contriever_is_mean_without_normalization(plain):
    settings = resolve_settings(plain, {"encoder_class": "contriever"}, "m")
    by_hand = resolve_settings(plain, {"pooling": "mean", "normalize": False}, "m")
    assert settings.encoder_recipe("query") == by_hand.encoder_recipe("query")
    with pytest.raises(TroveStepsError, match="contriever"):
        resolve_settings(plain, {"encoder_class": "contriever", "pooling": "first_token"}, "m")


def test_last_token_appends_eos_unless_the_files_say_the_pooling(plain):
    assert resolve_settings(plain, {"pooling": "last_token"}, "m").append_eos
    assert not resolve_settings(
        plain, {"pooling": "last_token", "append_eos": False}, "m"
    ).append_eos


def test_dtype_auto_is_the_checkpoints(plain):
    write(plain, "config.json", {"model_type": "bert", "torch_dtype": "bfloat16"})
    settings = resolve_settings(plain, {"pooling": "mean", "torch_dtype": "auto"}, "m")
    assert settings.torch_dtype == "bfloat16"
    assert settings.encoder_recipe("query")["torch_dtype"] == "bfloat16"


def test_recipe_of_common_options_is_stable():
    """A changed recipe renames every vector that anybody has: only on purpose, with a new version."""
    settings = ModelSettings(pooling="mean", normalize=True, query_max_len=32, passage_max_len=128)
    expected = {"pooling": "mean", "normalize": True, "torch_dtype": "float32", "append_eos": False}
    assert settings.encoder_recipe("query") == {**expected, "max_len": 32}
    assert settings.encoder_recipe("passage") == {**expected, "max_len": 128}


@pytest.mark.parametrize(
    "given",
    [
        {"padding_side": "left"},
        {"truncation_side": "left"},
        {"append_eos": True},
        {"load_in_8bit": True},
        {"load_in_4bit": True},
        {"torch_dtype": "bfloat16"},
        {"pooling": "first_token"},
        {"normalize": True},
        {"passage_max_len": 5},
    ],
)
def test_what_changes_vectors_changes_the_recipe(plain, given):
    before = resolve_settings(plain, {"pooling": "mean"}, "m").encoder_recipe("passage")
    after = resolve_settings(plain, {"pooling": "mean", **given}, "m").encoder_recipe("passage")
    assert before != after


@pytest.mark.parametrize(
    "given",
    [{"pad_to_multiple_of": 8}, {"attn_implementation": "eager"}, {"query_format": "q: {text}"}],
)
def test_what_does_not_change_vectors_leaves_the_recipe(plain, given):
    before = resolve_settings(plain, {"pooling": "mean"}, "m").encoder_recipe("passage")
    assert before == resolve_settings(plain, {"pooling": "mean", **given}, "m").encoder_recipe(
        "passage"
    )


def test_every_model_option_of_the_schema_is_a_setting():
    from trove_steps.arguments import model_options

    options = {*model_options("corpus"), *model_options("queries")}
    options -= {"model_name_or_path", "model_revision"}
    assert options <= set(ModelSettings.__dataclass_fields__)


def test_own_class_is_found_and_its_source_is_in_the_recipe(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "own_encoder.py", "class Mine: ...\n")
    given = {"encoder_class": "own_encoder:Mine"}
    before = resolve_settings(plain, given, "m").encoder_recipe("query")
    write(tmp_path, "own_encoder.py", "class Mine: pass\n")
    assert before != resolve_settings(plain, given, "m").encoder_recipe("query")
    with pytest.raises(TroveStepsError, match=r"models\.m\.encoder_class.*absent\.py"):
        own_code.source_file("absent:Mine", "models.m.encoder_class")


def test_weights_that_are_read_are_named_and_training_state_is_not(plain):
    for name in (
        "pytorch_model.bin",
        "optimizer.pt",
        "training_args.bin",
        "README.md",
        "model.onnx",
    ):
        write(plain, name, "x")
    assert relevant_files(plain) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_sharded_weights_and_their_gaps(plain):
    (plain / "model.safetensors").unlink()
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    write(plain, "model.safetensors.index.json", index)
    write(plain, "part-1.safetensors", "x")
    with pytest.raises(TroveStepsError, match=r"part-2\.safetensors"):
        relevant_files(plain)
    write(plain, "part-2.safetensors", "x")
    names = {"model.safetensors.index.json", "part-1.safetensors", "part-2.safetensors"}
    assert names <= set(relevant_files(plain))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_incomplete_folder(plain, name):
    (plain / name).unlink()
    with pytest.raises(TroveStepsError, match=r"no config\.json|no weights"):
        relevant_files(plain)


@pytest.mark.parametrize("with_config", [True, False])
def test_gguf_weights_are_named(plain, with_config):
    (plain / "model.safetensors").unlink()
    write(plain, "model-q4.gguf", "x")
    if not with_config:
        (plain / "config.json").unlink()
    with pytest.raises(TroveStepsError, match=r"model-q4\.gguf.*save_pretrained"):
        relevant_files(plain)
    write(plain, "config.json", {"model_type": "bert"})
    write(plain, "model.safetensors", "x")
    assert "model.safetensors" in relevant_files(plain), "beside other weights it is left alone"


def test_adapter_names_the_files_of_its_base(plain, tmp_path):
    adapter = tmp_path / "adapter"
    write(adapter, "adapter_config.json", {"base_model_name_or_path": "../model"})
    write(adapter, "adapter_model.safetensors", "x")
    assert base_folder(adapter).resolve() == plain
    names = set(model_files(adapter))
    assert {"adapter_model.safetensors", "base/config.json", "base/model.safetensors"} <= names
    assert not any(str(tmp_path) in name for name in names), "a key must not hold a path"
    assert all(path.is_file() for path in model_files(adapter).values())


def test_adapter_without_base(tmp_path):
    write(tmp_path, "adapter_config.json", {})
    with pytest.raises(TroveStepsError, match="base_model_name_or_path"):
        base_folder(tmp_path)


def test_damaged_json_is_named(plain):
    write(plain, "modules.json", "{")
    with pytest.raises(TroveStepsError, match=r"modules\.json: not valid JSON"):
        resolve_settings(plain, {}, "m")


def test_code_from_another_repository_is_refused(plain):
    write(plain, "config.json", {"auto_map": {"AutoModel": "someone/else--modeling.Model"}})
    with pytest.raises(TroveStepsError, match="someone/else"):
        resolve_settings(plain, {"pooling": "mean", "trust_remote_code": True}, "m")


def test_quantizations_exclude_each_other(plain):
    with pytest.raises(TroveStepsError, match="exclude each other"):
        resolve_settings(
            plain, {"pooling": "mean", "load_in_8bit": True, "load_in_4bit": True}, "m"
        )


def test_imports_stay_light():
    code = (
        "import sys, trove_steps.models.settings_resolution;"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pandas', 'wandb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_vector_cannot_be_cut_to_more_than_it_has(plain):
    write(
        plain,
        "config.json",
        {"model_type": "bert", "max_position_embeddings": 512, "hidden_size": 4},
    )
    given = {"pooling": "mean", "truncate_dim": 5}
    with pytest.raises(TroveStepsError, match=r"models\.m\.truncate_dim: 5 is more than the 4 dim"):
        resolve_settings(plain, given, "m")
    assert resolve_settings(plain, {**given, "truncate_dim": 4}, "m").truncate_dim == 4
