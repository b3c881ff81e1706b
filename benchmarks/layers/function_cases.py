"""What is measured of the functions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.layers.case import IMAGE, SCALED, Case, X, cases, normal, uniform

LINES = {"x": normal(3, 4, 20)}
TIES = {"x": np.array([[1.0, 3.0, 3.0, 2.0], [5.0, 5.0, 5.0, 1.0]])}

FUNCTION_CASES: Mapping[str, list[Case]] = {
    "interpolate": cases(IMAGE, *SCALED),
    "grid_sample": cases(
        {"x": IMAGE["x"], "grid": uniform(2, 5, 6, 2, low=-1.2, high=1.2)},
        {},
        {"align_corners": True},
        {"padding_mode": "border"},
        {"mode": "nearest"},
    ),
    "affine_grid": cases(
        {"theta": normal(2, 2, 3)}, {"size": [2, 3, 4, 5]}, {"size": [2, 3, 4, 5], "align_corners": True}
    ),
    "rms_norm": [
        Case(
            {"normalized_shape": [8], "eps": 1e-5},
            {"x": X["x"]},
            call={"weight": {"$array": [1.0] * 8}},
            shows="no CPU kernel",
        )
    ],
    "pad": cases(
        IMAGE,
        {"pad": [1, 2]},
        {"pad": [1, 2, 2, 1], "mode": "reflect"},
        {"pad": [1, 2, 0, 1, 0, 0, 1, 0], "value": 3.0},
    ),
    "normalize": cases(LINES, {}, {"p": 1.0, "dim": -1})
    + [Case({"eps": 1.0}, LINES, shows="gradient with a large epsilon", compare=("gradient*",))],
    "median": [
        Case({}, {"x": np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.0])}, label="an even count"),
        Case({}, {"x": normal(7)}),
    ],
    "split": [
        Case({"split_size_or_sections": [2, 4], "dim": 1}, X),
        Case({"split_size_or_sections": 2, "dim": 1}, X, shows="an integer"),
    ],
    "max": [
        Case({"dim": 1}, X, compare=("output 0", "gradient*")),
        Case({"dim": 1}, TIES, shows="gradient of ties", compare=("gradient*",)),
    ],
    "std": [
        *cases(X, {}, {"dim": 1}, {"dim": 1, "unbiased": False}),
        Case({}, {"x": np.ones((3, 4))}, label="of a constant", shows="gradient of a constant", compare=("gradient*",)),
    ],
    "var": cases(X, {}, {"dim": 1}, {"dim": 1, "unbiased": False}),
    "pow": cases({"x": uniform(5, 6, low=0.1, high=3.0)}, {"exponent": 3}, {"exponent": 1.7}),
    "logsumexp": cases(X, {"dim": 1}),
}
"""By the pair's name."""
