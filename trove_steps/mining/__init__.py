"""Hard negatives.

`selection` has the options, light enough for the planner; `rules` apply them, with what `evidence` knows
of candidates and positives, and random samples (`sampling`). `inputs` reads what mining is done on,
`pair_scores` keeps what a cross-encoder says of it. `mined` is what is found; `mined_folder`,
`mined_qrels` and `training_files` write it.
"""
