"""The packages that results depend on, as they are installed."""

import platform
from importlib import metadata

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "pyarrow",
    "pytrec-eval-terrier",
    "snakemake",
)


def versions() -> dict[str, str]:
    """Return package → version, Python among them; one that is not installed is left out."""
    from trove_steps import __version__

    found = {"trove-steps": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
