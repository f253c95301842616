"""Every mistake in a configuration is one line that names the key; nothing else is ever raised."""

import copy
import datetime
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trove_steps.config.loading import load_config, section_defaults
from trove_steps.config.yaml_keys import check_unique_keys
from trove_steps.errors import TroveStepsError
from trove_steps.paths import check_file

BASE = """
datasets: {scifact: {corpus_path: c.jsonl, query_path: q.jsonl}}
models: {minilm: {model_name_or_path: model}}
"""

MINING = (
    "absolute_margin, cross_encoder, cross_encoder_max_len, exclude_text_twins, max_score, "
    "merge_mined_qrels, merge_models, min_score, near_twin_cosine, no_annot_in_mined_hn, num_negatives, "
    "output_qrel_format, preset, range_max, range_min, relative_margin, sampling, search_topk, seed, "
    "training_formats"
)


def load(text: str) -> dict:
    return load_config(yaml.safe_load(text))


def message_of(raw) -> str:
    with pytest.raises(TroveStepsError) as raised:
        load_config(raw)
    return str(raised.value)


def test_values_of_the_command_line():
    """Snakemake hands on what stands inside of `--config mining={search_topk: 7}` as texts."""
    raw = yaml.safe_load(BASE)
    raw["mining"] = {"search_topk": "70", "relative_margin": "0.5"}
    raw["evaluation"] = {"ir_metrics_k_values": ["1", "10"]}
    raw["keep_embeddings"] = "true"
    before = copy.deepcopy(raw)
    config = load_config(raw)
    assert (config["mining"]["search_topk"], config["mining"]["relative_margin"]) == (70, 0.5)
    assert config["evaluation"]["ir_metrics_k_values"] == [1, 10]
    assert config["keep_embeddings"] is True
    assert raw == before
    raw["mining"] = {"relative_margin": "1e-2", "num_negatives": "null"}
    mining = load_config(raw)["mining"]
    assert (mining["relative_margin"], mining["num_negatives"]) == (0.01, None)
    for text in ("010", "1:30", "7 # c", "!!int ''", "!!bool x", "!!timestamp x", "[" * 3000):
        raw["mining"] = {"search_topk": text}
        assert "is not a whole number" in message_of(raw)
    raw["mining"] = {}
    raw["evaluation"] = {"report_to": ["yes"]}  # a text is wanted there
    assert message_of(raw).startswith("evaluation.report_to")


def test_a_file_in_the_place_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, option in {"out": "output_dir", "vectors": "encoding_cache_dir"}.items():
        Path(name).touch()
        message = message_of({**yaml.safe_load(BASE), option: name})
        assert message == f"{option}: '{name}' is a file, where a folder is needed: move it away"
    Path("logs").touch()
    assert message_of(yaml.safe_load(BASE)).startswith("logs is a file")


# --- what is filled in ---------------------------------------------------------------------------


def test_defaults():
    config = load(BASE)
    assert config["encoding_cache_dir"] == "cache"
    assert config["output_dir"] == "results"
    assert config["nproc_per_node"] == "auto"
    assert "evaluation" not in config
    assert "mining" not in config
    assert config["datasets"]["scifact"] == {
        "corpus_path": ["c.jsonl"],
        "query_path": ["q.jsonl"],
        "exclude_identical_ids": False,
        "strict": False,
    }
    # What a model's files say outranks a default: nothing is filled in here.
    assert config["models"]["minilm"] == {"model_name_or_path": "model"}


@pytest.mark.parametrize("written", ["{}", "", "{wandb: }", "{wandb: {}}"])
def test_an_empty_section_is_asked_for_with_all_defaults(written):
    assert load(f"{BASE}evaluation: {written}\n")["evaluation"] == {
        "ir_metrics_k_values": [1, 3, 5, 10, 100],
        "measures": None,
        "ir_metrics_relevance_threshold": 1,
        "search_topk": None,
        "report_to": [],
        "wandb": {"project": None, "entity": None, "group": None, "mode": None, "tags": []},
        "comparison": {"measures": None, "samples": 10000, "confidence": 0.95, "seed": 0},
    }
    assert load(f"{BASE}evaluation: {written}\n")["evaluation"] == section_defaults("evaluation")


def test_the_raw_configuration_is_left_as_it_is():
    raw = OrderedDict(yaml.safe_load(BASE + "evaluation:\nmining: {search_topk: 5}\n"))
    before = copy.deepcopy(raw)
    load_config(raw)["evaluation"]["wandb"]["tags"].append("x")
    assert raw == before
    assert load_config(raw)["evaluation"]["wandb"]["tags"] == []
    assert load_config(load_config(raw)) == load_config(raw)


def test_sections_that_share_a_yaml_anchor_stay_apart():
    config = load(BASE + "evaluation: &same {}\nmining: *same\n")
    assert config["evaluation"]["search_topk"] is None
    assert config["mining"]["search_topk"] == 100


@pytest.mark.parametrize("written", ["'1,3,5'", "' 5, 1,3 '", "[5, 3, 1, 3]", "'3,1,5,5'"])
def test_cutoffs_as_trove_writes_them_or_as_a_list(written):
    config = load(f"{BASE}evaluation: {{ir_metrics_k_values: {written}}}")
    assert config["evaluation"]["ir_metrics_k_values"] == [1, 3, 5]


@pytest.mark.parametrize(
    ("written", "trackers"),
    [("wandb", ["wandb"]), ("[wandb]", ["wandb"]), ("none", []), ("[]", [])],
)
def test_trackers(written, trackers):
    config = load(f"{BASE}evaluation: {{report_to: {written}}}")
    assert config["evaluation"]["report_to"] == trackers


def test_home_folders_are_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    config = load(
        "datasets: {d: {corpus_path: ~/c, query_path: [~/q, q2]}}\n"
        "models: {m: {model_name_or_path: ~/m}}\nencoding_cache_dir: ~/cache\noutput_dir: ~/r\n"
    )
    assert config["datasets"]["d"]["corpus_path"] == ["/home/ada/c"]
    assert config["datasets"]["d"]["query_path"] == ["/home/ada/q", "q2"]
    assert config["models"]["m"]["model_name_or_path"] == "/home/ada/m"
    assert (config["encoding_cache_dir"], config["output_dir"]) == (
        "/home/ada/cache",
        "/home/ada/r",
    )


def test_pairs_take_one_name_or_a_list():
    config = load(BASE + "pairs: [{datasets: scifact}, {models: [minilm]}, {}]")
    assert config["pairs"] == [{"datasets": ["scifact"]}, {"models": ["minilm"]}, {}]


# --- mistakes ------------------------------------------------------------------------------------

NAME = "a name begins with a letter or digit and holds at most 100 letters, digits, '.', '_', '-'"
DATASET = (
    "datasets: {scifact: {corpus_path: c, query_path: q%s}}\nmodels: {m: {model_name_or_path: x}}"
)
MODEL = (
    "datasets: {d: {corpus_path: c, query_path: q}}\nmodels: {minilm: {model_name_or_path: x%s}}"
)
PAIR = "a section such as {datasets: scifact, models: [minilm, e5]}"
BRACES = "is not a path without braces, which snakemake reads as wildcards"
MISTAKES = [
    # unknown keys, at each level
    (BASE + "minig: {}", "minig: unknown key; did you mean 'mining'?"),
    (DATASET % ", qrels_path: r", "datasets.scifact.qrels_path: unknown key; did you mean 'qrel_path'?"),
    (MODEL % ", poling: mean", "models.minilm.poling: unknown key; did you mean 'pooling'?"),
    (BASE + "pairs: [{dataset: a}]", "pairs[0].dataset: unknown key; did you mean 'datasets'?"),
    (
        BASE + "evaluation: {ir_metric_k_value: [1]}",
        "evaluation.ir_metric_k_value: unknown key; did you mean 'ir_metrics_k_values'?",
    ),
    (
        BASE + "evaluation: {wandb: {projct: a}}",
        "evaluation.wandb.projct: unknown key; did you mean 'project'?",
    ),
    (
        BASE + "mining: {zzz: 1}",
        f"mining.zzz: unknown key; valid: {MINING}",
    ),
    (
        BASE + "mining: {yes: 1}",
        f"mining.true: unknown key; valid: {MINING}",
    ),
    # what must be there
    ("{}", "datasets: missing; it must be set\nmodels: missing; it must be set"),
    ("", "datasets: missing; it must be set\nmodels: missing; it must be set"),
    ("datasets:\nmodels: {}", "datasets: empty; name at least one\nmodels: empty; name at least one"),
    (
        "datasets: {d: }\nmodels: {m: {}}",
        "datasets.d.corpus_path: missing; it must be set\n"
        "datasets.d.query_path: missing; it must be set\n"
        "models.m.model_name_or_path: missing; it must be set",
    ),
    # types
    ("[1, 2]", "the configuration: [1, 2] is not a section"),
    ("datasets: 7\nmodels: {m: {model_name_or_path: x}}", "datasets: 7 is not a section"),
    (DATASET % ", qrel_path: 7", "datasets.scifact.qrel_path: 7 is not text or a list"),
    (DATASET % ", qrel_path: ''", "datasets.scifact.qrel_path: empty; it must be set"),
    (DATASET % ", qrel_path: []", "datasets.scifact.qrel_path: empty; name at least one"),
    (DATASET % ", qrel_path: [a, 7]", "datasets.scifact.qrel_path[1]: 7 is not text"),
    (DATASET % ", qrel_path: [a, b, a]", "datasets.scifact.qrel_path: 'a' stands there twice"),
    (
        DATASET % ", exclude_identical_ids: 1",
        "datasets.scifact.exclude_identical_ids: 1 is not true or false",
    ),
    (MODEL % ", query_max_len: 64k", "models.minilm.query_max_len: '64k' is not a whole number"),
    (MODEL % ", query_max_len: 64.0", "models.minilm.query_max_len: 64.0 is not a whole number"),
    (MODEL % ", query_max_len: true", "models.minilm.query_max_len: true is not a whole number"),
    (MODEL % ", query_max_len: 1", "models.minilm.query_max_len: 1 is less than 2"),
    (MODEL % ", query_max_len: 9999999", "models.minilm.query_max_len: 9999999 is more than 1000000"),
    (
        MODEL % ", pooling: cls",
        "models.minilm.pooling: 'cls' is not a valid value; valid: first_token, last_token, mean",
    ),
    (
        MODEL % ", pooling: first-token",
        "models.minilm.pooling: 'first-token' is not a valid value; did you mean 'first_token'?",
    ),
    (
        MODEL % ", normalize: maybe",
        "models.minilm.normalize: 'maybe' is not true or false or 'yes' or 'no'",
    ),
    (
        MODEL % ", query_format: 'query: {txt}'",
        "models.minilm.query_format: text template 'query: {txt}': only {title} and {text} can be filled "
        "in, not {txt}. Write a literal brace twice: {{ or }}",
    ),
    (
        MODEL % ", passage_format: '{title}'",
        "models.minilm.passage_format: text template '{title}' lacks {text}: all texts would be the same "
        "string",
    ),
    (BASE + "nproc_per_node: atuo", "nproc_per_node: 'atuo' is not 'auto' or a whole number"),
    (BASE + "nproc_per_node: 0", "nproc_per_node: 0 is less than 1"),
    (BASE + "pairs:", "pairs: empty; set it to a list, or leave the key out"),
    (BASE + "pairs: []", "pairs: empty; name at least one"),
    (BASE + "pairs: [7]", f"pairs[0]: 7 is not {PAIR}"),
    (BASE + "pairs: [scifact/minilm]", f"pairs[0]: 'scifact/minilm' is not {PAIR}"),
    (BASE + "output_dir: 2020-01-01", "output_dir: 2020-01-01 is not text"),
    (BASE + "output_dir: 'r{x}'", f"output_dir: 'r{{x}}' {BRACES}"),
    (BASE + "output_dir: ''", "output_dir: empty; it must be set"),
    (
        BASE + r'encoding_cache_dir: "a\0b"',
        r"encoding_cache_dir: 'a\x00b' holds the character U+0000, which no file name and no text can hold",
    ),
    (
        MODEL % r', query_format: "\ud800{text}"',
        r"models.minilm.query_format: '\ud800{text}' holds the character U+D800, which no file name and no "
        "text can hold",
    ),
    # evaluation and mining
    (
        BASE + "evaluation: {ir_metrics_k_values: [1, 0, a]}",
        "evaluation.ir_metrics_k_values[1]: 0 is less than 1\n"
        "evaluation.ir_metrics_k_values[2]: 'a' is not a whole number",
    ),
    (
        BASE + "evaluation: {ir_metrics_k_values: '1;3'}",
        "evaluation.ir_metrics_k_values: '1;3' is not a list or cut-offs like '1,3,5,10,100'",
    ),
    (
        BASE + "evaluation: {ir_metrics_k_values: 10}",
        "evaluation.ir_metrics_k_values: 10 is not a list or cut-offs like '1,3,5,10,100'",
    ),
    (
        BASE + "evaluation: {measures: [nDCG@20, bleu]}",
        "evaluation.measures: unknown measure 'bleu'; there are ndcg_cut, map_cut, recall, P, success, "
        "Rprec, mrr_cut, judged",
    ),
    (
        BASE + "evaluation: {measures: [nDCG@20], search_topk: 10}",
        "evaluation.search_topk: 10 is less than the largest cut-off 20 of evaluation.measures; "
        "raise it or leave it out",
    ),
    (
        BASE + "evaluation: {comparison: {measures: [nDCG@7]}}",
        "evaluation.comparison.measures: ndcg_cut_7 is not computed; did you mean 'ndcg_cut_5'?",
    ),
    (
        BASE + "evaluation: {comparison: {confidence: 0.3}}",
        "evaluation.comparison.confidence: 0.3 is less than 0.5",
    ),
    (
        BASE + "mining: {relative_margin: -0.1}",
        "mining.relative_margin: -0.1 is less than 0",
    ),
    (BASE + "mining: {max_score: high}", "mining.max_score: 'high' is not a number or null"),
    (
        BASE + "mining: {max_score: .nan}",
        "mining.max_score must be a finite number; leave it out for none",
    ),
    (
        BASE + "mining: {search_topk: 5, num_negatives: 7}",
        "mining asks for 7 negatives per query but looks at only 5 candidates (range_max 5 - range_min "
        "0): raise search_topk or range_max, or lower num_negatives",
    ),
    (
        BASE + "evaluation: {search_topk: 10}",
        "evaluation.search_topk: 10 is less than the largest cut-off 100 of evaluation.ir_metrics_k_values; "
        "raise it or leave it out",
    ),
    (
        BASE + "evaluation: {ir_metrics_relevance_threshold: 0.5}",
        "evaluation.ir_metrics_relevance_threshold: 0.5 is not a whole number",
    ),
    (
        BASE + "evaluation: {report_to: [wandb, tensorbord]}",
        "evaluation.report_to[1]: 'tensorbord' is not a valid value; did you mean 'tensorboard'?",
    ),
    (
        BASE + "evaluation: {wandb: {mode: off}}",
        "evaluation.wandb.mode: false is not a valid value; valid: disabled, offline, online",
    ),
    (BASE + "mining: {search_topk: 0}", "mining.search_topk: 0 is less than 1"),
    (
        BASE + "mining: {output_qrel_format: json}",
        "mining.output_qrel_format: 'json' is not a valid value; valid: grouped, tsv",
    ),
    # names
    ("datasets: {1: {}}", "datasets.1: a name is text, but YAML reads this one as 1: put it in quotes"),
    ("models: {1.5: {}}", "models.1.5: a name is text, but YAML reads this one as 1.5: put it in quotes"),
    ("models: {no: {}}", "models.false: a name is text, but YAML reads this one as false: put it in quotes"),
    (
        "models: {2020-01-01: {}}",
        "models.2020-01-01: a name is text, but YAML reads this one as 2020-01-01: put it in quotes",
    ),
    (
        BASE + "pairs: [{datasets: scifcat}]",
        "pairs[0].datasets: no dataset is named 'scifcat'; did you mean 'scifact'?",
    ),
    (
        BASE + "pairs: [{models: [minilm, e5]}]",
        "pairs[0].models: no model is named 'e5'; valid: minilm",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("written", "message"), MISTAKES, ids=lambda value: value[-40:])
def test_mistakes(written, message):
    assert message_of(yaml.safe_load(written)) == message


@pytest.mark.parametrize(
    "name", ["a/b", "", ".hidden", "-x", "two words", "a\n", "é", "..", "x" * 101, "a{b}"]
)
def test_names_that_are_no_folder_names(name):
    raw = yaml.safe_load(BASE)
    raw["models"][name] = {"model_name_or_path": "x"}
    shown = name if name.isprintable() else repr(name)
    assert message_of(raw) == f"models.{shown}: {NAME}"


@pytest.mark.parametrize("name", ["a", "7", "all-MiniLM-L6-v2", "e5_base.v2", "x" * 100])
def test_names_that_are_fine(name):
    raw = yaml.safe_load(BASE)
    raw["models"] = {name: {"model_name_or_path": "x"}}
    assert list(load_config(raw)["models"]) == [name]


def test_yaml_that_holds_itself():
    assert message_of(yaml.safe_load(BASE + "pairs: &self [*self]")) == (
        f"pairs[0]: [[...]] is not {PAIR}"
    )
    assert "unknown key" in message_of(yaml.safe_load(BASE + "self: &self {self: *self}"))


# --- any value -------------------------------------------------------------------------------------

KEYS = [
    "datasets", "models", "pairs", "evaluation", "mining", "wandb", "corpus_path", "query_path",
    "model_name_or_path", "pooling", "normalize", "query_max_len", "query_format", "search_topk",
    "ir_metrics_k_values", "report_to", "encoding_cache_dir", "output_dir", "nproc_per_node", "tags",
    "scifact", "minilm", "a b", "",
]  # fmt: skip
WORDS = [
    "c.jsonl",
    "mean",
    "1,3,5",
    "wandb",
    "none",
    "auto",
    "yes",
    "{text}",
    "{",
    "~",
    "\ud800",
    "\0",
]
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS)
    | st.text(max_size=5) | st.dates() | st.binary(max_size=3)
)  # fmt: skip
NAMES = st.sampled_from(KEYS) | st.text(max_size=3) | st.none() | st.booleans() | st.integers()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3)
)


def only_one_line_messages(raw) -> None:
    before, config, message = copy.deepcopy(raw), None, ": "
    try:
        config = load_config(raw)
    except TroveStepsError as error:
        message = str(error)
    assert all(line.isprintable() and ": " in line for line in message.split("\n"))
    assert config is None or load_config(config) == config
    assert repr(raw) == repr(before)


@settings(deadline=None, max_examples=200)
@given(VALUES)
def test_any_value_is_a_configuration_or_a_mistake(raw):
    only_one_line_messages(raw)


def places(value, path=()):
    """Every place in a configuration, as a path of keys and positions."""
    yield path
    if isinstance(value, dict | list):
        for part in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[part], (*path, part))


WHOLE = yaml.safe_load("""
datasets: {scifact: {corpus_path: [c, d], query_path: q, qrel_path: r, exclude_identical_ids: true}}
models: {minilm: {model_name_or_path: x, pooling: mean, normalize: "yes", query_max_len: 32,
                  query_format: "{text}", torch_dtype: float16, append_eos: false}}
pairs: [{datasets: scifact, models: [minilm]}]
evaluation: {ir_metrics_k_values: [1, 10], search_topk: 10, report_to: [wandb],
             measures: [nDCG@10, RR], comparison: {measures: [nDCG@10], samples: 1000},
             wandb: {project: p, mode: offline, tags: [t]}}
mining: {search_topk: 10, no_annot_in_mined_hn: false, output_qrel_format: grouped, max_score: 0.9,
         relative_margin: 0.05, preset: TopK-PercPos, sampling: random, training_formats: [triplet]}
nproc_per_node: 2
output_dir: results
""")


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([path for path in places(WHOLE) if path]), VALUES)
def test_any_value_in_any_place_is_a_configuration_or_a_mistake(path, value):
    raw = copy.deepcopy(WHOLE)
    holder = raw
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = value
    only_one_line_messages(raw)


def test_the_whole_configuration_is_valid():
    assert load_config(WHOLE)["mining"]["output_qrel_format"] == "grouped"
    assert isinstance(yaml.safe_load("2020-01-01"), datetime.date)


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "corpus.jsonl").write_text("")
    return tmp_path


def file_message(path: str) -> str:
    with pytest.raises(TroveStepsError) as raised:
        check_file(path, "datasets.d.corpus_path")
    return str(raised.value).removeprefix("datasets.d.corpus_path: ")


def test_a_missing_file_and_the_nearest_name(data):
    check_file("data/corpus.jsonl", "datasets.d.corpus_path")
    assert file_message("data/corpsu.jsonl") == (
        f"the file 'data/corpsu.jsonl' does not exist (relative to {data}); did you mean "
        "'data/corpus.jsonl'?"
    )
    assert file_message(f"{data}/data/zzz") == f"the file '{data}/data/zzz' does not exist"
    assert file_message("none/corpus.jsonl") == (
        f"the file 'none/corpus.jsonl' does not exist (relative to {data})"
    )


def test_what_is_no_file(data):
    assert file_message("data") == "'data' is a folder; name the file in it"
    os.mkfifo("pipe")
    assert file_message("pipe").startswith("'pipe' is a pipe or a device")
    (data / "dangling").symlink_to("none")
    assert (
        file_message("dangling")
        == "'dangling' is a link to 'none', which leads to no file: mend it"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read(data):
    os.chmod("data/corpus.jsonl", 0)
    assert file_message("data/corpus.jsonl").endswith("can't be read: check its permissions")
    os.chmod("data", 0)
    try:
        assert "does not exist" in file_message("data/corpus.jsonl")
    finally:
        os.chmod("data", 0o755)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "models: {m: {a: 1}}\ndatasets: {}\nmodels: {}\n",
            "models: stands twice in .*lines 1 and 3",
        ),
        ("models:\n  m:\n    a: 1\n  m: {}\n", r"models\.m: stands twice in .*lines 2 and 4"),
        ("models: &m\n  m: *m\n", "my.yaml: a section holds itself, by an alias"),
        (
            "pairs:\n- {models: [m]}\n- {models: [m], models: [n]}\n",
            r"pairs\[1\]\.models: stands twice",
        ),
    ],
)
def test_names_that_stand_twice_and_sections_without_end(tmp_path, text, message):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    with pytest.raises(TroveStepsError, match=message):
        check_unique_keys([path])


def test_what_names_that_stand_twice_are_not(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("a: &x {b: 1}\nc: {<<: *x, b: 2}\nd: [{b: 1}, {b: 1}]\n")
    check_unique_keys([path, tmp_path / "missing.yaml"])
    path.write_text("a: [")
    check_unique_keys([path])  # which snakemake reports


@pytest.mark.parametrize(
    ("section", "name"),
    [
        ("datasets", "summary.tsv"),
        ("datasets", "wandb"),
        ("models", "data.json"),
        ("models", "comparison.parquet"),
    ],
)
def test_names_of_files_in_the_results(section, name):
    config = yaml.safe_load(BASE)
    config[section] = {name: next(iter(config[section].values()))}
    assert message_of(config).startswith(f"{section}.{name}: the results folder has a file")


def test_the_cache_is_not_the_results_folder():
    config = {**yaml.safe_load(BASE), "output_dir": "./cache/"}
    assert message_of(config).startswith("output_dir: './cache/' is encoding_cache_dir too")
