"""Models in folders and in the Hub's cache, of which a local stand-in is built here."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trove_steps.errors import TroveStepsError
from trove_steps.fingerprint import Fingerprints
from trove_steps.keys import recipe_key
from trove_steps.models.files import model_files
from trove_steps.models.location import NotFetched, locate_model

FILES = {
    "config.json": b'{"model_type": "bert", "max_position_embeddings": 128}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights" * 100,
}
COMMIT = "c" * 40


def write_model(folder: Path, files=FILES) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_hub(cache: Path, name: str = "org/minilm", files=FILES, commit: str = COMMIT) -> Path:
    """Lay out a repository as huggingface_hub does; return the snapshot."""
    root = cache / f"models--{name.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    for folder in (root / "refs", root / "blobs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for file, content in files.items():
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        large = file.endswith((".safetensors", ".bin"))
        blob = root / "blobs" / (hashlib.sha256(content).hexdigest() if large else git)
        blob.write_bytes(content)
        (snapshot / file).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def digest(folder: Path, cache: Path) -> str:
    fingerprints = Fingerprints(cache)
    return recipe_key({name: fingerprints.file(path) for name, path in model_files(folder).items()})


def test_a_folder_is_itself(hub):
    write_model(Path("model"))
    assert locate_model("model", "main", "models.m") == Path("model")


def test_a_folder_wins_over_the_hub(hub):
    write_hub(hub)
    write_model(Path("org/minilm"))
    assert locate_model("org/minilm", "main", "models.m") == Path("org/minilm")


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_name_is_found_in_the_cache(hub, revision):
    snapshot = write_hub(hub)
    assert locate_model("org/minilm", revision, "models.m").resolve() == snapshot.resolve()


def test_a_revision_names_its_own_snapshot(hub):
    write_hub(hub, commit="d" * 40, files={**FILES, "model.safetensors": b"old"})
    newest = write_hub(hub)
    old = locate_model("org/minilm", "d" * 40, "models.m")
    assert locate_model("org/minilm", "main", "models.m").resolve() == newest.resolve()
    assert (old / "model.safetensors").read_bytes() == b"old"


def test_a_copy_and_the_snapshot_are_the_same_model(hub, tmp_path):
    snapshot = write_hub(hub)
    shutil.copytree(snapshot, tmp_path / "copy")  # follows the links
    located = locate_model("org/minilm", "main", "models.m")
    assert digest(located, tmp_path / "c") == digest(tmp_path / "copy", tmp_path / "c")
    other = write_model(tmp_path / "other", {**FILES, "model.safetensors": b"weightt" * 100})
    assert digest(other, tmp_path / "c") != digest(located, tmp_path / "c")


def test_a_damaged_download_is_named(hub, tmp_path):
    snapshot = write_hub(hub)
    (snapshot / "model.safetensors").resolve().write_bytes(b"weights" * 99)
    folder = locate_model("org/minilm", "main", "models.m")
    with pytest.raises(TroveStepsError, match=r"model\.safetensors is damaged.*fetch the model"):
        digest(folder, tmp_path / "c")


def message_of(name: str, revision: str = "main") -> str:
    with pytest.raises(TroveStepsError) as raised:
        locate_model(name, revision, "models.m")
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_model_that_is_nowhere(hub):
    message = message_of("org/minilm")
    assert message.startswith(
        "models.m.model_name_or_path: 'org/minilm' (revision main) is no folder"
    )
    assert "is not in the Hub's cache and can't be fetched" in message
    assert "(revision v2)" in message_of("org/minilm", "v2")


@pytest.mark.parametrize("missing", ["blob", "weights"])
def test_a_snapshot_that_was_fetched_in_part(hub, missing):
    if missing == "weights":
        write_hub(hub, files={"config.json": b"{}"})
    else:
        (write_hub(hub) / "tokenizer.json").resolve().unlink()
    assert "lacks weights, or files that" in message_of("org/minilm")


def test_files_that_no_step_needs_may_be_missing(hub):
    snapshot = write_hub(hub, files={**FILES, "model.onnx": b"graph"})
    (snapshot / "model.onnx").resolve().unlink()
    assert locate_model("org/minilm", "main", "models.m").resolve() == snapshot.resolve()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./models/none", r"the folder './models/none' does not exist \(relative to /"),
        ("/models/none", "the folder '/models/none' does not exist$"),
        ("a/b/c", "the folder 'a/b/c' does not exist"),
        ("a model", "neither a folder nor a name on the Hub"),
        ("org/--bad", "neither a folder nor a name on the Hub"),
        ("file.bin", "is a file; name the folder that holds it"),
    ],
)
def test_names_that_are_wrong(hub, name, message):
    Path("file.bin").write_bytes(b"")
    with pytest.raises(TroveStepsError, match=f"models.m.model_name_or_path: .*{message}"):
        locate_model(name, "main", "models.m")


@pytest.mark.parametrize("name", ["ckpt/step-999", "./ckpt/step-999"])
def test_a_checkpoint_that_is_not_there(hub, name):
    """A name in a folder that exists is taken for one on the Hub only if the Hub's cache has it."""
    for step in ("step-300", "other"):
        Path("ckpt", step).mkdir(parents=True)
    with pytest.raises(TroveStepsError) as raised:
        locate_model(name, "main", "models.m")
    assert not isinstance(raised.value, NotFetched)
    said, meant = str(raised.value), name.replace("999", "300")
    assert said.startswith(f"models.m.model_name_or_path: the folder '{name}' does not exist")
    assert f"; did you mean '{meant}'?" in said


def test_a_fetched_model_whose_first_name_is_a_folder(hub):
    snapshot = write_hub(hub)
    Path("org/other").mkdir(parents=True)
    assert locate_model("org/minilm", "main", "models.m").resolve() == snapshot.resolve()


PROGRAM = """
import sys
from trove_steps.errors import TroveStepsError
from trove_steps.models.location import fetching, locate_model
try:
    with fetching():
        print(locate_model(sys.argv[1], "main", "models.m"))
except TroveStepsError as error:
    print("error:", error)
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


@pytest.mark.parametrize(("name", "offline"), [("org/minilm", 1), ("org/none", 1), ("org/none", 0)])
def test_the_environment_is_respected(tmp_path, name, offline):
    """HF_HUB_CACHE and HF_HUB_OFFLINE, as huggingface_hub reads them; and a Hub out of reach."""
    snapshot = write_hub(tmp_path / "hub")
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": str(offline),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
    }
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=60,
    )
    answer, heavy = ended.stdout.splitlines()
    assert heavy == "[]"
    if name == "org/minilm":
        assert Path(answer).resolve() == snapshot.resolve()
    else:
        assert answer.startswith("error: models.m.model_name_or_path: 'org/none' (revision main)")


def test_nothing_is_fetched_unless_that_is_the_step(hub, monkeypatch):
    """The planner only asks the Hub's cache: no call of the library may leave the machine."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    asked = []
    real = huggingface_hub.snapshot_download

    def snapshot_download(*arguments, **options):
        asked.append(options["local_files_only"])
        return real(*arguments, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(NotFetched, match="is not in the Hub's cache"):
        locate_model("org/minilm", "main", "models.m")
    snapshot = write_hub(hub)
    assert locate_model("org/minilm", "main", "models.m").resolve() == snapshot.resolve()
    assert asked == [True, True]
