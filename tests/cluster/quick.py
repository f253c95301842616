"""snakemake that looks after its jobs every two seconds.

On a cluster it looks every 20 to 60 seconds, which would be most of a test's time.
"""

import sys

from snakemake.cli import main

from trove_steps.jobs import slurm_watch

SECONDS = 2

if __name__ == "__main__":
    slurm_watch.SLOWEST_SECONDS = SECONDS
    main([*sys.argv[1:], "--slurm-init-seconds-before-status-checks", str(SECONDS)])
