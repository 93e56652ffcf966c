"""Whether a change helps on categories that did not suggest it: paired differences over category x seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

EXACT = 16  # categories up to which all 2^n signs are tried
RANDOM = 20_000  # signs that are drawn beyond
ROUNDING = 1e-12


@dataclass(frozen=True)
class Comparison:
    """Differences (new - old) of one metric.

    Attributes:
        by_category: Mean difference over the seeds that both have, by category.
        pairs: Number of (category, seed) that both have.
        mean: Mean over the categories.
        without: Mean over all other categories, by the category that is left out; {} with fewer than two. A gain that
            one category alone carries is gone without it.
        p_value: Two-sided, that categories whose differences could as well have the other sign give a mean at least as
            far from 0: all signs where there are at most 16 categories. Seeds of one category are no independent
            evidence, so they share a sign.
    """

    by_category: Mapping[str, float]
    pairs: int
    mean: float
    without: Mapping[str, float]
    p_value: float


def compare(new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]], metric: str) -> Comparison | None:
    """Paired comparison of rows of one experiment each; None where no row of both has the metric."""
    before = {(row["category"], row["seed"]): row["metrics"].get(metric) for row in old}
    found: dict[str, list[float]] = {}
    for row in new:
        value, other = row["metrics"].get(metric), before.get((row["category"], row["seed"]))
        if value is not None and other is not None:
            found.setdefault(row["category"], []).append(value - other)
    if not found:
        return None
    means = {category: float(np.mean(values)) for category, values in found.items()}
    values = np.array(list(means.values()))
    total = float(values.sum())
    without = {name: (total - value) / (len(means) - 1) for name, value in means.items()} if len(means) > 1 else {}
    return Comparison(means, sum(map(len, found.values())), float(values.mean()), without, sign_flip(values))


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided p-value of the mean of differences (n,) under random signs (Fisher 1935): exact for n <= 16."""
    count = len(differences)
    if count <= EXACT:
        signs = np.array(list(product((1.0, -1.0), repeat=count)))
    else:
        drawn = np.random.default_rng(0).choice((1.0, -1.0), size=(RANDOM, count))
        signs = np.concatenate((np.ones((1, count)), drawn))  # the observed signs are one of the possible
    means = np.abs(signs @ differences)
    return float((means >= abs(differences.sum()) - ROUNDING).mean())
