"""Training files: rows by hand, and the libraries that train on them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from tests.conftest import make_dataset, write_jsonl
from tests.unit.rankings import make_qrels, make_ranking, read_qrels
from trove_steps.errors import TroveStepsError
from trove_steps.mining.inputs import MiningInputs, SourceFiles, file_numbers, read_texts
from trove_steps.mining.rules import mine
from trove_steps.mining.training_files import FORMATS, write_training_files

CORPUS = [
    {"_id": "a", "title": "A", "text": " first "},
    {"_id": "b", "title": "", "text": "second"},
    {"_id": "c", "text": "third"},
    {"_id": "d", "title": None, "text": "fourth é"},
]
QUERIES = [{"_id": "x", "text": "what"}, {"_id": "y", "text": "who"}, {"_id": "z", "text": "why"}]


@pytest.fixture
def written(tmp_path):
    """Write every format; x has two negatives, y one, z no positive in the corpus."""
    corpus = write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    queries = write_jsonl(tmp_path / "queries.jsonl", QUERIES)
    results = {
        "x": {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6},
        "y": {"a": 0.3, "b": 0.2},
        "z": {"a": 0.5},
    }
    ranking = make_ranking(results, ["a", "b", "c", "d"])
    qrels = make_qrels({"x": {"a": 1, "d": 2, "absent": 1}, "y": {"b": 1}, "z": {"absent": 1}})
    formats = list(FORMATS)
    files = {
        "queries": SourceFiles([queries], records=len(ranking)),
        "documents": SourceFiles([corpus], records=len(ranking.doc_ids)),
    }
    mined = mine(ranking, qrels, 2)
    inputs = MiningInputs(ranking, qrels, {}, **files)
    paths, counts = write_training_files(tmp_path, mined, inputs, formats, 2)
    assert sorted(path.name for path in paths) == sorted(file for file, _ in FORMATS.values())
    return tmp_path, counts


def rows(path):
    import pyarrow.parquet as pq

    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def test_rows(written):
    folder, counts = written
    assert rows(folder / "triplet.parquet") == [
        ("what", "A first", "second"),
        ("what", "A first", "third"),
        ("what", "fourth é", "second"),
        ("what", "fourth é", "third"),
        ("who", "second", "A first"),
    ]
    assert rows(folder / "n-tuple.parquet") == [
        ("what", "A first", "second", "third"),
        ("what", "fourth é", "second", "third"),
    ]
    assert rows(folder / "labeled-pair.parquet") == [
        ("what", "A first", 1),
        ("what", "fourth é", 1),
        ("what", "second", 0),
        ("what", "third", 0),
        ("who", "second", 1),
        ("who", "A first", 0),
    ]
    assert rows(folder / "labeled-list.parquet")[0] == (
        *("what", ["A first", "second", "third"], [1, 0, 0]),
    )
    lines = (folder / "tevatron.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1]) == {
        "query_id": "y",
        "query": "who",
        "positive_passages": [{"docid": "b", "title": "", "text": "second"}],
        "negative_passages": [{"docid": "a", "title": "A", "text": " first "}],
    }
    lines = (folder / "flagembedding.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {
        "query": "what",
        "pos": ["A first", "fourth é"],
        "neg": ["second", "third"],
    }
    assert counts == {
        "num_training_queries": 2,
        "num_triplet_rows": 5,
        "num_n_tuple_rows": 2,
        "num_labeled_pair_rows": 6,
        "num_labeled_list_rows": 3,
        "num_tevatron_rows": 2,
        "num_flagembedding_rows": 2,
    }


def test_our_reader_of_judgments_reads_the_tevatron_file(written):
    from trove_steps.data import read_qrels as read

    table = read([written[0] / "tevatron.jsonl"]).to_pylist()
    assert {(row["query_id"], row["doc_id"]): row["score"] for row in table} == {
        ("x", "a"): 1,
        ("x", "d"): 1,
        ("x", "b"): 0,
        ("x", "c"): 0,
        ("y", "b"): 1,
        ("y", "a"): 0,
    }


def test_positives_are_never_negatives(tmp_path):
    """Also where mining keeps annotated documents."""
    corpus = write_jsonl(tmp_path / "corpus.jsonl", CORPUS)
    queries = write_jsonl(tmp_path / "queries.jsonl", QUERIES[:1])
    ranking = make_ranking({"x": {"a": 0.9, "b": 0.8, "c": 0.7}}, ["a", "b", "c", "d"])
    qrels = make_qrels({"x": {"a": 1, "b": 0}})
    formats = ["triplet"]
    files = {
        "queries": SourceFiles([queries], records=len(ranking)),
        "documents": SourceFiles([corpus], records=len(ranking.doc_ids)),
    }
    mined = mine(ranking, qrels, 2, no_annot_in_mined_hn=False)
    write_training_files(tmp_path, mined, MiningInputs(ranking, qrels, {}, **files), formats, 2)
    assert rows(tmp_path / "triplet.parquet") == [("what", "A first", "second")]
    with pytest.raises(TroveStepsError, match="name the judgments"):
        write_training_files(tmp_path, mined, MiningInputs(ranking, None, {}, **files), formats, 2)


def test_texts_of_several_files(tmp_path):
    first = write_jsonl(tmp_path / "1.jsonl", CORPUS[:3])
    second = write_jsonl(tmp_path / "2.jsonl", CORPUS[3:])
    files = SourceFiles([first, second], records=4)
    texts = read_texts(files, np.array([0, 3]))
    assert texts.texts == {0: " first ", 3: "fourth é"}
    assert texts.joined(0) == "A first"
    assert file_numbers(files).tolist() == [0, 0, 0, 1]
    with pytest.raises(TroveStepsError, match="3 records, but 4 were searched"):
        read_texts(SourceFiles([first], records=4), np.array([0]))
    with pytest.raises(TroveStepsError, match="name the files that were encoded"):
        file_numbers(SourceFiles([first, second], records=5))
    with pytest.raises(TroveStepsError, match="add corpus_path and query_path"):
        read_texts(SourceFiles([], records=4), np.array([0]))


@pytest.fixture
def trained_on(tmp_path, tiny_model):
    """Mined training files of a small collection: (folder, sentence-transformers, tiny encoder)."""
    library = pytest.importorskip("sentence_transformers")
    data = make_dataset(tmp_path / "data")
    chance = np.random.default_rng(0)
    names = [f"d{number}" for number in range(60)]
    results = {
        f"q{query}": dict(zip(names, chance.random(60).tolist(), strict=True))
        for query in range(12)
    }
    ranking = make_ranking(results, names)
    qrels = read_qrels(data / "qrels.tsv")
    formats = list(FORMATS)
    files = {
        "queries": SourceFiles([data / "queries.jsonl"], records=len(ranking)),
        "documents": SourceFiles([data / "corpus.jsonl"], records=len(ranking.doc_ids)),
    }
    inputs = MiningInputs(ranking, qrels, {}, **files)
    write_training_files(tmp_path, mine(ranking, qrels, 4), inputs, formats, 4)
    from sentence_transformers.models import Pooling, Transformer

    body = Transformer(str(tiny_model), max_seq_length=32)
    model = library.SentenceTransformer(modules=[body, Pooling(32)], device="cpu")
    return tmp_path, library, model


@pytest.mark.slow  # imports and runs a trainer
@pytest.mark.parametrize("name", ["triplet", "n-tuple", "labeled-pair"])
def test_sentence_transformers_trains_on_it(trained_on, name):
    from datasets import load_dataset
    from sentence_transformers import losses

    folder, library, model = trained_on
    dataset = load_dataset(
        "parquet", data_files=str(folder / f"{name}.parquet"), cache_dir=str(folder / "hf")
    )["train"]
    before = model[0].auto_model.embeddings.word_embeddings.weight.detach().clone()
    loss = {
        "triplet": losses.TripletLoss,
        "n-tuple": losses.MultipleNegativesRankingLoss,
        "labeled-pair": losses.ContrastiveLoss,
    }[name](model)
    arguments = library.SentenceTransformerTrainingArguments(
        output_dir=str(folder / "out"),
        max_steps=5,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    trainer = library.SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=dataset, loss=loss
    )
    trainer.train()
    losses_seen = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    print(name, losses_seen)
    assert trainer.state.global_step == 5
    assert len(losses_seen) == 5
    assert np.isfinite(losses_seen).all()
    after = model[0].auto_model.embeddings.word_embeddings.weight
    assert not (before == after).all()


@pytest.mark.slow  # imports and runs a trainer
def test_a_cross_encoder_trains_on_the_lists(trained_on, tiny_model):
    from datasets import load_dataset
    from sentence_transformers import cross_encoder

    folder, _, _ = trained_on
    dataset = load_dataset(
        "parquet", data_files=str(folder / "labeled-list.parquet"), cache_dir=str(folder / "hf")
    )["train"]
    model = cross_encoder.CrossEncoder(str(tiny_model), num_labels=1, device="cpu", max_length=32)
    trainer = cross_encoder.CrossEncoderTrainer(
        model=model,
        args=cross_encoder.CrossEncoderTrainingArguments(
            output_dir=str(folder / "out"),
            max_steps=5,
            per_device_train_batch_size=4,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        loss=cross_encoder.losses.LambdaLoss(model),
    )
    trainer.train()
    assert trainer.state.global_step == 5


@pytest.mark.slow  # imports a trainer library
def test_flagembedding_reads_its_file(trained_on, tiny_model):
    """FlagEmbedding's own data set class; its other dependencies are not needed for that."""
    module = pytest.importorskip("FlagEmbedding.abc.finetune.embedder.AbsDataset")
    folder = trained_on[0]
    arguments = SimpleNamespace(
        train_data=[str(folder / "flagembedding.jsonl")],
        cache_path=str(folder / "hf"),
        max_example_num_per_dataset=1000,
        shuffle_ratio=0.0,
        knowledge_distillation=False,
        train_group_size=4,
        query_instruction_for_retrieval=None,
        passage_instruction_for_retrieval=None,
    )
    dataset = module.AbsEmbedderTrainDataset(arguments, None)
    lines = (folder / "flagembedding.jsonl").read_text().splitlines()
    assert len(dataset) == len(lines) > 5
    query, passages, _ = dataset[0]
    expected = json.loads(lines[0])
    assert query == expected["query"]
    assert passages[0] in expected["pos"]
    assert set(passages[1:]) <= set(expected["neg"])


@pytest.mark.slow  # imports a trainer library
def test_tevatron_reads_its_file(trained_on, tiny_model):
    module = pytest.importorskip("tevatron.datasets.preprocessor")
    from datasets import load_dataset
    from transformers import AutoTokenizer

    folder = trained_on[0]
    dataset = load_dataset(
        "json", data_files=str(folder / "tevatron.jsonl"), cache_dir=str(folder / "hf")
    )["train"]
    read = dataset.map(
        module.TrainPreProcessor(AutoTokenizer.from_pretrained(tiny_model)),
        remove_columns=dataset.column_names,
    )
    assert len(read) > 5
    assert all(row["query"] and row["positives"] and len(row["negatives"]) == 4 for row in read)
