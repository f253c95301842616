"""What snakemake makes of a configuration: targets of the tasks, inputs and command lines of the steps."""

import json
from functools import cached_property
from pathlib import Path

from trove_steps.arguments import model_flags
from trove_steps.errors import TroveStepsError
from trove_steps.formats import OPTIONS
from trove_steps.mining.selection import candidate_flags, merge_flags, mine_flags
from trove_steps.plan.artefacts import Artefacts
from trove_steps.plan.parts import ROLES, Cell, Encoding, Imported


class Plan(Artefacts):
    """Everything that a configuration asks for; see `Cells` for what is given and what may be wrong."""

    def check_targets(self) -> list[Path]:
        return list(self.checks.values())

    def encode_targets(self) -> list[Path]:
        manifests = [self.encoding_manifest(encoding) for encoding in self.encodings.values()]
        return [*manifests, *self.helper_records(), *self.check_targets()]

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

    def report_targets(self) -> list[Path]:
        """The report, which needs something that was evaluated."""
        self._require_section("evaluation")
        if not self.score_records():
            return []
        tracked = [self.report_track_record] if "wandb" in self.evaluation["report_to"] else []
        return [self._valid(record) for record in (self.report_record, *tracked)]

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

    def _require_section(self, section: str) -> None:
        if section not in self.tasks:
            raise TroveStepsError(
                f"{section}: the configuration has no such section; add `{section}:` (it may be empty)"
            )

    # --- jobs -------------------------------------------------------------------------------------

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

    # --- inputs -----------------------------------------------------------------------------------

    def encode_inputs(self, encoding: Encoding) -> dict[str, Path | list[Path]]:
        """Return what an encode step reads, and the checks that come before it."""
        return {
            "texts": list(encoding.links),
            "model": encoding.model.link,
            "checks": self.checks_before(encoding),
        }

    def import_inputs(self, imported: Imported) -> dict[str, list[Path]]:
        """Return what an import reads, and the checks that come before it."""
        return {
            "embeddings": list(imported.links),
            "texts": list(imported.text_links),
            "checks": self.checks_before(imported),
        }

    def search_inputs(self, cell: Cell) -> dict[str, Path]:
        """Return the vectors that a search reads; their manifests hold the ids of its rows."""
        return {
            "queries": self.encoding_manifest(cell.queries),
            "corpus": self.encoding_manifest(cell.corpus),
        }

    def ranking_inputs(self, cell: Cell, task: str) -> dict[str, Path]:
        """Return the ranking that serves a task, and the manifests that hold the ids of its rows."""
        return {"search": self.search_manifest(cell, task), **self.search_inputs(cell)}

    def mining_inputs(self, cell: Cell) -> dict[str, Path | list[Path]]:
        """Return what the steps of mining read: a ranking, judgments and texts."""
        files = {
            "qrels": list(cell.data.qrels.links),
            "corpus_files": list(cell.data.corpus.links),
            "query_files": list(cell.data.queries.links),
        }
        return self.ranking_inputs(cell, "mining") | files

    # --- command lines ----------------------------------------------------------------------------

    def model_flags(self, encoding: Encoding) -> list[str]:
        """Return the options of an encoding's model and text format as flags of an encode step."""
        given = dict(self.config["models"][encoding.model.name])
        if OPTIONS[ROLES[encoding.role]] in given:
            given[OPTIONS[ROLES[encoding.role]]] = encoding.form
        name = [f"--dataset-name={encoding.dataset}"] if encoding.dataset else []
        return model_flags(given, encoding.role) + name

    def sharing_flags(self, encoding: Encoding, helper_record: str | None = None) -> list:
        """Return the manifest of a corpus and how many jobs share it, as flags of the encode step.

        A job that only helps leaves `helper_record`.
        """
        flags = ["--manifest", self.encoding_manifest(encoding)]
        jobs = self.config["encode"]["jobs"]
        if jobs > 1:
            flags += ["--jobs", jobs]
        return [*flags, "--helper-record", helper_record] if helper_record else flags

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

    def pair_score_flags(self, cell: Cell) -> list:
        """Return where a cross-encoder's scores are, as flags of the mine step; empty without one."""
        manifest = self.rescore_manifest(cell)
        return ["--pair-scores", manifest] if manifest else []

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

    @property
    def wandb_settings(self) -> str:
        """Return evaluation.wandb as JSON."""
        return json.dumps(self.evaluation["wandb"], sort_keys=True)
