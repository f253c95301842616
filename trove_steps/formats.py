"""What the tokenizer gets of a record: `query_format` and `passage_format`.

A format is a template ("query: {text}") or a function of the user's own ("module:function"), which is
called with those of `text`, `title` and `dataset` that it has as parameters. A configuration may give
one for all data sets, or a section of them by data set.
"""

from collections.abc import Callable, Sequence

from trove_steps import own_code
from trove_steps.data import format_text, format_texts
from trove_steps.errors import TroveStepsError

OPTIONS = {"query": "query_format", "passage": "passage_format"}
OTHERS = "*"  # in a section by data set: those that it does not name
PARAMETERS = {"query": {"text", "dataset"}, "passage": {"text", "title", "dataset"}}


def choose_format(given: str | dict | None, dataset: str) -> str | None:
    """Return the format that an option's value gives to a data set, None if it gives none."""
    return given.get(dataset, given.get(OTHERS)) if isinstance(given, dict) else given


def takes_dataset(form: str) -> bool:
    """Return whether a format is a function with a parameter `dataset`."""
    return own_code.is_name(form) and "dataset" in own_code.function_parameters(form, "format")


def check_format(form: str, role: str, where: str) -> None:
    """Raise TroveStepsError for a format that can't work; `role` is "query" or "passage"."""
    if not own_code.is_name(form):
        try:
            format_text(form, "", "")
        except TroveStepsError as error:
            raise TroveStepsError(f"{where}: {error}") from None
        return
    parameters, known = own_code.function_parameters(form, where), PARAMETERS[role]
    if "text" not in parameters or parameters - known:
        raise TroveStepsError(
            f"{where}: {form} takes {', '.join(sorted(parameters)) or 'nothing'}; its parameters must "
            f"be text and, if needed, {' and '.join(sorted(known - {'text'}))}"
        )


def format_recipe(form: str, dataset: str) -> str | dict:
    """Return what stands for a format in a recipe: a template, or a function with its source's digest.

    The name of the data set counts only for a function that takes it.
    """
    if not own_code.is_name(form):
        return form
    recipe = {"function": form, "sha256": own_code.source_digest(form, "format")}
    return recipe | {"dataset": dataset} if takes_dataset(form) else recipe


def formatter(
    form: str, dataset: str
) -> Callable[[Sequence[str | None], Sequence[str]], list[str]]:
    """Return a format as a function of (titles, texts) of some records, all [n].

    What a function of the user's own returns is taken as it is; it must be a string.
    """
    if not own_code.is_name(form):
        return lambda titles, texts: format_texts(form, titles, texts)
    function = own_code.load(form, "format")
    parameters = own_code.function_parameters(form, "format")

    def call(title: str | None, text: str) -> str:
        fields = {"title": title, "text": text, "dataset": dataset}
        try:
            made = function(**{name: fields[name] for name in parameters})
        except own_code.FAILURES as error:
            raise TroveStepsError(
                f"format {form}: {own_code.reason(error)}, for the text {text[:60]!r}"
            ) from error
        if not isinstance(made, str):
            raise TroveStepsError(
                f"format {form}: returned {type(made).__name__} instead of a string for the text "
                f"{text[:60]!r}"
            )
        try:
            made.encode()
        except UnicodeEncodeError:
            raise TroveStepsError(
                f"format {form}: returned half of a surrogate pair for the text {text[:60]!r}"
            ) from None
        return made

    return lambda titles, texts: list(map(call, titles, texts))
