"""From a configuration to named artefacts: which files, which keys, which paths.

The planner runs while the Snakefile is parsed. It reads files only to hash them (once; digests are
remembered) and to see how deep mining must search, and imports nothing heavy.
"""

import contextlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trove_steps.config import check_file, load_config, section_defaults
from trove_steps.data import most_annotated, read_qrels
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json, write_json
from trove_steps.fingerprint import Fingerprints
from trove_steps.keys import (
    VERSION,
    encoder_recipe,
    recipe_key,
    search_recipe,
    texts_recipe,
)
from trove_steps.model_settings import ModelSettings, model_files, resolve_settings
from trove_steps.models import NotFetched, locate_model
from trove_steps.results import is_complete
from trove_steps.store import manifest_path

ROLES = {"corpus": "passage", "queries": "query"}
PATH_OPTION = {"corpus": "corpus_path", "queries": "query_path"}


@dataclass(frozen=True)
class Model:
    """A model of the configuration, resolved."""

    name: str
    folder: Path
    files: dict[str, str]  # name → SHA-256
    settings: ModelSettings
    link: Path  # in/{digest}, the folder's name by content

    def recipe(self, role: str) -> dict:
        """Return the encoder recipe of a role, "corpus" or "queries"."""
        return encoder_recipe(self.files, self.settings.encoder_recipe(ROLES[role]))


@dataclass(frozen=True)
class Encoding:
    """One collection of texts encoded by one model."""

    role: str
    model: Model
    digests: tuple[str, ...]
    links: tuple[Path, ...]

    @property
    def template(self) -> str:
        settings = self.model.settings
        return settings.passage_format if self.role == "corpus" else settings.query_format

    @cached_property
    def encoder(self) -> str:
        return recipe_key(self.model.recipe(self.role))

    @cached_property
    def texts(self) -> str:
        return recipe_key(texts_recipe(self.role, list(self.digests), self.template))

    @property
    def identity(self) -> dict[str, str]:
        return {"encoder": self.encoder, "texts": self.texts}


@dataclass(frozen=True)
class Cell:
    """One data set with one model: what is encoded, searched, scored and mined for it."""

    dataset: str
    model: str
    corpus: Encoding
    queries: Encoding
    qrel_digests: tuple[str, ...]
    qrel_links: tuple[Path, ...]
    search: str
    needs: dict[str, int] = field(compare=False)  # task → depth of the ranking
    score: str | None
    mine: str | None
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
        self._interned: dict[tuple[str, ...], tuple] = {}
        if not (self.missing or self.unfetched):
            _ = self.cells

    # --- what is asked for -------------------------------------------------------------------

    @property
    def missing(self) -> list[str]:
        """Input files that a rule makes and that do not exist yet."""
        return [
            path
            for path in self._input_paths()
            if os.path.normpath(path) in self.produced and not os.path.exists(path)
        ]

    @property
    def unfetched(self) -> list[str]:
        """Models of the configuration that are on the Hub and not in its cache here."""
        return [name for name in dict.fromkeys(m for _, m in self.pairs) if not self._is_here(name)]

    def fetch_record(self, name: str) -> Path:
        """Return what the fetching of a model leaves; one of a model that is gone is removed."""
        record = self.cache / "fetched" / f"{name}.json"
        if record.exists() and not self._is_here(name):
            record.unlink(missing_ok=True)
        return record

    def _is_here(self, name: str) -> bool:
        try:
            model_files(self._folder(name))
        except NotFetched:
            return False
        except TroveStepsError:
            pass  # a mistake, which is reported in its place
        return True

    def _folder(self, name: str) -> Path:
        given = self.config["models"][name]
        return locate_model(
            given["model_name_or_path"], given.get("model_revision", "main"), f"models.{name}"
        )

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
    def models(self) -> dict[str, Model]:
        return {name: self._model(name) for name in dict.fromkeys(m for _, m in self.pairs)}

    @cached_property
    def cells(self) -> dict[tuple[str, str], Cell]:
        self._check_inputs()
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

    def track_record(self, cell: Cell) -> Path:
        key = recipe_key(
            {
                "kind": "track",
                "version": VERSION["track"],
                "score": cell.score,
                "wandb": self.evaluation["wandb"],
            }
        )
        return self.cell_directory(cell) / ".track" / f"{key}.json"

    @cached_property
    def summary_record(self) -> Path:
        cells = {
            f"{cell.dataset}/{cell.model}": cell.score for cell in self.cells.values() if cell.score
        }
        key = recipe_key({"kind": "summary", "version": VERSION["summary"], "cells": cells})
        return self.results / ".summary" / f"{key}.json"

    # --- command lines --------------------------------------------------------------------------

    def search_flags(self, search: str) -> list[str]:
        """Return the rules of a search as flags of the search step."""
        cell = self.searches[search]
        flags = ["--similarity", self.models[cell.model].settings.similarity]
        if self.config["datasets"][cell.dataset]["exclude_identical_ids"]:
            flags.append("--exclude-identical-ids")
        return flags

    def score_flags(self, cell: Cell) -> list[str]:
        """Return the options of an evaluation as flags of the score step."""
        options = cell.evaluation
        return [
            "--ir-metrics-k-values",
            *map(str, options["k_values"]),
            "--ir-metrics-relevance-threshold",
            str(options["relevance_threshold"]),
            "--depth",
            str(options["depth"]),
        ]

    def mine_flags(self, cell: Cell) -> list[str]:
        """Return the options of mining as flags of the mine step."""
        options = cell.mining
        flags = ["--search-topk", str(options["search_topk"])]
        flags += ["--output-qrel-format", options["output_qrel_format"]]
        return flags if options["no_annot_in_mined_hn"] else [*flags, "--keep-annotated"]

    @property
    def wandb_settings(self) -> str:
        """Return evaluation.wandb as JSON."""
        return json.dumps(self.evaluation["wandb"], sort_keys=True)

    # --- targets ---------------------------------------------------------------------------------

    def encode_targets(self) -> list[Path]:
        manifests = [self.encoding_manifest(encoding) for encoding in self.encodings.values()]
        return [*manifests, *self.helper_records()]

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

    def evaluate_targets(self) -> list[Path]:
        self._require_section("evaluation")
        cells = [cell for cell in self.cells.values() if cell.score]
        if not cells:
            raise TroveStepsError(
                "datasets: none has a qrel_path, so there is nothing to evaluate; add qrel_path or "
                "ask for another task (snakemake mine, snakemake encode)"
            )
        records = [self._valid(self.score_record(cell)) for cell in cells]
        if "wandb" in self.evaluation["report_to"]:
            records += [self._valid(self.track_record(cell)) for cell in cells]
        return [*records, self._valid(self.summary_record), *self.helper_records()]

    def mine_targets(self) -> list[Path]:
        self._require_section("mining")
        records = [self._valid(self.mine_record(cell)) for cell in self.cells.values()]
        return [*records, *self.helper_records()]

    def default_targets(self) -> list[Path]:
        """What plain `snakemake` makes: the tasks whose sections the configuration has."""
        targets = []
        if "evaluation" in self.tasks:
            targets += self.evaluate_targets()
        if "mining" in self.tasks:
            targets += self.mine_targets()
        return list(dict.fromkeys(targets)) or self.encode_targets()

    def _require_section(self, section: str) -> None:
        if section not in self.tasks:
            raise TroveStepsError(
                f"{section}: the configuration has no such section; add `{section}:` (it may be empty)"
            )

    # --- how it is found out --------------------------------------------------------------------

    def _input_paths(self):
        for name in dict.fromkeys(dataset for dataset, _ in self.pairs):
            dataset = self.config["datasets"][name]
            for option in ("corpus_path", "query_path", "qrel_path"):
                yield from dataset.get(option, [])
        for name in dict.fromkeys(model for _, model in self.pairs):
            yield self.config["models"][name]["model_name_or_path"]

    def _check_inputs(self) -> None:
        lines = []
        for name in dict.fromkeys(dataset for dataset, _ in self.pairs):
            dataset = self.config["datasets"][name]
            for option in ("corpus_path", "query_path", "qrel_path"):
                paths = dataset.get(option, [])
                for position, path in enumerate(paths):
                    suffix = f"[{position}]" if len(paths) > 1 else ""
                    try:
                        check_file(path, f"datasets.{name}.{option}{suffix}")
                    except TroveStepsError as error:
                        lines.append(str(error))
        if lines:
            raise TroveStepsError("\n".join(lines))

    def _intern(self, paths: list[str]) -> tuple[tuple[str, ...], tuple[Path, ...]]:
        """Return the digests and the links of some files; each list is looked at once per plan."""
        found = self._interned.get(tuple(paths))
        if found is None:
            digests = tuple(map(self.fingerprints.file, paths))
            found = digests, tuple(map(self.fingerprints.intern, paths, digests))
            self._interned[tuple(paths)] = found
        return found

    def _model(self, name: str) -> Model:
        given = self.config["models"][name]
        folder = self._folder(name)
        settings = resolve_settings(folder, given, name)
        paths = model_files(folder)
        files = {file: self.fingerprints.file(path) for file, path in paths.items()}
        link = self.fingerprints.intern(folder, recipe_key({"kind": "model", "files": files}))
        return Model(name, folder, files, settings, link)

    def _encoding(self, role: str, dataset: str, model: Model) -> Encoding:
        digests, links = self._intern(self.config["datasets"][dataset][PATH_OPTION[role]])
        return Encoding(role, model, digests, links)

    def _cell(self, dataset: str, model: Model) -> Cell:
        options = self.config["datasets"][dataset]
        corpus = self._encoding("corpus", dataset, model)
        queries = self._encoding("queries", dataset, model)
        qrel_digests, qrel_links = self._intern(options.get("qrel_path", []))
        search = recipe_key(
            search_recipe(
                queries.identity,
                corpus.identity,
                model.settings.similarity,
                options["exclude_identical_ids"],
            )
        )
        evaluation = {
            "k_values": self.evaluation["ir_metrics_k_values"],
            "relevance_threshold": self.evaluation["ir_metrics_relevance_threshold"],
            "depth": self.evaluation["search_topk"] or max(self.evaluation["ir_metrics_k_values"]),
        }
        mining = {
            "search_topk": self.mining["search_topk"],
            "no_annot_in_mined_hn": self.mining["no_annot_in_mined_hn"],
            "output_qrel_format": self.mining["output_qrel_format"],
        }
        shared = {"search": search, "qrels": list(qrel_digests)}
        score = recipe_key(
            {"kind": "score", "version": VERSION["score"], **shared, "options": evaluation}
        )
        mine = recipe_key({"kind": "mine", "version": VERSION["mine"], **shared, "options": mining})
        return Cell(
            dataset=dataset,
            model=model.name,
            corpus=corpus,
            queries=queries,
            qrel_digests=qrel_digests,
            qrel_links=qrel_links,
            search=search,
            needs=self._needs(qrel_digests, qrel_links, options.get("qrel_path", [])),
            score=score if qrel_digests else None,
            mine=mine,
            evaluation=evaluation,
            mining=mining,
        )

    def _needs(self, digests, links, shown) -> dict[str, int]:
        """Return how deep each task of a cell needs the search to go."""
        needs = {}
        if "evaluation" in self.tasks and digests:
            depth = self.evaluation["search_topk"] or 0
            needs["evaluation"] = max(depth, *self.evaluation["ir_metrics_k_values"])
        if "mining" in self.tasks:
            annotated = self._most_annotated(digests, links, shown)
            needs["mining"] = round_up(self.mining["search_topk"] + annotated)
        return needs

    def _most_annotated(self, digests, links, shown) -> int:
        """Return the largest number of annotated documents of a query, remembered by content."""
        if not digests or not self.mining["no_annot_in_mined_hn"]:
            return 0
        memo = self.cache / "fingerprints" / f"qrels-{recipe_key({'files': list(digests)})}.json"
        try:
            return read_json(memo)["most_annotated"]
        except (TroveStepsError, KeyError, TypeError):
            found = most_annotated(read_qrels(list(links), shown_as=list(shown)))
            with contextlib.suppress(TroveStepsError):
                write_json(memo, {"most_annotated": found})
            return found

    def _valid(self, record: Path) -> Path:
        """Drop a record whose files are gone or were changed, so that they are made again."""
        if record.exists() and not is_complete(record):
            try:
                record.unlink(missing_ok=True)
            except OSError as error:
                raise TroveStepsError(
                    f"files of {record.parent.parent} are gone or were changed, and their record can't be "
                    f"removed so that they are made again ({error}): check its permissions"
                ) from None
        return record


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
