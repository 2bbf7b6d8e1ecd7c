"""Scenes: situations in which something is to be decided, and what each action would have earned.

A scene is walked through from its first decision to its last. What can be done is to be long, flat or short until the
outcome is known. Rewards are those of all actions: who decides is told only that of the action taken, and only when
its horizon has passed.

**Simulator.** A market with hidden regimes that come back:

- The regime z_i is one of `REGIMES`. It stays with probability 1 - 1/`LASTS`; else it is followed by any other one.
- The situation is x_i = c_z + `BLUR` e_i of `DIMENSIONS` numbers: c_z has length 1, centres are orthogonal and drawn
  by the seed, e_i is standard normal.
- Long earns g_z + `NOISE` n_i - `COST`, short -g_z - `NOISE` n_i - `COST`, flat 0; n_i is standard normal. The drift
  g_z is +1 in a third of the regimes, -1 in another and 0 in the rest.
- From the middle on one regime of each kind has the drift of the next kind: what was learnt of these three is wrong,
  what was learnt of the others is right, and nothing in the situations says so.

**Market.** A situation is made of the past of a price p, with `window` steps of it:

- p's log return over 1, 2, 5, 10 and 20 steps in units of what such returns vary by: v sqrt(k), where v is the
  deviation of the window's returns of one step;
- log(v_20 / v), where v_20 is that of the last 20; log(p_i / mean of p) / (v sqrt(window)); log(p_i / highest p) / (v
  sqrt(window));
- the logarithm of the volume, the spread over the price and the imbalance of the sizes at bid and ask, less their
  means in the window, in deviations (0 where nothing varies); and 1, so that a situation in which nothing moves has a
  direction, too.

All but the last are cut off at `_LARGEST`. Long earns p_{i+h} / p_i - 1 less the cost, short the negative of it less
the cost, in basis points; h is the horizon.

**Invariants**

1. A situation is made of what was known at its `ts`, and nothing of it changes if the data behind it do.
2. `ts` rises; an outcome is known when its horizon has passed, and in the order of the decisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..instants import NS
from .intervals import BIPS
from .market import MarketFile
from .steps import Step, Steps, shipped

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACTIONS = ("long", "flat", "short")
FLAT = ACTIONS.index("flat")
_SIDES = np.array([1.0, 0.0, -1.0])

REGIMES, LASTS, DIMENSIONS = 6, 15, 8
BLUR, NOISE, COST = 0.25, 1.5, 0.2
SIMULATED = 1_600
"""Decisions of the simulator."""
_START, _APART, _LATER = 1_700_000_000 * NS, 60 * NS, 5

TICKS_STEP, TICKS_WINDOW, TICKS_HORIZON = NS // 2, 60, 20
DAYS_WINDOW, DAYS_COST = 250, 1.0
MOST = 2_000
"""Decisions of a market: the last so many, if there are more."""
FEWEST = 50
"""Decisions of a scene."""
_SPANS = (1, 2, 5, 10, 20)
_LARGEST = 3.0
_DAY = 86_400.0


class Scene(NamedTuple):
    """What happens at `n` decisions.

    Attributes
    ----------
    name : str
    unit : str
        Of rewards: "bp", or "" for the simulator's own.
    ts, ts_known : ndarray of int64, shape (n,)
        When it is decided, and when the outcome is known, ns UTC.
    situations : ndarray of float32, shape (n, d)
    rewards : ndarray of float64, shape (n, 3)
        Of all actions, in the order of :data:`ACTIONS`.
    overlap : int
        Decisions over which outcomes overlap.
    expected : ndarray of float64, shape (n, 3), or None
        What actions earn without the noise, where that is known.
    """

    name: str
    unit: str
    ts: NDArray[np.int64]
    ts_known: NDArray[np.int64]
    situations: NDArray[np.float32]
    rewards: NDArray[np.float64]
    overlap: int
    expected: NDArray[np.float64] | None = None

    def first(self, decisions: int) -> Scene:
        """Return its beginning."""
        return self._replace(
            ts=self.ts[:decisions],
            ts_known=self.ts_known[:decisions],
            situations=self.situations[:decisions],
            rewards=self.rewards[:decisions],
            expected=None if self.expected is None else self.expected[:decisions],
        )


def shipped_scenes(seed: int = 0) -> list[Scene]:
    """Return the scenes of the data that is part of the package, and the simulator's."""
    return [simulator(seed=seed), sp500(), ticks()]


# -- the simulator


def simulator(decisions: int = SIMULATED, seed: int = 0) -> Scene:
    """Return a scene of a simulated market."""
    random = np.random.default_rng([seed, 1])
    centres = np.linalg.qr(random.standard_normal((DIMENSIONS, REGIMES)))[0].T
    regimes = np.empty(decisions, np.int64)
    regime = int(random.integers(REGIMES))
    for number in range(decisions):
        regimes[number] = regime
        if random.random() < 1 / LASTS:
            regime = (regime + 1 + int(random.integers(REGIMES - 1))) % REGIMES
    kinds = np.arange(REGIMES) % 3
    changed = np.where(np.arange(REGIMES) < 3, (kinds + 1) % 3, kinds)
    is_late = np.arange(decisions) >= decisions // 2
    drifts = np.array([1.0, -1.0, 0.0])[np.where(is_late, changed[regimes], kinds[regimes])]
    moves = drifts + NOISE * random.standard_normal(decisions)
    blurred = centres[regimes] + BLUR * random.standard_normal((decisions, DIMENSIONS))
    ts = _START + _APART * np.arange(decisions, dtype=np.int64)
    costs = np.full(decisions, COST)
    return Scene(
        "simulator",
        "",
        ts,
        ts + _LATER * _APART,
        blurred.astype(np.float32),
        _earned(moves, costs),
        1,
        _earned(drifts, costs),
    )


def _earned(moves: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.float64]:
    earned: NDArray[np.float64] = moves[:, np.newaxis] * _SIDES - costs[:, np.newaxis] * np.abs(_SIDES)
    return earned


# -- markets


def sp500(path: Path | None = None) -> Scene:
    """Return a scene of daily bars: a position for a day, at a cost of `DAYS_COST` basis points.

    A bar is known at the end of its day. What is decided then earns from that day's close on, as if one could trade at
    the close that one has seen.
    """
    file = MarketFile(path or Path(__file__).parent / "data" / "sp500-daily.csv.gz", known_after=_DAY)
    found = market("sp500", list(Steps([file], 0)), window=DAYS_WINDOW, horizon=1, cost=DAYS_COST)
    assert found is not None
    return found


def ticks() -> Scene:
    """Return a scene of the ticks that ship with the package: a position for ten seconds, decided twice a second."""
    steps = list(Steps([MarketFile(path) for path in shipped()], TICKS_STEP))
    found = market("ticks", steps, window=TICKS_WINDOW, horizon=TICKS_HORIZON)
    assert found is not None
    return found


def market(
    name: str, steps: Sequence[Step], *, window: int = TICKS_WINDOW, horizon: int = TICKS_HORIZON, cost: float = 0.0
) -> Scene | None:
    """Return a scene of a market; None: it has too few steps, or prices.

    Parameters
    ----------
    window, horizon : int
        Steps that a situation is made of, more than 20, and after which the outcome is known.
    cost : float
        What it costs to be long or short, in basis points, beside half the spread.
    """
    if window <= max(_SPANS):
        raise ValueError(f"window must be more than {max(_SPANS)}, was {window}")
    if horizon < 1:
        raise ValueError(f"horizon must be 1 or more, was {horizon}")
    steps = steps[-(MOST + window + horizon) :]
    count = len(steps) - window - horizon
    prices = np.array([step.mid for step in steps])
    if count < FEWEST or not (prices[1:] != prices[:-1]).any():
        return None
    spreads = np.array([float(step.ask - step.bid) for step in steps])
    sizes = np.array([[float(step.bid_size or 0), float(step.ask_size or 0)] for step in steps])
    beside = [np.log1p([float(step.volume) for step in steps]), spreads / prices]
    beside.append((sizes[:, 0] - sizes[:, 1]) / np.maximum(sizes.sum(axis=1), 1e-12))
    seen = situations(prices, beside, window)
    ts = np.array([step.ts for step in steps], np.int64)
    now = slice(window, window + count)
    later = slice(window + horizon, None)
    moves = (prices[later] / prices[now] - 1) * BIPS
    costs = spreads[now] / prices[now] / 2 * BIPS + cost
    return Scene(name, "bp", ts[now], ts[later], seen[:count], _earned(moves, costs), horizon)


def situations(prices: NDArray[np.float64], beside: Sequence[NDArray[np.float64]], window: int) -> NDArray[np.float32]:
    """Return the situations at all prices but the first `window`; `beside` is what else is seen with each price."""
    logs = np.log(prices)
    returns = _windows(np.diff(logs), window)
    usual = _deviations(returns)
    past = _windows(logs, window + 1)
    now = logs[window:]
    reach = np.sqrt(window)
    columns = [_ratio(now - past[:, -1 - span], usual * np.sqrt(span)) for span in _SPANS]
    lately = _deviations(returns[:, -max(_SPANS) :])
    columns.append(np.log(_ratio(lately, usual, 1e-6) + 1e-6))
    columns.append(_ratio(now - past.mean(axis=1), usual * reach))
    columns.append(_ratio(now - past.max(axis=1), usual * reach))
    for values in beside:
        seen = _windows(values, window + 1)
        columns.append(_ratio(values[window:] - seen.mean(axis=1), _deviations(seen)))
    columns = [np.clip(each, -_LARGEST, _LARGEST) for each in columns]
    return np.stack([*columns, np.ones(len(now))], axis=1).astype(np.float32)


def _windows(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return, for each value that has them, it and those before it: contiguous, so that each row is added up alike."""
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(values, window))


def _deviations(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.sqrt(((rows - rows.mean(axis=1, keepdims=True)) ** 2).mean(axis=1))
    return found


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64], otherwise: float = 0.0) -> Any:
    """Return quotients, `otherwise` where nothing varies."""
    is_some = below > 1e-12
    return np.where(is_some, above / np.where(is_some, below, 1.0), otherwise)
