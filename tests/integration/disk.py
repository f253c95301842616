"""A disk of its own, to be full or read-only."""

import subprocess
from pathlib import Path

import pytest


class Disk:
    """A small file system of its own, in memory."""

    def __init__(self, folder: Path, megabytes: float):
        self.folder = folder
        folder.mkdir(parents=True)
        self._mount("-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs")

    def _mount(self, *options: str) -> None:
        done = subprocess.run(
            ["mount", *options, str(self.folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a file system can't be mounted here (root only): {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        self._mount("-o", f"remount,{options}")

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)
