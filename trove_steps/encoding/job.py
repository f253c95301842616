"""What an encode job is asked to do."""

from dataclasses import dataclass
from pathlib import Path

from trove_steps.data import Reader, reader_of
from trove_steps.fingerprint import Fingerprints
from trove_steps.formats import format_recipe
from trove_steps.keys import encoder_recipe, texts_recipe
from trove_steps.models.files import model_files
from trove_steps.models.settings import ModelSettings


@dataclass(frozen=True)
class Job:
    """One collection to be encoded by one model.

    `role` is "corpus" or "queries"; `paths` are its files in order; `digests`, if given, are the
    SHA-256 that they must have; `readers`, if given, say how each is read: fields of `Reader` and
    "collections", the numbers of the collections that it belongs to. `expected_manifest` must be given
    where several jobs share the work.
    """

    role: str
    paths: list[Path]
    digests: list[str] | None
    model_folder: Path
    model_name: str
    settings: ModelSettings
    cache_dir: Path
    batch_size: int | None
    expected_manifest: Path | None = None
    tokens_per_batch: int | None = None
    dataset: str = ""  # for a text format that is a function which takes it
    readers: list[dict] | None = None
    jobs: int = 1  # that encode this collection together, each with its own processes
    helper_record: Path | None = None  # of a job that only helps: written in place of the manifest

    @property
    def encoder_role(self) -> str:
        return "passage" if self.role == "corpus" else "query"

    @property
    def form(self) -> str:
        return self.settings.passage_format if self.role == "corpus" else self.settings.query_format

    @property
    def template(self) -> str | dict:
        """The text format as it stands in recipes."""
        return format_recipe(self.form, self.dataset)

    @property
    def max_len(self) -> int:
        """The most tokens of a text."""
        return self.settings.encoder_recipe(self.encoder_role)["max_len"]

    def each_reader(self) -> list[Reader]:
        """Return how each of the files is read."""
        return [reader_of(given) for given in self.readers or [{}] * len(self.paths)]

    def encoder_recipe(self) -> dict:
        """Return what the encoder's key stands for, the digests of the model's files included."""
        fingerprints = Fingerprints(self.cache_dir)
        paths = model_files(self.model_folder)
        files = {name: fingerprints.file(path) for name, path in paths.items()}
        return encoder_recipe(files, self.settings.encoder_recipe(self.encoder_role))

    def texts_recipe(self, digests: list[str]) -> dict:
        """Return what the key of the collection stands for, whose files have these SHA-256."""
        return texts_recipe(self.role, digests, self.template, self.readers)
