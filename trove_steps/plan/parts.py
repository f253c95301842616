"""What a plan consists of: models, encodings of collections, and cells (data set × model)."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trove_steps.formats import format_recipe
from trove_steps.inputs import Dataset
from trove_steps.keys import encoder_recipe, imported_recipe, recipe_key, texts_recipe
from trove_steps.models.settings import ModelSettings

ROLES = {"corpus": "passage", "queries": "query"}


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
