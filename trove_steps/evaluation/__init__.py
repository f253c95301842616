"""How good a ranking is, and whether two models differ.

`measures` has the names of metrics, light enough for the planner; `metrics` computes them, with what
`ties` make of them; `comparison` compares models, `comparison_text` shows it.
"""
