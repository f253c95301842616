"""Exact search.

`search` is all of it; `sweep` is its fast pass, which leaves `candidates`. `products` have proven bounds,
`kernels` are compiled, and `passes` chooses the fastest way.
"""
