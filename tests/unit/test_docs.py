"""What the documentation says is what the program does."""

import re
import runpy
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT
from trove_steps.config.loading import load_config


def test_the_config_reference_is_up_to_date():
    written = runpy.run_path(str(PROJECT / "docs" / "make_config.py"))["reference"]()
    assert (PROJECT / "docs" / "config.md").read_text(encoding="utf-8") == written


def test_every_option_has_a_meaning():
    text = (PROJECT / "docs" / "config.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row[0] for row in rows if not row[-1].strip(" |")] == []


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "config").rglob("*.yaml")), ids=lambda path: path.name
)
def test_example_configurations_are_valid(path: Path):
    config = load_config(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert config["datasets"]


def test_the_readme_configuration_is_valid():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    assert set(load_config(yaml.safe_load(block))) >= {"evaluation", "mining"}
    assert len(block.splitlines()) <= 30


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.M)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_of_the_documentation_lead_somewhere():
    found = 0
    for page in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]:
        links = re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", page.read_text(encoding="utf-8"))
        for target, anchor in links:
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in anchors(there), f"{page.name}: {target}#{anchor}"
                found += 1
    assert found


def test_the_index_names_every_page():
    index = (PROJECT / "docs" / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"^- \[.*?\]\(([^)#]+)\)", index, re.MULTILINE))
    pages = {page.name for page in (PROJECT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= linked


def test_the_quick_start_is_short():
    index = (PROJECT / "docs" / "README.md").read_text(encoding="utf-8")
    start = index.partition("## Quick start\n")[2].partition("\n## ")[0]
    assert 0 < len(start.splitlines()) < 40


# What scripts for Trove 0.0.2's inference side name: classes, their arguments and methods, fields of options.
TROVE_NAMES = """
RetrievalEvaluator args model eval_dataset tokenizer data_collator compute_metrics logit_collector
tracker_init_kwargs tracker_extra_configs tracker_callbacks encode evaluate mine_hard_negatives
nearest_neighbor_search cache_pardir display_name num_negs query_filepath corpus_filepath broadcast_output
EvaluationArguments output_dir overwrite_output_dir per_device_eval_batch_size
per_device_matmul_batch_size precompute_corpus_embs encoding_cache_dir cleanup_temp_artifacts
ir_metrics_k_values ir_metrics_relevance_threshold search_topk no_annot_in_mined_hn merge_mined_qrels
output_qrel_format save_eval_topk_logits pbar_mode print_mode trove_logging_mode fair_sharding report_to
run_name fp16 bf16 use_cpu dataloader_num_workers ddp_backend ddp_timeout TrainingArguments
main_process_first DataArguments query_max_len passage_max_len pad_to_multiple_of dataset_name group_size
passage_selection_strategy ModelArguments model_name_or_path model_revision torch_dtype trust_remote_code
attn_implementation encoder_class pooling normalize append_eos load_in_8bit load_in_4bit
bnb_4bit_quant_type use_bnb_nested_quant use_peft use_rslora loss temperature BiEncoderRetriever
from_model_args append_eos_token format_query format_passage encode_query encode_passage similarity_fn
DefaultEncoder can_wrap RetrievalCollator data_args AutoTokenizer HfArgumentParser MultiLevelDataset
qrel_config num_proc get_qrel_nested_dict EncodingDataset shard hard_shard MaterializedQRelConfig
corpus_path query_path qrel_path corpus_cache query_cache query_subset_path min_score max_score filter_fn
group_top_k group_bottom_k group_first_k group_random_k group_filter_fn score_transform IRMetrics k_values
measures relevance_threshold FastResultHeapq ResultHeapq topk special_docids topk_docs special_docs
register_loader BinaryDataset RetrievalTrainer RetrievalTrainingArguments TROVE_CACHE_DIR TROVE_LOG_LEVEL
TROVE_LOGGING_DISABLE_RICH
"""


def test_the_migration_table_has_all_of_trove_s_names():
    text = (PROJECT / "docs" / "migrating.md").read_text(encoding="utf-8")
    there = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    words = set(re.findall(r"\w+", " ".join(there)))
    assert [name for name in TROVE_NAMES.split() if name not in words] == []


def test_the_migration_table_names_options_that_exist():
    """In the column of this project, `section.option` is one of a section, `some_option` one at the top."""
    schema = yaml.safe_load((PROJECT / "workflow/schemas/config.schema.yaml").read_text())
    options = {"": set(schema["properties"])}
    for section in ("encode", "cluster"):
        options[section] = set(schema["properties"][section]["properties"])
    for section, name in (("datasets", "dataset"), ("models", "model")):
        options[section] = set(schema["$defs"][name]["properties"])
    for section in ("evaluation", "mining"):
        options[section] = set(schema["$defs"][section]["properties"])
    for section in ("wandb", "comparison"):
        inner = schema["$defs"]["evaluation"]["properties"][section]["properties"]
        options[f"evaluation.{section}"] = set(inner)

    text = (PROJECT / "docs" / "migrating.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 100
    assert all(len(row) == 2 for row in rows), "a row has two columns"
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    sections = "|".join(name for name in options if name)
    dotted = re.compile(rf"`({sections})\.([a-z_0-9]+)(?:: [^`]+)?`")
    single = re.compile(r"`([a-z0-9]+(?:_[a-z0-9]+)+)(?:: [^`]+)?`")
    found = 0
    for here in [*prose, *(row[1] for row in rows)]:
        for section, option in dotted.findall(here):
            assert option in options[section], f"{section}.{option}"
            found += 1
    for here in (row[1] for row in rows):
        for option in single.findall(here):
            if not re.search(r"_\d+$", option):  # a metric such as ndcg_cut_10
                assert option in options[""], option
    assert found > 60
