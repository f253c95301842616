"""trove-steps cache du: what takes how much room in a cache."""

from trove_steps.cache.contents import Cache, last_write, size_of
from trove_steps.embeddings.collection import last_use
from trove_steps.keys import recipe_key


def usage(
    cache: Cache, names: dict[tuple[str, str, str], list[str]], models: dict[str, list[str]]
) -> dict:
    """Return what takes how much room, as JSON holds it.

    `names` says which data sets of a configuration a collection (role, encoder, texts) belongs to, `models`
    which of its models an encoder does.
    Bytes of collections overlap where they share texts; those of encoders do not.
    """
    encoders, collections = [], []
    for folder in cache.encoders:
        shards = folder.shards()
        listed = []
        for collection in folder.collections:
            files = collection.content["recipe"].get("files", [])
            listed.append(
                {
                    "encoder": folder.key,
                    "role": collection.role,
                    "texts": collection.texts,
                    "files": [cache.name_of(digest) or digest for digest in files],
                    "datasets": names.get((collection.role, folder.key, collection.texts), []),
                    "rows": collection.rows,
                    "bytes": collection.vector_bytes + size_of(collection.rows_path),
                    "last_use": last_use(collection.manifest),
                }
            )
        paths = [folder.store.shard_path(name) for name in shards]
        encoders.append(
            {
                "encoder": folder.key,
                "model": _model_name(cache, folder.recipe),
                "models": models.get(folder.key, []),
                "recipe": folder.recipe,
                "shards": len(shards),
                "rows": sum(rows for rows, _ in shards.values()),
                "bytes": size_of(folder.directory),
                "last_use": max([last_write(paths), *(entry["last_use"] for entry in listed)]),
            }
        )
        collections += listed
    parts = {
        path.name: size_of(path)
        for path in sorted(cache.directory.iterdir())
        if path.name != "embeddings"
    }
    total = size_of(cache.directory)
    return {"encoders": encoders, "collections": collections, "parts": parts, "bytes": total}


def _model_name(cache: Cache, recipe: dict) -> str:
    if "vectors" in recipe:
        return ", ".join(cache.name_of(digest) or digest for digest in recipe["vectors"])
    files = recipe.get("model_files", {})
    return cache.name_of(recipe_key({"kind": "model", "files": files})) if files else ""


def describe_encoder(recipe: dict) -> str:
    """Say a recipe in a few words: mean, normalize, 256 tokens, float32, …"""
    if "model_files" not in recipe:
        return "computed elsewhere" if recipe else "interrupted"  # it is written last
    words = [str(recipe.get("pooling"))]
    if recipe.get("normalize"):
        words.append("normalize")
    words += [f"{recipe.get('max_len')} tokens", str(recipe.get("torch_dtype"))]
    said = {"kind", "version", "model_files", "pooling", "normalize", "max_len", "torch_dtype"}
    for name, value in recipe.items():
        if name not in said and value:
            shown = value["name"] if isinstance(value, dict) and "name" in value else value
            words.append(name if value is True else f"{name} {shown}")
    return ", ".join(words)
