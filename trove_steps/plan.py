"""From a configuration to named artefacts: which files, which keys, which paths.

The planner runs while the Snakefile is parsed. It reads files only to hash them (once; digests are
remembered) and to see how deep mining must search, and imports nothing heavy.
"""

import contextlib
import json
import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from trove_steps.arguments import model_flags
from trove_steps.config import check_file, load_config, section_defaults
from trove_steps.data import most_annotated, read_qrels
from trove_steps.data.collections import Files, merge_collections
from trove_steps.data.remote import LOST, RemoteData
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, read_manifest, write_json
from trove_steps.fingerprint import Fingerprints
from trove_steps.formats import OPTIONS, choose_format, format_recipe, takes_dataset
from trove_steps.inputs import (
    Dataset,
    Inputs,
    QrelFiles,
    check_record,
    configured_paths,
    named_data,
)
from trove_steps.keys import (
    VERSION,
    cross_encoder_recipe,
    encoder_recipe,
    imported_recipe,
    recipe_key,
    search_recipe,
    texts_recipe,
)
from trove_steps.measures import DEFAULT_MEASURES, largest_cutoff, metric_names
from trove_steps.model_settings import (
    ModelSettings,
    imported_settings,
    resolve_settings,
)
from trove_steps.models import Source
from trove_steps.results import is_complete
from trove_steps.selection import (
    candidate_flags,
    candidate_recipe,
    drops_twins,
    merge_flags,
    mine_flags,
    mining_recipe,
    selection_of,
)
from trove_steps.store import dropped_mark, manifest_path

ROLES = {"corpus": "passage", "queries": "query"}
EMBEDDINGS_OPTION = {"corpus": "corpus_embeddings", "queries": "query_embeddings"}


@dataclass(frozen=True)
class Model:
    """A model of the configuration, resolved; `query` is the queries' own model where they have one.

    Without folder, files and link if all its vectors were computed elsewhere.
    """

    name: str
    folder: Path | None
    files: dict[str, str]  # name → SHA-256
    settings: ModelSettings
    link: Path | None  # in/{digest}, the folder's name by content
    query: "Model | None" = None

    def recipe(self, role: str) -> dict:
        """Return the encoder recipe of a role, "corpus" or "queries"."""
        return encoder_recipe(self.files, self.settings.encoder_recipe(ROLES[role]))


@dataclass(frozen=True)
class CrossEncoder:
    """The cross-encoder of mining; `key` names its scores in the cache, `link` its folder by content."""

    folder: Path
    key: str
    link: Path


@dataclass(frozen=True)
class Encoding:
    """One collection of texts encoded by one model.

    `form` is its text format; `dataset` is "" unless that is a function which takes it.
    """

    role: str
    model: Model
    digests: tuple[str, ...]
    links: tuple[Path, ...]
    form: str
    dataset: str = ""
    readers: tuple[dict, ...] = field(default=(), compare=False)  # the key `texts` covers them
    step = "encode"

    @cached_property
    def template(self) -> str | dict:
        """Return the text format as it stands in recipes."""
        return format_recipe(self.form, self.dataset)

    @cached_property
    def encoder(self) -> str:
        return recipe_key(self.encoder_recipe)

    @property
    def encoder_recipe(self) -> dict:
        return self.model.recipe(self.role)

    @property
    def texts_recipe(self) -> dict:
        return texts_recipe(self.role, list(self.digests), self.template, list(self.readers))

    @cached_property
    def texts(self) -> str:
        return recipe_key(self.texts_recipe)

    @property
    def identity(self) -> dict[str, str]:
        return {"encoder": self.encoder, "texts": self.texts}


@dataclass(frozen=True)
class Imported(Encoding):
    """One collection of vectors that were computed elsewhere; `digests` and `links` are of their files."""

    text_digests: tuple[str, ...] = ()
    text_links: tuple[Path, ...] = ()
    step = "import"

    @property
    def encoder_recipe(self) -> dict:
        return imported_recipe(list(self.digests), list(self.text_digests), list(self.readers))

    @property
    def texts_recipe(self) -> dict:
        return self.encoder_recipe

    @cached_property
    def encoder(self) -> str:
        return f"imported-{self.texts}"


@dataclass(frozen=True)
class Cell:
    """One data set with one model: what is encoded, searched, scored and mined for it."""

    dataset: str
    model: str
    corpus: Encoding
    queries: Encoding
    data: Dataset = field(compare=False)
    search: str
    search_recipe: dict = field(compare=False)
    needs: dict[str, int] = field(compare=False)  # task → depth of the ranking
    score: str | None
    mine: str | None
    rescore: str | None  # key of the cross-encoder's scores, None without one
    evaluation: dict = field(compare=False)
    mining: dict = field(compare=False)


class Plan:
    """Everything that a configuration asks for.

    `produced` names input files that rules make; while one of them that is used does not exist,
    `missing` lists it and the cells can't be known. Raises TroveStepsError for a mistake in the
    configuration, one line per mistake.
    """

    def __init__(self, raw: dict, produced: set[str] = frozenset()):
        self.config = load_config(raw)
        self.cache = Path(self.config["encoding_cache_dir"])
        self.results = Path(self.config["output_dir"])
        self.tasks = [task for task in ("evaluation", "mining") if task in self.config]
        self.fingerprints = Fingerprints(self.cache)
        self.produced = produced
        self.inputs = Inputs(self.fingerprints, evaluated="evaluation" in self.tasks)
        if not (self.missing or self.unfetched):
            _ = self.cells
            self._withdraw_broken()

    # --- what is asked for -------------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """Input files that a rule makes and that do not exist yet."""
        return [
            path
            for path in self._input_paths()
            if os.path.normpath(path) in self.produced and not os.path.exists(path)
        ]

    @cached_property
    def sources(self) -> dict[str, Source | RemoteData]:
        """Where that comes from which may have to be fetched: the models that are used by name, those of
        queries as NAME@queries, data sets as @ADDRESS."""
        found: dict[str, Source | RemoteData] = {}
        for name in dict.fromkeys(model for _, model in self.pairs):
            given = self.config["models"][name]
            for prefix, suffix in (("", ""), ("query_", "@queries")):
                option = f"{prefix}model_name_or_path"
                if option in given:
                    revision = given.get(f"{prefix}model_revision", "main")
                    found[name + suffix] = Source(given[option], revision, f"models.{name}", option)
        if self.mining["cross_encoder"] is not None and "mining" in self.tasks:
            given = self.mining["cross_encoder"]
            found["@cross_encoder"] = Source(given, "main", "mining", "cross_encoder")
        for name in dict.fromkeys(dataset for dataset, _ in self.pairs):
            for data in named_data(name, self.config["datasets"][name]):
                found.setdefault(data.name, data)
        return found

    @property
    def unfetched(self) -> list[str]:
        """Sources that are not here yet."""
        return [name for name, source in self.sources.items() if not source.is_here(self.cache)]

    def fetch_record(self, name: str) -> Path:
        """Return what the fetching of a source leaves; one of a source that is gone is set aside."""
        record = self.cache / "fetched" / f"{name}.json"
        if record.exists() and not self.sources[name].is_here(self.cache):
            record.replace(record.with_suffix(LOST))
        return record

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """(data set, model) in the order of the configuration."""
        config = self.config
        chosen = {
            (dataset, model)
            for pair in config.get("pairs", [{}])
            for dataset in pair.get("datasets", config["datasets"])
            for model in pair.get("models", config["models"])
        }
        everything = [(d, m) for d in config["datasets"] for m in config["models"]]
        return [pair for pair in everything if pair in chosen]

    @cached_property
    def evaluation(self) -> dict:
        return self.config.get("evaluation") or section_defaults("evaluation")

    @cached_property
    def mining(self) -> dict:
        return self.config.get("mining") or section_defaults("mining")

    @cached_property
    def cross_encoder(self) -> CrossEncoder | None:
        """The model of mining.cross_encoder."""
        if "@cross_encoder" not in self.sources:
            return None
        source, max_len = self.sources["@cross_encoder"], self.mining["cross_encoder_max_len"]
        folder = source.locate()
        files = {file: self.fingerprints.file(path) for file, path in source.files().items()}
        link = self.fingerprints.intern(folder, recipe_key({"kind": "model", "files": files}))
        return CrossEncoder(folder, recipe_key(cross_encoder_recipe(files, max_len)), link)

    @cached_property
    def models(self) -> dict[str, Model]:
        return {name: self._model(name) for name in dict.fromkeys(m for _, m in self.pairs)}

    @property
    def model_links(self) -> list[Path]:
        """The folders of all models that are used, by content."""
        models = [m for model in self.models.values() for m in (model, model.query) if m]
        links = [model.link for model in models if model.link]
        return [*links, self.cross_encoder.link] if self.cross_encoder else links

    @cached_property
    def datasets(self) -> dict[str, Dataset]:
        """The data sets that are used, resolved to files."""
        found, lines = {}, []
        for name in dict.fromkeys(dataset for dataset, _ in self.pairs):
            try:
                found[name] = self.inputs.dataset(name, self.config["datasets"][name])
            except TroveStepsError as error:
                lines.append(str(error))
        if lines:
            raise TroveStepsError("\n".join(lines))
        return found

    @cached_property
    def cells(self) -> dict[tuple[str, str], Cell]:
        _ = self.datasets
        return {(d, m): self._cell(d, self.models[m]) for d, m in self.pairs}

    @cached_property
    def encodings(self) -> dict[tuple[str, str, str], Encoding]:
        """(role, encoder, texts) → Encoding; what several cells share stands here once."""
        return {
            (encoding.role, encoding.encoder, encoding.texts): encoding
            for cell in self.cells.values()
            for encoding in (cell.corpus, cell.queries)
        }

    @cached_property
    def searches(self) -> dict[str, Cell]:
        """Search key → the first cell that needs it."""
        found: dict[str, Cell] = {}
        for cell in self.cells.values():
            found.setdefault(cell.search, cell)
        return found

    @cached_property
    def depths(self) -> dict[str, int]:
        """Search key → the largest need of all cells and tasks."""
        needs: dict[str, int] = {}
        for cell in self.cells.values():
            needs[cell.search] = max(1, *cell.needs.values(), needs.get(cell.search, 0))
        return needs

    # --- paths ---------------------------------------------------------------------------------

    def encoding_manifest(self, encoding: Encoding) -> Path:
        return manifest_path(self.cache, encoding.encoder, encoding.role, encoding.texts)

    def search_manifest(self, cell: Cell, task: str) -> Path:
        """Return the ranking that serves a task of a cell: the shallowest finished one that is deep
        enough, else the one that will serve all tasks."""
        directory = self.cache / "searches" / cell.search
        names = (path.stem.removeprefix("top") for path in directory.glob("top*.json"))
        finished = [int(name) for name in names if name.isdigit()]
        deep_enough = [depth for depth in finished if depth >= cell.needs[task]]
        depth = min(deep_enough, default=self.depths[cell.search])
        return directory / f"top{depth}.json"

    def cell_directory(self, cell: Cell) -> Path:
        return self.results / cell.dataset / cell.model

    def score_record(self, cell: Cell) -> Path:
        return self.cell_directory(cell) / ".evaluate" / f"{cell.score}.json"

    def mine_record(self, cell: Cell) -> Path:
        return self.cell_directory(cell) / ".mine" / f"{cell.mine}.json"

    @cached_property
    def checks(self) -> dict[str, Path]:
        """Data set → the record of the check of its files, where it has any besides vectors."""
        return {
            name: self._valid(check_record(self.results, dataset, VERSION["data"]))
            for name, dataset in self.datasets.items()
            if dataset.digests
        }

    def check_before(self, cell: Cell, record: Path) -> list[Path]:
        """Return the check that comes before a result of a cell that is not there yet."""
        check = self.checks.get(cell.dataset)
        return [] if check is None or record.exists() else [check]

    @cached_property
    def _users(self) -> dict[tuple[str, str], dict[str, None]]:
        """(encoder, texts) → the data sets that use the encoding."""
        users: dict[tuple[str, str], dict[str, None]] = {}
        for cell in self.cells.values():
            for encoding in (cell.corpus, cell.queries):
                users.setdefault((encoding.encoder, encoding.texts), {})[cell.dataset] = None
        return users

    @cached_property
    def _names(self) -> dict[str, str]:
        """What jobs work on, by key → data set/model, and how many more share it."""
        users: dict[str, list[str]] = {}
        for cell in self.cells.values():
            keys = [f"{e.encoder} {e.texts}" for e in (cell.corpus, cell.queries)]
            for key in (*keys, cell.search, cell.rescore):
                users.setdefault(key, []).append(f"{cell.dataset}/{cell.model}")
        return {
            key: names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
            for key, names in users.items()
        }

    def name_of_job(self, wildcards: dict[str, str]) -> str:
        """Return for which data set and model a job works whose outputs are named by keys, "" if unknown."""
        if not wildcards.keys() & {"texts", "search", "key"}:
            return ""  # the cells may not be known yet
        found = {name: wildcards.get(name, "") for name in ("encoder", "texts", "search", "key")}
        encoded = f"{found['encoder']} {found['texts']}"
        keys = (found["search"], found["key"], encoded, f"imported-{encoded}")
        return next((self._names[key] for key in keys if key in self._names), "")

    def checks_before(self, encoding: Encoding) -> list[Path]:
        """Return the checks that come before an encoding: those of the data sets that use it.

        Only an encoding that is not there yet waits for them: snakemake does again what comes after a
        job that it runs, whatever the age of its files.
        """
        if self.encoding_manifest(encoding).exists():
            return []
        users = self._users[encoding.encoder, encoding.texts]
        return [self.checks[name] for name in users if name in self.checks]

    def track_record(self, cell: Cell) -> Path:
        trackers = sorted(self.evaluation["report_to"])
        key = recipe_key(
            {
                "kind": "track",
                "version": VERSION["track"],
                "score": cell.score,
                "wandb": self.evaluation["wandb"],
                **({"mine": cell.mine} if self._mines else {}),
                **({"report_to": trackers} if trackers != ["wandb"] else {}),
            }
        )
        return self.cell_directory(cell) / ".track" / f"{key}.json"

    def rescore_manifest(self, cell: Cell) -> Path | None:
        if cell.rescore is None:
            return None
        return self.cache / "pair_scores" / self.cross_encoder.key / f"{cell.rescore}.json"

    @cached_property
    def rescores(self) -> dict[str, Cell]:
        """Rescore key → the first cell that needs it."""
        return {cell.rescore: cell for cell in reversed(self.cells.values()) if cell.rescore}

    def merged_cells(self, dataset: str) -> list[Cell]:
        """Return the cells of a data set, whose negatives are merged."""
        return [cell for cell in self.cells.values() if cell.dataset == dataset]

    @cached_property
    def merge_records(self) -> dict[str, Path]:
        """Data set → the record of its merged negatives; empty unless they are asked for."""
        least = self.mining["merge_models"]
        if least is None or "mining" not in self.tasks:
            return {}
        if "mined" in self.models:
            raise TroveStepsError(
                "models.mined: results/DATASET/mined is for merged negatives (mining.merge_models): "
                "give the model another name"
            )
        records = {}
        for dataset in dict.fromkeys(dataset for dataset, _ in self.pairs):
            cells = self.merged_cells(dataset)
            if least > len(cells):
                raise TroveStepsError(
                    f"mining.merge_models: {least} models must agree, but {dataset} has only {len(cells)}"
                )
            recipe = {
                "kind": "merge",
                "version": VERSION["merge"],
                "least": least,
                "mined": {cell.model: cell.mine for cell in cells},
            }
            records[dataset] = self.results / dataset / ".mine" / f"{recipe_key(recipe)}.json"
        return records

    @cached_property
    def compared(self) -> list[Cell]:
        """The evaluated cells of data sets with several models."""
        cells = [cell for cell in self.cells.values() if cell.score]
        names = [cell.dataset for cell in cells]
        return [cell for cell in cells if names.count(cell.dataset) > 1]

    @cached_property
    def comparison_record(self) -> Path:
        cells = {f"{cell.dataset}/{cell.model}": cell.score for cell in self.compared}
        recipe = {"kind": "comparison", "version": VERSION["comparison"], "cells": cells}
        key = recipe_key(recipe | {"options": self.evaluation["comparison"]})
        return self.results / ".comparison" / f"{key}.json"

    @property
    def report_track_record(self) -> Path:
        recipe = {
            "kind": "report track",
            "version": VERSION["track"],
            "report": self.report_record.stem,
        }
        key = recipe_key(recipe | {"wandb": self.evaluation["wandb"]})
        return self.results / ".track" / f"{key}.json"

    @cached_property
    def summary_record(self) -> Path:
        cells = {
            f"{cell.dataset}/{cell.model}": cell.score for cell in self.cells.values() if cell.score
        }
        key = recipe_key({"kind": "summary", "version": VERSION["summary"], "cells": cells})
        return self.results / ".summary" / f"{key}.json"

    @cached_property
    def report_record(self) -> Path:
        inputs = {
            task: sorted(path.relative_to(self.results).as_posix() for path in records)
            for task, records in self.report_inputs().items()
        }
        key = recipe_key({"kind": "report", "version": VERSION["report"], "inputs": inputs})
        return self.results / ".report" / f"{key}.json"

    # --- published and dropped vectors ---------------------------------------------------------

    @cached_property
    def publications(self) -> dict[str, tuple[Encoding, str]]:
        """Key → the collection and the path of a dense file that the configuration asks for."""
        found: dict[str, tuple[Encoding, str]] = {}
        taken: dict[str, str] = {}
        for cell in self.cells.values():
            options = self.config["datasets"][cell.dataset]
            for encoding, option in ((cell.corpus, "corpus_cache"), (cell.queries, "query_cache")):
                if option not in options:
                    continue
                path = for_cell(options[option], cell.dataset, cell.model)
                recipe = {"kind": "publish", "version": VERSION["publish"], "path": path}
                key = recipe_key({**recipe, **encoding.identity})
                if taken.setdefault(os.path.abspath(path), key) != key:
                    raise TroveStepsError(
                        f"datasets.{cell.dataset}.{option}: several collections would be written to {path}; "
                        "put {model} and {dataset} into the path"
                    )
                found[key] = encoding, path
        return found

    def publish_targets(self) -> list[Path]:
        folder = self.results / ".published"
        return [
            self._valid(folder / recipe_key({"path": path}) / f"{key}.json")
            for key, (_, path) in self.publications.items()
        ]

    @cached_property
    def drops(self) -> dict[str, tuple[Encoding, list[Path]]]:
        """Key → a corpus whose vectors go, and what must be there before; empty if they are kept."""
        found = {}
        for encoding in () if self.config["keep_embeddings"] else self.encodings.values():
            cells = [
                cell for cell in self.cells.values() if cell.corpus.identity == encoding.identity
            ]
            ends = [self.score_record(c) for c in cells if c.score and "evaluation" in self.tasks]
            ends += [self.mine_record(cell) for cell in cells if "mining" in self.tasks]
            if not ends:  # a collection of queries, or nothing is searched
                continue
            ends += self.publish_targets()
            recipe = {"kind": "drop", **encoding.identity, "ends": sorted(map(str, ends))}
            found[recipe_key(recipe)] = encoding, ends
        return found

    def drop_targets(self) -> list[Path]:
        targets = []
        for key, (encoding, _) in self.drops.items():
            record = self.results / ".dropped" / f"{key}.json"
            manifest = self.encoding_manifest(encoding)
            if record.exists() and manifest.exists() and not dropped_mark(manifest).exists():
                record.unlink()  # encoded again since
            targets.append(record)
        return targets

    def restore_dropped(self, cell: Cell, depth: int) -> None:
        """Have a corpus whose vectors were dropped encoded again if a search must be made."""
        manifest = self.encoding_manifest(cell.corpus)
        searched = self.cache / "searches" / cell.search / f"top{depth}.json"
        if dropped_mark(manifest).exists() and not searched.exists():
            manifest.unlink(missing_ok=True)
            dropped_mark(manifest).unlink(missing_ok=True)

    # --- command lines --------------------------------------------------------------------------

    def model_flags(self, encoding: Encoding) -> list[str]:
        """Return the options of an encoding's model and text format as flags of an encode step."""
        given = dict(self.config["models"][encoding.model.name])
        if OPTIONS[ROLES[encoding.role]] in given:
            given[OPTIONS[ROLES[encoding.role]]] = encoding.form
        name = [f"--dataset-name={encoding.dataset}"] if encoding.dataset else []
        return model_flags(given, encoding.role) + name

    def reader_flags(self, encoding: Encoding) -> list[str]:
        """Return how the files of an encoding are read, as flags of an encode step."""
        if not any(encoding.readers):
            return []
        return ["--readers", str(self.inputs.intern_json(list(encoding.readers)))]

    def qrel_flags(self, cell: Cell) -> list[str]:
        """Return how the judgments are filtered and merged, as flags of the score and mine steps."""
        collections = cell.data.qrels.collections
        return ["--collections", str(self.inputs.intern_json(collections))] if collections else []

    def check_flags(self, dataset: str) -> list[str]:
        """Return what is checked of a data set, as flags of the check_data step."""
        return ["--data", str(self.inputs.intern_json(self.datasets[dataset].checked))]

    def search_flags(self, search: str) -> list[str]:
        """Return the rules of a search as flags of the search step."""
        cell = self.searches[search]
        settings = self.models[cell.model].settings
        flags = ["--similarity", settings.similarity]
        if settings.truncate_dim is not None:
            flags += ["--truncate-dim", str(settings.truncate_dim)]
            flags += ["--normalize"] if settings.normalize else []
        if settings.quantization is not None:
            flags += ["--quantization", settings.quantization]
        if self.config["datasets"][cell.dataset]["exclude_identical_ids"]:
            flags.append("--exclude-identical-ids")
        return flags

    def score_flags(self, cell: Cell) -> list[str]:
        """Return the options of an evaluation as flags of the score step."""
        options = cell.evaluation
        flags = ["--measures", *options["measures"]] if "measures" in options else []
        return [
            "--ir-metrics-k-values",
            *map(str, options["k_values"]),
            *flags,
            "--ir-metrics-relevance-threshold",
            str(options["relevance_threshold"]),
            "--depth",
            str(options["depth"]),
        ]

    def mine_flags(self) -> list[str]:
        """Return the options of mining as flags of the mine step."""
        return mine_flags(self.mining)

    def rescore_flags(self) -> list[str]:
        """Return the options of mining that choose candidates as flags of the rescore step."""
        max_len = self.mining["cross_encoder_max_len"]
        return [*candidate_flags(self.mining), f"--cross-encoder-max-len={max_len}"]

    def merge_flags(self) -> list[str]:
        """Return the options of mining as flags of the step that merges negatives."""
        return merge_flags(self.mining)

    def file_flags(self, cell: Cell) -> list[str]:
        """Return the files of a data set, with their digests, as flags of the steps of mining."""
        flags = []
        for option, links, digests in (
            ("qrel", cell.data.qrels.links, cell.data.qrels.digests),
            ("corpus", cell.data.corpus.links, cell.data.corpus.digests),
            ("query", cell.data.queries.links, cell.data.queries.digests),
        ):
            if links:
                flags += [f"--{option}-path", *map(str, links), f"--{option}-sha256", *digests]
        return flags + self.qrel_flags(cell)

    @property
    def comparison_settings(self) -> str:
        """Return evaluation.comparison as JSON."""
        return json.dumps(self.evaluation["comparison"], sort_keys=True)

    def track_inputs(self, cell: Cell) -> dict[str, Path]:
        """Return the records of what is tracked of a cell."""
        records = {"record": self.score_record(cell)}
        return {**records, "mining": self.mine_record(cell)} if self._mines else records

    @property
    def wandb_settings(self) -> str:
        """Return evaluation.wandb as JSON."""
        return json.dumps(self.evaluation["wandb"], sort_keys=True)

    # --- targets ---------------------------------------------------------------------------------

    def check_targets(self) -> list[Path]:
        return list(self.checks.values())

    def encode_targets(self) -> list[Path]:
        manifests = [self.encoding_manifest(encoding) for encoding in self.encodings.values()]
        return [*manifests, *self.helper_records(), *self.check_targets()]

    def helper_records(self) -> list[Path]:
        """What the jobs leave that help to encode the corpora which have no manifest yet."""
        helpers = self.config["encode"]["jobs"] - 1
        manifests = [
            self.encoding_manifest(encoding)
            for encoding in self.encodings.values()
            if encoding.role == "corpus" and helpers
        ]
        return [
            manifest.with_suffix(".helped") / f"{number}.json"
            for manifest in manifests
            if not manifest.exists()
            for number in range(1, helpers + 1)
        ]

    def score_records(self) -> list[Path]:
        return [self.score_record(cell) for cell in self.cells.values() if cell.score]

    def report_inputs(self) -> dict[str, list[Path]]:
        """Return the records of what the report shows, by task."""
        cells = [cell for cell in self.cells.values() if cell.score]
        return {
            "evaluations": [self.score_record(cell) for cell in cells],
            "mining": [self.mine_record(cell) for cell in cells] if self._mines else [],
            "comparison": [self.comparison_record] if self.compared else [],
            "checks": [
                self.checks[name]
                for name in dict.fromkeys(cell.dataset for cell in cells)
                if name in self.checks
            ],
        }

    def report_targets(self) -> list[Path]:
        """The report, which needs something that was evaluated."""
        self._require_section("evaluation")
        if not self.score_records():
            return []
        tracked = [self.report_track_record] if "wandb" in self.evaluation["report_to"] else []
        return [self._valid(record) for record in (self.report_record, *tracked)]

    def evaluate_targets(self) -> list[Path]:
        self._require_section("evaluation")
        cells = [cell for cell in self.cells.values() if cell.score]
        if not cells:
            raise TroveStepsError(
                "datasets: none has a qrel_path, so there is nothing to evaluate; add qrel_path or "
                "ask for another task (snakemake mine, snakemake encode)"
            )
        records = [self._valid(self.score_record(cell)) for cell in cells]
        if self.evaluation["report_to"]:
            records += [self._valid(self.track_record(cell)) for cell in cells]
        if self.compared:
            records.append(self._valid(self.comparison_record))
        summary = self._valid(self.summary_record)
        return [*records, summary, *self.helper_records(), *self.check_targets()]

    def mine_targets(self) -> list[Path]:
        self._require_section("mining")
        records = [self.mine_record(cell) for cell in self.cells.values()]
        records = [self._valid(record) for record in (*records, *self.merge_records.values())]
        return [*records, *self.helper_records(), *self.check_targets()]

    def default_targets(self) -> list[Path]:
        """What plain `snakemake` makes: the tasks whose sections the configuration has."""
        targets = []
        if "evaluation" in self.tasks:
            targets += self.evaluate_targets()
        if "mining" in self.tasks:
            targets += self.mine_targets()
        if "evaluation" in self.tasks and self.config["report"]:
            targets += self.report_targets()
        targets = list(dict.fromkeys(targets)) or self.encode_targets()
        return [*targets, *self.publish_targets(), *self.drop_targets()]

    @property
    def _mines(self) -> bool:
        return "mining" in self.tasks

    def _require_section(self, section: str) -> None:
        if section not in self.tasks:
            raise TroveStepsError(
                f"{section}: the configuration has no such section; add `{section}:` (it may be empty)"
            )

    # --- how it is found out --------------------------------------------------------------------

    def _input_paths(self):
        for name in dict.fromkeys(dataset for dataset, _ in self.pairs):
            yield from configured_paths(self.config["datasets"][name])
        for name in dict.fromkeys(model for _, model in self.pairs):
            for option in ("model_name_or_path", "query_model_name_or_path"):
                if option in self.config["models"][name]:
                    yield self.config["models"][name][option]

    def _model(self, name: str) -> Model:
        given = self.config["models"][name]
        sources = self.sources
        query = self._load_model(name, f"{name}@queries") if f"{name}@queries" in sources else None
        if name not in sources:
            return Model(name, None, {}, imported_settings(given), None, query)
        return replace(self._load_model(name, name), query=query)

    def _load_model(self, name: str, source: str) -> Model:
        given, folder = self.config["models"][name], self.sources[source].locate()
        paths = self.sources[source].files()
        settings = resolve_settings(folder, given, name)
        files = {file: self.fingerprints.file(path) for file, path in paths.items()}
        link = self.fingerprints.intern(folder, recipe_key({"kind": "model", "files": files}))
        return Model(name, folder, files, settings, link)

    def _encoding(self, role: str, dataset: str, model: Model) -> Encoding:
        files = getattr(self.datasets[dataset], role)
        given = self.config["datasets"][dataset].get(EMBEDDINGS_OPTION[role])
        if given:
            return self._imported(role, dataset, model, given)
        model = (model.query or model) if role == "queries" else model
        if model.folder is None:
            raise TroveStepsError(
                f"models.{model.name}.model_name_or_path: missing; it must be set, because "
                f"datasets.{dataset} has no {EMBEDDINGS_OPTION[role]}"
            )
        option = OPTIONS[ROLES[role]]
        given = self.config["models"][model.name].get(option)
        form = choose_format(given, dataset) or getattr(model.settings, option)
        return Encoding(
            role=role,
            model=model,
            digests=files.digests,
            links=files.links,
            form=form,
            dataset=dataset if takes_dataset(form) else "",
            readers=files.readers,
        )

    def _imported(self, role: str, dataset: str, model: Model, given: list[str]) -> "Imported":
        where = f"datasets.{dataset}.{EMBEDDINGS_OPTION[role]}"
        files, paths = getattr(self.datasets[dataset], role), []
        for position, path in enumerate(given):
            paths.append(for_cell(path, dataset, model.name))
            check_file(paths[-1], f"{where}[{position}]" if len(given) > 1 else where)
        if any("collections" in reader for reader in files.readers):
            raise TroveStepsError(
                f"{where}: does not go with collections that have different files, as the same id may "
                "then mean two texts"
            )
        digests, links = self.inputs.intern(paths)
        return Imported(
            role=role,
            model=model,
            digests=digests,
            links=links,
            form="",
            readers=files.readers,
            text_digests=files.digests,
            text_links=files.links,
        )

    def _cell(self, dataset: str, model: Model) -> Cell:
        options = self.config["datasets"][dataset]
        corpus = self._encoding("corpus", dataset, model)
        queries = self._encoding("queries", dataset, model)
        data = self.datasets[dataset]
        searched = search_recipe(
            queries.identity,
            corpus.identity,
            model.settings.similarity,
            options["exclude_identical_ids"],
            model.settings.derived_recipe(),
        )
        search = recipe_key(searched)
        evaluation = {
            "k_values": self.evaluation["ir_metrics_k_values"],
            "relevance_threshold": self.evaluation["ir_metrics_relevance_threshold"],
            "depth": self._evaluation_depth,
        }
        if self.evaluation["measures"] is not None:
            evaluation["measures"] = self.evaluation["measures"]
        scorer = self.cross_encoder.key if self.cross_encoder else None
        mining = mining_recipe(self.mining, scorer)
        shared = {"search": search, "qrels": data.qrels.identity}
        score = recipe_key(
            {"kind": "score", "version": VERSION["score"], **shared, "options": evaluation}
        )
        mine = recipe_key({"kind": "mine", "version": VERSION["mine"], **shared, "options": mining})
        rescore = {
            "kind": "rescore",
            "version": VERSION["rescore"],
            "cross_encoder": scorer,
            **shared,
        }
        rescore["options"] = candidate_recipe(self.mining)
        self._check_mining(dataset, bool(data.qrels.digests))
        return Cell(
            dataset=dataset,
            model=model.name,
            corpus=corpus,
            queries=queries,
            data=data,
            search=search,
            search_recipe=searched,
            needs=self._needs(data),
            score=score if data.qrels.digests else None,
            mine=mine,
            rescore=recipe_key(rescore) if scorer else None,
            evaluation=evaluation,
            mining=mining,
        )

    def _check_mining(self, dataset: str, judged: bool) -> None:
        """Raise TroveStepsError where mining needs judgments that a data set does not have."""
        if judged or "mining" not in self.tasks:
            return
        for name in ("absolute_margin", "relative_margin", "near_twin_cosine", "preset"):
            if self.mining[name] is not None:
                raise TroveStepsError(
                    f"mining.{name} measures from positives: datasets.{dataset} needs a qrel_path"
                )
        if self.mining["training_formats"]:
            raise TroveStepsError(
                f"mining.training_formats hold positives: datasets.{dataset} needs a qrel_path"
            )

    @cached_property
    def _evaluation_depth(self) -> int:
        """How many documents per query an evaluation looks at."""
        k_values = self.evaluation["ir_metrics_k_values"]
        names = self.evaluation["measures"] or metric_names(DEFAULT_MEASURES, k_values)
        return self.evaluation["search_topk"] or largest_cutoff(names, k_values)

    def _needs(self, data: Dataset) -> dict[str, int]:
        """Return how deep each task of a cell needs the search to go."""
        needs, qrels = {}, data.qrels
        if "evaluation" in self.tasks and qrels.digests:
            needs["evaluation"] = self._evaluation_depth
        if "mining" in self.tasks:
            try:
                annotated = self._most_annotated(qrels)
            except TroveStepsError as error:
                raise TroveStepsError(f"datasets.{data.name}: {error}") from None
            twins = drops_twins(self.mining, bool(qrels.digests))
            depth = selection_of(self.mining).depth(self.mining["search_topk"], annotated, twins)
            needs["mining"] = round_up(depth)
        return needs

    def _most_annotated(self, qrels: QrelFiles) -> int:
        """Return the largest number of annotated documents of a query, remembered by content."""
        if not qrels.digests or not self.mining["no_annot_in_mined_hn"]:
            return 0
        memo = self.cache / "fingerprints" / f"qrels-{recipe_key({'files': qrels.identity})}.json"
        try:
            return read_json(memo)["most_annotated"]
        except (TroveStepsError, KeyError, TypeError):
            found = most_annotated(_judgments(qrels))
            with contextlib.suppress(TroveStepsError):
                write_json(memo, {"most_annotated": found})
            return found

    def _withdraw_broken(self) -> None:
        """Remove manifests that a full disk or a lost power supply has cut off, within `repairing()`."""
        collections = map(self.encoding_manifest, self.encodings.values())
        folders = (self.cache / "searches" / search for search in self.searches)
        searches = (path for folder in folders for path in folder.glob("top*.json"))
        for path in (*collections, *searches):
            with contextlib.suppress(TroveStepsError):
                read_manifest(path, "what it is named for", {})

    def _valid(self, record: Path) -> Path:
        """Drop a record whose files are gone or were changed, so that they are made again."""
        if record.exists() and not is_complete(record, self.fingerprints.file):
            try:
                record.unlink(missing_ok=True)
            except OSError as error:
                raise TroveStepsError(
                    f"files of {record.parent.parent} are gone or were changed, and their record can't be "
                    f"removed so that they are made again ({error}): check its permissions"
                ) from None
        return record


def _judgments(qrels: QrelFiles):
    """Return the judgments that mining leaves out, or somewhat more, where collections overlap."""
    if qrels.collections is None:
        return read_qrels(qrels.links, shown_as=qrels.paths)
    files = Files(qrels.links, qrels.paths)
    return merge_collections(qrels.collections, files, keep_apart=True).table


def for_cell(path: str, dataset: str, model: str) -> str:
    """Fill {dataset} and {model} into a path of the configuration; variants share the model's."""
    return path.replace("{dataset}", dataset).replace("{model}", model.partition("@")[0])


def round_up(depth: int) -> int:
    """Round a depth up to 1, 2 or 5 times a power of ten.

    Mining needs as many documents as negatives are asked for plus the most annotated documents of
    any query; the slack keeps a small edit of the judgments from causing a new search.
    """
    step = 1
    while True:
        for factor in (1, 2, 5):
            if depth <= factor * step:
                return factor * step
        step *= 10
