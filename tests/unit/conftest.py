"""What several unit tests share."""

import os

import pytest


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put programs on the PATH that answer as told; of a real SLURM nothing is left in the environment."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def answers(name: str, script: str) -> None:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return answers
