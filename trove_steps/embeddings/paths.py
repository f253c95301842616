"""Where the vectors of an encoder and the manifests of its collections lie."""

from pathlib import Path


def store_directory(cache_dir: Path, encoder: str) -> Path:
    """Return where the vectors of an encoder live."""
    return Path(cache_dir) / "embeddings" / encoder


def manifest_path(cache_dir: Path, encoder: str, role: str, texts: str) -> Path:
    """Return where the manifest of a collection lives; `role` is "corpus" or "queries"."""
    return store_directory(cache_dir, encoder) / f"{role}-{texts}.json"


def dropped_mark(manifest: Path) -> Path:
    """Return the file that exists while the vectors of a collection have been dropped on purpose."""
    return Path(manifest).with_suffix(".dropped")
