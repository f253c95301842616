"""A model as a configuration names it: where it is, whether it is here, and its files."""

from dataclasses import dataclass
from pathlib import Path

from trove_steps.errors import TroveStepsError
from trove_steps.models.files import model_files
from trove_steps.models.location import NotFetched, locate_model


@dataclass(frozen=True)
class Source:
    """A model as a configuration names it, and the key that messages name."""

    name_or_path: str
    revision: str
    where: str
    option: str = "model_name_or_path"

    def locate(self) -> Path:
        """Return its folder as `locate_model` does."""
        return locate_model(self.name_or_path, self.revision, self.where, self.option)

    def files(self) -> dict[str, Path]:
        """Return its files as `model_files` does; a mistake is told with the key."""
        try:
            return model_files(self.locate())
        except NotFetched:
            raise
        except TroveStepsError as error:
            key = f"{self.where}.{self.option}"
            told = str(error)
            raise TroveStepsError(told if told.startswith(key) else f"{key}: {told}") from None

    def is_here(self, cache: Path) -> bool:
        """Tell whether nothing is to be fetched; a mistake is reported in its own place."""
        try:
            model_files(self.locate())
        except NotFetched:
            return False
        except TroveStepsError:
            pass
        return True

    def flags(self) -> list[str]:
        """Return it as flags of the fetch step."""
        return [
            *("--model-name-or-path", self.name_or_path, "--revision", self.revision),
            *("--where", self.where, "--option", self.option),
        ]
