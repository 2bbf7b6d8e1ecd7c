"""A market with hidden regimes whose expected rewards are known: what agents with and without memory are measured on.

At decision i an agent sees a **situation** x_i of 16 features and takes one of four actions. Formulas:

- The regime z_i is one of eight, the corners f of a cube {-1, +1}^3. It stays with probability 1 - 1/20, otherwise any
  of the others follows: regimes last 20 decisions in the mean, and come back.
- Features 0 to 7 are s L f_z + e_i. L is 8 x 3 with orthonormal columns, drawn by the seed; s, the separation, is the
  level's. e_i is noise of variance 1: e_i = 0.5 e_{i-1} + sqrt(0.75) n_i, as windows of prices overlap.
- Feature 8, the activity, and 11 to 15, which tell nothing, are noise of the same kind; 9 and 10 are the time of day,
  which tells nothing either.
- A regime is of one of four kinds, two regimes of each, dealt by the seed. With the magnitude m = 2 / (1 + exp(-x_8))
  the expected reward of an action is what its kind earns (`EARNS`) times m, less the action's cost (`COSTS`):

  ======= ===== ===== ===== ======
  kind    sell  hold  buy   quote
  ======= ===== ===== ===== ======
  rising  -m    0     +m    -m / 2
  falling +m    0     -m    -m / 2
  quiet   0     0     0     +0.8 m
  toxic   0     0     0     -m
  cost    0.25  0     0.25  0.1
  ======= ===== ===== ===== ======

- A reward is the expected one plus noise: a price move b_i for buy, -b_i for sell, another for quote, none for hold.
  Moves have a Laplace distribution, whose tails are heavy, with the level's standard deviation.
- From decision `change` on four regimes, one of each kind, have exchanged their kinds in a ring. What was learnt of
  them is wrong, what was learnt of the others is right, and nothing that can be seen says so.
- Decisions are a minute apart; an outcome is known 5 to 15 minutes after its decision, each in its own time.

The regret of an action is the best expected reward less its own, never computed from noise. Who knows the regime has
none. Rewards and regrets are in units of what a rising market moves at m = 1.

Only raw bits of PCG64 are drawn, since NumPy keeps those for ever, and the methods of `Generator` not (NEP 19). Numbers
are the same on every machine to 1e-9.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

ACTIONS = ("sell", "hold", "buy", "quote")
KINDS = ("rising", "falling", "quiet", "toxic")
EARNS = np.array([[-1, 0, 1, -0.5], [1, 0, -1, -0.5], [0, 0, 0, 0.8], [0, 0, 0, -1]])
"""What an action earns at magnitude 1 before its cost, by kind."""
COSTS = np.array([0.25, 0.0, 0.25, 0.1])
FEATURES = (
    *("momentum", "trend", "reversion", "volatility", "spread", "imbalance", "depth", "volume"),
    *("activity", "time_sine", "time_cosine"),
    *(f"other_{number}" for number in range(5)),
)
DIMENSIONS = len(FEATURES)
DRIVEN, ACTIVITY, TIME = 8, 8, slice(9, 11)
FACTORS, REGIMES = 3, 8
CORNERS = np.array([[1 - 2 * (regime >> bit & 1) for bit in range(FACTORS)] for regime in range(REGIMES)], float)
LASTS = 20
"""Decisions that a regime lasts in the mean."""
MEMORY = 0.5
"""Correlation of a feature's noise with the one before."""
DECISIONS, CHANGE = 5000, 2500
MINUTE = 60 * 10**9
START = 1_700_000_000 * 10**9
SOONEST, LATEST = 5, 15
"""Minutes after which an outcome is known."""
SESSION = 390
"""Minutes of a day of trading."""


class Level(NamedTuple):
    separation: float  # half the distance of two regimes that differ in one factor, in deviations of the noise
    noise: float  # standard deviation of a price move, in units of reward


LEVELS = {"calm": Level(3.5, 0.5), "usual": Level(2.5, 0.8), "rough": Level(2.0, 1.0)}


class Market(NamedTuple):
    """What happens, for `n` decisions; the agents see single rows of `situations`, and single `rewards`, later."""

    seed: int
    level: Level
    change: int
    ts: Array  # int64 (n,), ns UTC
    ts_known: Array  # int64 (n,), ns UTC: when the outcome is known
    situations: Array  # float64 (n, 16)
    rewards: Array  # float64 (n, 4), of all actions, of which an agent sees one
    expected: Array  # float64 (n, 4)
    regimes: Array  # int64 (n,), hidden
    kinds: Array  # int64 (2, 8): kind of each regime before and from the change, hidden
    centres: Array  # float64 (8, 8): features 0 to 7 of each regime without noise, hidden

    @property
    def regrets(self) -> Array:
        """Return the regret of every action, float64 (n, 4)."""
        return self.expected.max(axis=1, keepdims=True) - self.expected


class Chance:
    """Random numbers that are the same with every version of NumPy."""

    def __init__(self, *seeds: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(seeds))

    def uniform(self, *shape: int) -> Array:
        """Return numbers between 0 and 1, neither of them included."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        return ((raw >> np.uint64(12)).astype(float) + 0.5).reshape(shape) / 2**52

    def normal(self, *shape: int) -> Array:
        """Return normal deviates, by Box and Muller (1958)."""
        radius, angle = self.uniform(2, *shape)
        return np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)

    def laplace(self, *shape: int) -> Array:
        """Return deviates of a Laplace distribution of variance 1."""
        centred = self.uniform(*shape) - 0.5
        return -np.sign(centred) * np.log(1 - 2 * np.abs(centred)) / np.sqrt(2)

    def order(self, count: int) -> Array:
        """Return the numbers below `count` in random order."""
        return np.argsort(self.uniform(count), kind="stable")


def make(seed: int, level: str, decisions: int = DECISIONS, change: int = CHANGE) -> Market:
    """Return the market of a seed at a level of noise.

    The same seed has the same regimes at the same times at all levels.
    """
    chance = Chance(seed)
    given = LEVELS[level]
    kinds = deal_kinds(chance)
    centres = given.separation * CORNERS @ loadings(chance).T
    regimes = path_of_regimes(chance, decisions)
    situations = noise_of_features(chance, decisions)
    situations[:, :DRIVEN] += centres[regimes]
    situations[:, TIME] = times_of_day(decisions)
    later = (np.arange(decisions) >= change).astype(int)
    expected = expected_rewards(kinds[later, regimes], situations)
    rewards = expected + given.noise * noise_of_rewards(chance, decisions)
    ts = START + MINUTE * np.arange(decisions)
    known = ts + MINUTE * (SOONEST + (chance.uniform(decisions) * (LATEST - SOONEST + 1)).astype(np.int64))
    return Market(seed, given, change, ts, known, situations, rewards, expected, regimes, kinds, centres)


def shuffle(market: Market) -> Market:
    """Return the twin of a market in which no situation tells anything.

    Situations and times are the same. The rewards of each action are put in random order over all decisions, each
    action by itself, and their mean is taken away. So the distribution of an action's rewards is what it was but for
    its mean; over the orders every reward has the expectation 0, whatever the situation, the decision's number and the
    action; and every regret is 0. An action's rewards add up to 0, so two of them are correlated by -1 / (n - 1): that
    is all they tell of each other. Clusters of situations are as plain as before. They mean nothing.
    """
    chance = Chance(market.seed, 1)
    count, actions = market.rewards.shape
    centred = market.rewards - market.rewards.mean(axis=0)
    rewards = np.column_stack([centred[chance.order(count), action] for action in range(actions)])
    return market._replace(rewards=rewards, expected=np.zeros_like(rewards))


def expected_rewards(kinds: Array, situations: Array) -> Array:
    """Return what actions earn in the mean, float64 (n, 4), given the kinds (n,) of the hidden regimes."""
    return EARNS[kinds] * magnitudes(situations)[:, np.newaxis] - COSTS


def magnitudes(situations: Array) -> Array:
    """Return by how much prices move, between 0 and 2, of situations (..., 16)."""
    return 2 / (1 + np.exp(-situations[..., ACTIVITY]))


def deal_kinds(chance: Chance) -> Array:
    """Return the kinds of the regimes before and after the change, int64 (2, 8).

    One regime of each kind keeps it. The others exchange theirs in a ring, so that none of them keeps its own.
    """
    dealt = chance.order(REGIMES).reshape(2, len(KINDS))
    ring = chance.order(len(KINDS))
    kinds = np.empty((2, REGIMES), np.int64)
    kinds[:, dealt] = np.arange(len(KINDS))
    kinds[1, dealt[1, ring]] = np.roll(ring, 1)
    return kinds


def loadings(chance: Chance) -> Array:
    """Return orthonormal columns, float64 (8, 3), by Gram and Schmidt: a library's signs may differ by machine."""
    columns: list[Array] = []
    for drawn in chance.normal(FACTORS, DRIVEN):
        rest = drawn.copy()
        for column in columns:
            rest -= (rest * column).sum() * column
        columns.append(rest / np.sqrt((rest * rest).sum()))
    return np.stack(columns, axis=1)


def path_of_regimes(chance: Chance, decisions: int) -> Array:
    leaves = chance.uniform(decisions) < 1 / LASTS
    steps = np.where(leaves, 1 + (chance.uniform(decisions) * (REGIMES - 1)).astype(np.int64), 0)
    steps[0] = int(chance.uniform(1)[0] * REGIMES)
    return np.cumsum(steps) % REGIMES


def noise_of_features(chance: Chance, decisions: int) -> Array:
    """Return noise of variance 1 that remembers, float64 (n, 16)."""
    values = chance.normal(decisions, DIMENSIONS)
    fresh = np.sqrt(1 - MEMORY**2)
    for number in range(1, decisions):
        values[number] = MEMORY * values[number - 1] + fresh * values[number]
    return values


def noise_of_rewards(chance: Chance, decisions: int) -> Array:
    """Return noise of variance 1, float64 (n, 4): sell loses what buy gains, hold has none."""
    move, other = chance.laplace(2, decisions)
    return np.stack([-move, np.zeros(decisions), move, other], axis=1)


def times_of_day(decisions: int) -> Array:
    angle = 2 * np.pi * np.arange(decisions) / SESSION
    return np.sqrt(2) * np.stack([np.sin(angle), np.cos(angle)], axis=1)
