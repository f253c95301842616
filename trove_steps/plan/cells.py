"""What a configuration asks for: data sets and models resolved to files and keys, and the cells of both."""

import contextlib
import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from trove_steps.config.checks import check_embeddings
from trove_steps.config.loading import load_config, section_defaults
from trove_steps.data import most_annotated, read_qrels
from trove_steps.data.collections import Files, merge_collections
from trove_steps.data.findings import collecting
from trove_steps.data.remote import LOST, RemoteData
from trove_steps.errors import TroveStepsError
from trove_steps.evaluation.measures import DEFAULT_MEASURES, largest_cutoff, metric_names
from trove_steps.files import read_json, write_json
from trove_steps.fingerprint import Fingerprints
from trove_steps.formats import OPTIONS, choose_format, takes_dataset
from trove_steps.inputs import Dataset, QrelFiles, configured_paths, inputs_of, named_data
from trove_steps.keys import VERSION, cross_encoder_recipe, recipe_key, search_recipe
from trove_steps.mining.selection import candidate_recipe, drops_twins, mining_recipe, selection_of
from trove_steps.models.settings_resolution import imported_settings, resolve_settings
from trove_steps.models.source import Source
from trove_steps.paths import check_file
from trove_steps.plan.parts import ROLES, Cell, CrossEncoder, Encoding, Imported, Model

EMBEDDINGS_OPTION = {"corpus": "corpus_embeddings", "queries": "query_embeddings"}


class Cells:
    """The data sets, models and cells of a configuration.

    `produced` names input files that rules make; while one of them that is used does not exist,
    `missing` lists it and the cells can't be known. Raises TroveStepsError for a mistake in the
    configuration, one line per mistake.
    """

    def __init__(self, raw: dict, produced: set[str] = frozenset()):
        self.config = load_config(raw)
        check_embeddings(self.config, self.pairs)
        self.cache = Path(self.config["encoding_cache_dir"])
        self.results = Path(self.config["output_dir"])
        self.tasks = [task for task in ("evaluation", "mining") if task in self.config]
        self.fingerprints = Fingerprints(self.cache)
        self.produced = produced
        self.inputs = inputs_of(self.config, self.fingerprints)
        if self.missing or self.unfetched:
            self._check_present()
        else:
            _ = self.cells

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
            with collecting(lines):
                found[name] = self.inputs.dataset(name, self.config["datasets"][name])
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

    # --- how it is found out ----------------------------------------------------------------------

    def _check_present(self) -> None:
        """Raise TroveStepsError for mistakes in what is not still to come, made by a rule or fetched."""
        missing, unfetched, lines = set(self.missing), set(self.unfetched), []
        for name in dict.fromkeys(dataset for dataset, _ in self.pairs):
            options = self.config["datasets"][name]
            later = {data.name for data in named_data(name, options)} & unfetched
            if not (later or missing.intersection(configured_paths(options))):
                with collecting(lines):
                    self.inputs.dataset(name, options)
        for name, source in self.sources.items():
            if isinstance(source, Source) and not {name, source.name_or_path} & (
                missing | unfetched
            ):
                with collecting(lines):
                    source.files()
        if lines:
            raise TroveStepsError("\n".join(lines))

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
