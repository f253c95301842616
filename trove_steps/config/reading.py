"""Configurations as they stand in YAML files."""

from collections.abc import Sequence
from pathlib import Path

from trove_steps.errors import TroveStepsError

DEFAULT = Path("config/config.yaml")


def check_names(paths: Sequence[Path]) -> None:
    """Raise TroveStepsError for a name behind --configfile that was meant for something else."""
    for path in paths[1:]:
        if not path.exists():
            raise TroveStepsError(
                f"--configfile takes all names behind it, and {path} is no file: write other arguments "
                "before it"
            )


def check_once(arguments: Sequence[str]) -> None:
    """Raise TroveStepsError if a command line has --configfile twice: snakemake takes the last one only."""
    options = [argument.partition("=")[0] for argument in arguments]
    if options.count("--configfile") + options.count("--configfiles") > 1:
        raise TroveStepsError(
            "--configfile is there twice, and snakemake would take the last one only: name all files behind "
            "one of them"
        )


def read_configurations(paths: Sequence[Path]) -> dict:
    """Return what YAML files hold, a later one over an earlier; of none, config/config.yaml."""
    found: dict = {}
    for path in paths or [DEFAULT]:
        found = _merged(found, read_configuration(path))
    return found


def read_configuration(path: Path) -> dict:
    """Return what a YAML file holds; TroveStepsError if it can't be read or is no mapping."""
    import yaml

    from trove_steps.config.yaml_keys import check_unique_keys

    check_unique_keys([path])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TroveStepsError(
            f"the configuration {path} can't be read ({error.strerror}): name it with --configfile"
        ) from None
    except UnicodeDecodeError as error:
        raise TroveStepsError(f"the configuration {path} is not UTF-8: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise TroveStepsError(f"{path}:{line}: not valid YAML: {_in_words(error)}") from None
    except ValueError as error:  # of a date
        raise TroveStepsError(
            f"the configuration {path} holds a date that there is not ({error}): put it in quotes if it is a "
            "name"
        ) from None
    except RecursionError:
        raise TroveStepsError(f"the configuration {path} is nested too deeply") from None
    except (LookupError, AttributeError, TypeError) as error:
        raise TroveStepsError(
            f"the configuration {path} holds a value that does not fit its !!tag ({error}): leave the tag out"
        ) from None
    except yaml.YAMLError as error:
        raise TroveStepsError(f"the configuration {path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise TroveStepsError(f"the configuration {path} holds no sections")
    return content


def _in_words(error) -> str:
    """Return what a parser found wrong, and where what it was reading began."""
    words = error.problem or ""
    if error.context and error.context_mark:
        words += f", {error.context} that begins in line {error.context_mark.line + 1}"
    elif error.context:
        words += f", {error.context}"
    return f"{words}, column {error.problem_mark.column + 1}"


def _merged(first, second):
    """Return `second` over `first`, section by section, as snakemake merges configurations."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return second
    return {**first, **{name: _merged(first.get(name), item) for name, item in second.items()}}
