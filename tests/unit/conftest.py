"""What several unit tests share."""

import os

import pytest
from hypothesis import HealthCheck, settings

# By default, an example that takes 0.2 seconds fails: on a busy machine any one may.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


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
