"""snakemake that looks after its jobs every two seconds.

The SLURM plugin waits longer after each look that found nothing new, up to three minutes: right for a
cluster, but most of a test's time.
"""

import asyncio
import sys

from snakemake.cli import main
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

SECONDS = 2


async def sleep(self) -> None:
    await asyncio.sleep(SECONDS)


RemoteExecutor.sleep = sleep

if __name__ == "__main__":
    settings = ["--slurm-init-seconds-before-status-checks", str(SECONDS)]
    main([*sys.argv[1:], *settings, "--max-status-checks-per-second", "1"])
