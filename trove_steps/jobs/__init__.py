"""Where jobs run, this machine or a cluster, and what they take and ask for there.

`execution` is what a run knows of that, `devices` which GPUs a step takes. `resources` says what a step
needs by its size and earlier jobs, `requests` what the jobs of a plan ask a cluster for. `slurm` spreads
a step over nodes, `slurm_cluster` knows a cluster's limits, `slurm_watch` follows its jobs, and
`unfinished` says which step of one broke off.
"""
