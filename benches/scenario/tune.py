"""Settings of the baselines: ratios of regret over a grid, on some of the seeds for training.

``python benches/scenario/tune.py [k-NN LinUCB LinTS clusters]``. The best by the mean over the levels is the default.
"""

import itertools
import sys

import numpy as np
from market import LEVELS
from yardstick import TRAINING, ratio, run

SEEDS = TRAINING[:3]
LINEAR = {"alpha": (0.03, 0.1, 0.3), "window": (1500, None)}
GRIDS = {
    "k-NN": {"k": (15, 30, 60, 120), "width": (0.125, 0.25, 0.5, 1.0), "window": (1000, 1500, 2500)},
    "LinUCB": LINEAR,
    "LinTS": LINEAR,
    "clusters": {"clusters": (8, 12, 20), "width": (0.25, 0.5), "keeps": (0.98, 0.99)},
}


def main() -> None:
    for name in sys.argv[1:] or GRIDS:
        grid = GRIDS[name]
        print(f"\n| {name}: {', '.join(grid)} | {' | '.join(LEVELS)} | mean |\n|---|---|---|---|---|")
        for values in itertools.product(*grid.values()):
            settings = dict(zip(grid, values, strict=True))
            ratios = [ratio(run(name, level, SEEDS, **settings)).value for level in LEVELS]
            cells = [", ".join(map(str, values)), *(f"{value:.3f}" for value in [*ratios, np.mean(ratios)])]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
