"""Comparisons of models as text for the terminal."""

from collections.abc import Sequence


def format_comparisons(comparisons: Sequence[dict]) -> str:
    """Aligned text of comparisons, given as the rows of comparison.tsv."""
    header = (
        "dataset",
        "metric",
        "a",
        "b",
        "a",
        "b",
        "b - a",
        "interval",
        "p (Holm)",
        "win/tie/loss",
    )
    lines = [header]
    for row in comparisons:
        interval = f"{float(row['low']):+.4f} … {float(row['high']):+.4f}"
        lines.append(
            (
                *(row[name] for name in ("dataset", "metric", "model_a", "model_b")),
                *(f"{float(row[name]):.4f}" for name in ("mean_a", "mean_b")),
                f"{float(row['difference']):+.4f}",
                interval,
                f"{float(row['p_holm']):.4f}",
                f"{row['wins']}/{row['ties']}/{row['losses']}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
