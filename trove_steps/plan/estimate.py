"""What a configuration will cost: rows to encode, tokens, bytes and seconds. Nothing is encoded for it.

Rows are counted exactly, from the keys of the texts. Tokens are estimated from a sample of the texts that
have no vector yet. Seconds come from the tokens per second of earlier jobs with the same weights, else with
weights of the same size.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from trove_steps.arguments import shown_path
from trove_steps.data import read_records, reader_of
from trove_steps.embeddings.paths import dropped_mark
from trove_steps.embeddings.shards import Shard
from trove_steps.embeddings.store import Store
from trove_steps.errors import TroveStepsError
from trove_steps.files import read_json
from trove_steps.formats import formatter
from trove_steps.jobs.resources import read_records as read_records_of_jobs
from trove_steps.keys import TEXT_KEY_BYTES, recipe_key, text_keys
from trove_steps.models.folder import transformer_folder
from trove_steps.models.sentence_transformers_files import vector_width
from trove_steps.plan import Encoding, Imported, Model, Plan
from trove_steps.plan.stages import cell_stages

SAMPLE = 256  # texts whose tokens are counted
STORED_BYTES = {"float32": 4, "float16": 2}
RECORDS = 5  # earlier jobs that say how fast a model is
PHASES = ("tokenize", "forward", "write")  # of a job, those that grow with the tokens
RANKING_ROW_BYTES = 4 + 8 + 8  # query int32, document int64, score float64
PLACE_BYTES = TEXT_KEY_BYTES + 4 + 4  # of a row of a collection, beside its id


@dataclass
class Need:
    """What it takes to encode a collection; what can't be known is None.

    `to_encode` counts distinct strings without a vector; `reused` the other rows. `tokens` is an
    estimate, as are `bytes`, what will be written, and `seconds`, the whole job's; `by_siblings`: these are
    by jobs of other weights of the same size.
    """

    rows: int
    to_encode: int
    tokens: int | None
    bytes: int | None
    seconds: float | None
    by_siblings: bool = False

    @property
    def reused(self) -> int:
        return self.rows - self.to_encode


class Estimator:
    """Needs of collections, each as if those asked about before were encoded already."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self._needs: dict[tuple[str, str, str], Need] = {}
        self._planned: dict[str, np.ndarray] = {}

    def need(self, encoding: Encoding) -> Need:
        """Return what a collection needs; its files are read once."""
        identity = encoding.role, encoding.encoder, encoding.texts
        if identity not in self._needs:
            manifest = self.plan.encoding_manifest(encoding)
            if manifest.exists() and not dropped_mark(manifest).exists():
                rows = read_json(manifest)["rows"]
                self._needs[identity] = Need(rows, 0, 0, 0, 0.0)
            else:
                self._needs[identity] = self._count(encoding)
        return self._needs[identity]

    def width(self, encoding: Encoding) -> int | None:
        """Return the dimensions of an encoder's vectors: of those in the store, or as its files say."""
        store = Store(self.plan.cache, encoding.encoder)
        for name in store.shard_names()[:1]:
            return Shard(store.shard_path(name)).dim
        return vector_width(encoding.model.folder)

    def _count(self, encoding: Encoding) -> Need:
        if isinstance(encoding, Imported):
            return Need(0, 0, 0, sum(link.stat().st_size for link in encoding.links), 0.0)
        keys, id_bytes = [np.empty((0, TEXT_KEY_BYTES), np.uint8)], 0
        for block, _, ids in _texts(encoding):
            keys.append(block)
            id_bytes += sum(map(len, ids))
        rows = sum(map(len, keys))
        new = self._without_vector(encoding, distinct_keys(np.concatenate(keys)))
        tokens = self._tokens(encoding, new)
        speed = earlier_speed(self.plan.cache, encoding)
        width = self.width(encoding)
        stored = STORED_BYTES[encoding.model.settings.embedding_dtype]
        written = None if width is None else len(new) * (TEXT_KEY_BYTES + stored * width)
        return Need(
            rows=rows,
            to_encode=len(new),
            tokens=tokens,
            bytes=None if written is None else written + rows * PLACE_BYTES + id_bytes,
            seconds=speed and speed.seconds(tokens) if tokens else tokens,
            by_siblings=bool(tokens and speed and speed.of_siblings),
        )

    def _without_vector(self, encoding: Encoding, keys: np.ndarray) -> np.ndarray:
        """Return those of the keys (distinct, sorted) that neither the store nor an earlier need has."""
        new = keys[~Store(self.plan.cache, encoding.encoder).find(keys).known]
        planned = self._planned.get(encoding.encoder, new[:0])
        new = new[~np.isin(_whole(new), _whole(planned))]
        self._planned[encoding.encoder] = distinct_keys(np.concatenate([planned, new]))
        return new

    def _tokens(self, encoding: Encoding, keys: np.ndarray) -> int | None:
        """Estimate the tokens of the texts with these keys (distinct, sorted).

        Keys are hashes: the smallest ones are a random sample of the texts, the same each time.
        """
        wanted = {key.tobytes() for key in keys[:SAMPLE]}
        sample = []
        for block, texts, _ in _texts(encoding) if wanted else ():
            for key, text in zip(block, texts, strict=True):
                if key.tobytes() in wanted:
                    wanted.remove(key.tobytes())
                    sample.append(text)
            if not wanted:
                break
        if not sample:
            return 0
        lengths = token_counts(encoding.model, sample, encoding.encoder_recipe["max_len"])
        return None if lengths is None else round(sum(lengths) / len(lengths) * len(keys))


def _texts(encoding: Encoding):
    """Yield (keys uint8[n, 16], strings for the tokenizer, ids) of a collection's files."""
    form = formatter(encoding.form, encoding.dataset)
    readers = [reader_of(given) for given in encoding.readers]
    for path, digest, reader in zip(encoding.links, encoding.digests, readers, strict=True):
        for batch in read_records(path, shown_as=shown_path(path), digest=digest, reader=reader):
            texts = form(batch.titles, batch.texts)
            block = np.frombuffer(text_keys(texts), np.uint8)
            yield block.reshape(-1, TEXT_KEY_BYTES), texts, batch.ids


def distinct_keys(keys: np.ndarray) -> np.ndarray:
    """Return keys uint8[n, 16] sorted, each once."""
    return np.unique(_whole(keys)).view(np.uint8).reshape(-1, TEXT_KEY_BYTES)


def _whole(keys: np.ndarray) -> np.ndarray:
    """View keys uint8[n, 16] as one item each, [n]."""
    return np.ascontiguousarray(keys).view(f"V{TEXT_KEY_BYTES}").reshape(-1)


def token_counts(model: Model, texts: list[str], max_len: int) -> list[int] | None:
    """Return the tokens of texts, cut at max_len; None if the model's tokenizer can't be loaded."""
    folder = transformer_folder(model.folder)
    try:
        if (folder / "tokenizer.json").exists():
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            lengths = [len(encoded.ids) for encoded in tokenizer.encode_batch(texts)]
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            lengths = list(map(len, tokenizer(texts, verbose=False)["input_ids"]))
    except Exception:  # an estimate is not worth a failure, and libraries raise what they like
        return None
    return [min(length, max_len) for length in lengths]


@dataclass(frozen=True)
class Speed:
    """How fast earlier jobs were: tokens per second at work, and seconds of everything else.

    `of_siblings`: the jobs were of other weights, of the same size.
    """

    tokens_per_second: float
    overhead: float
    of_siblings: bool = False

    def seconds(self, tokens: int) -> float:
        """Return how long a job with so many tokens takes."""
        return self.overhead + tokens / self.tokens_per_second


def earlier_speed(cache: Path, encoding: Encoding) -> Speed | None:
    """Return the speed of the latest jobs of this encoder, else of those with the same weights, else of those
    whose weights have the same size, as other checkpoints of a training run have, and the same max_len.

    None if no record of such a job is left.
    """
    wanted, folder = encoding.encoder_recipe, encoding.model.folder
    found = (Path(cache) / "embeddings").glob("*/recipe.json")
    recipes = {path.parent: recipe for path in found if (recipe := _recipe(path))}
    own = [store for store in recipes if store.name == encoding.encoder]
    same = [s for s, recipe in recipes.items() if recipe["model_files"] == wanted["model_files"]]
    size = _weight_bytes(folder, wanted["model_files"])
    siblings = [
        store
        for store, recipe in recipes.items()
        if size
        and recipe["max_len"] == wanted["max_len"]
        and size == _weight_bytes(_folder(cache, recipe), recipe["model_files"])
    ]
    for chosen in (own, same, siblings):
        records = [record for store in chosen for record in read_records_of_jobs(store)]
        timed = [r for r in records if r.get("tokens") and r.get("seconds", {}).get("forward")]
        timed = sorted(timed, key=lambda r: r.get("finished", ""))[-RECORDS:]
        if timed:
            working = [sum(r["seconds"].get(phase, 0.0) for phase in PHASES) for r in timed]
            total = sum(r["seconds"].get("total", 0.0) for r in timed)
            return Speed(
                sum(r["tokens"] for r in timed) / sum(working),
                max(0.0, total - sum(working)) / len(timed),
                chosen is siblings,
            )
    return None


def _recipe(path: Path) -> dict:
    """Return the recipe of an encoder; {} if it is damaged, or the vectors come from elsewhere."""
    try:
        recipe = read_json(path)
    except TroveStepsError:
        return {}
    return recipe if {"model_files", "max_len"} <= recipe.keys() else {}


def _folder(cache: Path, recipe: dict) -> Path:
    """Return the folder of an encoder's model, by its content."""
    return Path(cache) / "in" / recipe_key({"kind": "model", "files": recipe["model_files"]})


def _weight_bytes(folder: Path, names: Iterable[str]) -> int:
    """Return the size of a model's weights, 0 if its folder is gone."""
    try:
        return sum(
            (folder / name).stat().st_size
            for name in names
            if name.endswith((".safetensors", ".bin"))
        )
    except OSError:
        return 0


@dataclass
class CellCost:
    """What a cell will cost, without what an earlier cell of the plan pays for.

    `steps` are those that will run. `bytes` includes the ranking; `seconds` is the encoding's,
    `by_siblings` as in `Need`.
    """

    dataset: str
    model: str
    steps: list[str]
    rows: int
    to_encode: int
    tokens: int | None
    bytes: int | None
    seconds: float | None
    by_siblings: bool

    @property
    def reused(self) -> int:
        return self.rows - self.to_encode


class CostTable:
    """The costs of all cells of a plan, in its order."""

    def __init__(self, plan: Plan):
        self.plan, self._estimator = plan, Estimator(plan)
        self._paid: set[Path] = set()

    @cached_property
    def cells(self) -> list[CellCost]:
        return [self._cost(cell) for cell in self.plan.cells.values()]

    def _cost(self, cell) -> CellCost:
        needed = {
            stage.path: stage.step
            for stage in cell_stages(self.plan, cell)
            if stage.state == "needed" and stage.path not in self._paid
        }
        self._paid.update(needed)
        needs = [
            self._estimator.need(encoding)
            for encoding in (cell.corpus, cell.queries)
            if self.plan.encoding_manifest(encoding) in needed
        ]
        ranking = 0
        if "search" in needed.values():
            ends = [self._estimator.need(cell.queries).rows, self._estimator.need(cell.corpus).rows]
            depth = min(self.plan.depths[cell.search], ends[1])
            ranking = ends[0] * depth * RANKING_ROW_BYTES
        written = _total(need.bytes for need in needs)
        return CellCost(
            dataset=cell.dataset,
            model=cell.model,
            steps=list(dict.fromkeys(needed.values())),
            rows=sum(need.rows for need in needs),
            to_encode=sum(need.to_encode for need in needs),
            tokens=_total(need.tokens for need in needs),
            bytes=None if written is None else written + ranking,
            seconds=_total(need.seconds for need in needs),
            by_siblings=any(need.by_siblings for need in needs),
        )


def _total(values):
    """Return the sum, None if one of the values is None."""
    listed = list(values)
    return None if None in listed else sum(listed)


def total_cost(cells: list[CellCost]) -> dict:
    """Return the sums over cells, as JSON holds them."""
    return {
        name: _total(getattr(cell, name) for cell in cells)
        for name in ("rows", "reused", "to_encode", "tokens", "bytes", "seconds")
    }
