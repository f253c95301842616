"""snakemake that looks after its jobs every two seconds.

A run waits longer after each look that found nothing new, up to a minute: right for a cluster, but most of a
test's time.
"""

import asyncio
import sys

from snakemake.cli import main

from trove_steps.slurm_watch import Watch

SECONDS = 2


async def sleep(self) -> None:
    await asyncio.sleep(SECONDS)


Watch.sleep = sleep

if __name__ == "__main__":
    settings = ["--slurm-init-seconds-before-status-checks", str(SECONDS)]
    main([*sys.argv[1:], *settings])
