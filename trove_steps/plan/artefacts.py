"""What the artefacts of a configuration are called: the paths of manifests and records, by their keys."""

import contextlib
import os
from functools import cached_property
from pathlib import Path

from trove_steps.embeddings.paths import dropped_mark, manifest_path
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_manifest
from trove_steps.inputs import check_record
from trove_steps.keys import VERSION, recipe_key
from trove_steps.plan.cells import Cells, for_cell
from trove_steps.plan.parts import Cell, Encoding
from trove_steps.results import is_complete


class Artefacts(Cells):
    """The cells of a configuration, and the path of everything that is made for them."""

    def __init__(self, raw: dict, produced: set[str] = frozenset()):
        super().__init__(raw, produced)
        if "cells" in vars(self):  # they are known
            self._withdraw_broken()

    def encoding_manifest(self, encoding: Encoding) -> Path:
        return manifest_path(self.cache, encoding.encoder, encoding.role, encoding.texts)

    def search_manifest(self, cell: Cell, task: str) -> Path:
        """Return the ranking that serves a task of a cell: the shallowest finished one that is deep
        enough, else the one that will serve all tasks."""
        finished = self._finished_searches(cell)
        deep_enough = [depth for depth in finished if depth >= cell.needs[task]]
        depth = min(deep_enough, default=self.depths[cell.search])
        return self.cache / "searches" / cell.search / f"top{depth}.json"

    def deepest_search(self, cell: Cell) -> Path | None:
        """Return the deepest finished ranking of a cell, None if there is none."""
        finished = self._finished_searches(cell)
        return finished[max(finished)] if finished else None

    def _finished_searches(self, cell: Cell) -> dict[int, Path]:
        """Return depth → ranking."""
        found = (self.cache / "searches" / cell.search).glob("top*.json")
        depths = ((path.stem.removeprefix("top"), path) for path in found)
        return {int(depth): path for depth, path in depths if depth.isdigit()}

    def cell_directory(self, cell: Cell) -> Path:
        return self.results / cell.dataset / cell.model

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

    def checks_before(self, encoding: Encoding) -> list[Path]:
        """Return the checks that come before an encoding: those of the data sets that use it.

        Only an encoding that is not there yet waits for them: snakemake does again what comes after a
        job that it runs, whatever the age of its files.
        """
        if self.encoding_manifest(encoding).exists():
            return []
        users = self._users[encoding.encoder, encoding.texts]
        return [self.checks[name] for name in users if name in self.checks]

    def helper_records(self) -> list[Path]:
        """What the jobs leave that help to encode the corpora which have no manifest yet."""
        helpers = self.config["encode"]["jobs"] - 1
        manifests = [
            self.encoding_manifest(encoding)
            for encoding in self.encodings.values()
            if (encoding.role, encoding.step) == ("corpus", "encode") and helpers
        ]
        return [
            manifest.with_suffix(".helped") / f"{number}.json"
            for manifest in manifests
            if not manifest.exists()
            for number in range(1, helpers + 1)
        ]

    def rescore_manifest(self, cell: Cell) -> Path | None:
        if cell.rescore is None:
            return None
        return self.cache / "pair_scores" / self.cross_encoder.key / f"{cell.rescore}.json"

    @cached_property
    def rescores(self) -> dict[str, Cell]:
        """Rescore key → the first cell that needs it."""
        return {cell.rescore: cell for cell in reversed(self.cells.values()) if cell.rescore}

    def score_record(self, cell: Cell) -> Path:
        return self.cell_directory(cell) / ".evaluate" / f"{cell.score}.json"

    def score_records(self) -> list[Path]:
        return [self.score_record(cell) for cell in self.cells.values() if cell.score]

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

    def track_inputs(self, cell: Cell) -> dict[str, Path]:
        """Return the records of what is tracked of a cell."""
        records = {"record": self.score_record(cell)}
        return {**records, "mining": self.mine_record(cell)} if self._mines else records

    @property
    def report_track_record(self) -> Path:
        recipe = {
            "kind": "report track",
            "version": VERSION["track"],
            "report": self.report_record.stem,
        }
        key = recipe_key(recipe | {"wandb": self.evaluation["wandb"]})
        return self.results / ".track" / f"{key}.json"

    def mine_record(self, cell: Cell) -> Path:
        return self.cell_directory(cell) / ".mine" / f"{cell.mine}.json"

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

    @cached_property
    def summary_record(self) -> Path:
        cells = {
            f"{cell.dataset}/{cell.model}": cell.score for cell in self.cells.values() if cell.score
        }
        key = recipe_key({"kind": "summary", "version": VERSION["summary"], "cells": cells})
        return self.results / ".summary" / f"{key}.json"

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

    @cached_property
    def report_record(self) -> Path:
        inputs = {
            task: sorted(path.relative_to(self.results).as_posix() for path in records)
            for task, records in self.report_inputs().items()
        }
        key = recipe_key({"kind": "report", "version": VERSION["report"], "inputs": inputs})
        return self.results / ".report" / f"{key}.json"

    # --- published and dropped vectors ------------------------------------------------------------

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

    # --- what is there but not whole --------------------------------------------------------------

    @property
    def _mines(self) -> bool:
        return "mining" in self.tasks

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
