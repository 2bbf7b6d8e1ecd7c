"""One trading agent, whose whole state is in the store.

What it keeps, below the namespace ``swarm/NAME``:

================ ============ =====================================================================
namespace        key          value
================ ============ =====================================================================
(itself)         ``last``     the market it saw last, with features
(itself)         ``state``    cursor: the last step it has done; what it holds; sum of outcomes; window, horizon,
                              neighbours
(itself)         ``steps``    how many steps it has done (``incr``)
(itself)         ``situations``   step         window of normalised log returns
``outcomes``     step         log return that followed the situation of that step
``predictions``  step         prediction, the baseline without memory, what was recalled, the target
================ ============ =====================================================================

Its fills and what it holds are in the position book, under the symbol and its name as the strategy. Situations whose
outcome is known are vectors, too, and are recalled from there (``recalling.py``). Predictions of some steps are
trajectories of the bank (``judging.py``).

**Invariants**

1. All of a step but ``last`` is one transaction, with its fill and its cursor: a kill leaves it done or not begun.
2. What is written once is written with ``if_version=0``: a step done twice is refused by the store.
3. What an agent holds in memory is a cache that :meth:`Agent.restore` rebuilds from the store.
4. No look-ahead: of the own situations only those are recalled whose outcome was known before this step.
5. Everything is written under the fence of the lock of its book: of two processes that believe to be the same agent
   one is refused.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from hashlib import blake2b
from operator import index
from time import perf_counter_ns
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from .._core.positions import PositionRef
from ..coordination import Vote
from ..instants import NS
from ..records import Fence
from ..system import MemorySystem
from ..transaction import Transaction
from ..values import codec_named
from .judging import Judging, is_judged
from .polls import is_to_go_flat, poll_at
from .recalling import Recalled, Situations
from .steps import Step

T = TypeVar("T")

MARKET = "market"
STEPS = (MARKET, "steps")
"""Where the steps of a market are among the observations."""
SWARM = "swarm"
_MSGPACK = codec_named("msgpack")
_BIPS = 1e4


def step_key(number: int) -> str:
    """Return the key of a step; keys sort as their numbers."""
    return f"{number:010d}"


def digest(value: bytes) -> bytes:
    """Return what stands for a value in an acknowledgement."""
    return blake2b(value, digest_size=8).digest()


class Agent:
    """A trading agent; override :meth:`predict`, :meth:`target` or both.

    One object lives in one process and may be rebuilt in another at any moment: keep nothing in attributes that
    must survive. Use :attr:`random` for chance; it gives the same numbers when a step is done again.

    Attributes
    ----------
    window, horizon : int or None
        Returns in a situation, and steps until its outcome. None: chosen by the replay, differently per agent.
    neighbours : int
        How many situations are recalled.
    unit : Decimal
        Quantity that one unit of :meth:`target` stands for.
    exploration : float
        Share of the steps at which :meth:`target` tries a position at random.

    Examples
    --------
    >>> class Contrarian(Agent):
    ...     def target(self, prediction, step, position):
    ...         return -1 if prediction > 0 else 1
    """

    window: int | None = None
    horizon: int | None = None
    neighbours: ClassVar[int] = 8
    unit: ClassVar[Decimal] = Decimal("0.01")
    exploration: ClassVar[float] = 0.05

    memory: MemorySystem
    name: str
    symbol: str
    random: random.Random
    position: PositionRef
    """What the agent holds."""
    fence: Fence
    """Of the lock of the agent's book."""
    before_commit: Callable[[], None] | None = None
    """Called when a step is decided and nothing of it is committed."""

    # -- the strategy

    def predict(self, situation: NDArray[np.float32], recalled: Sequence[Recalled]) -> float:
        """Return the log return expected within the next `horizon` steps.

        Parameters
        ----------
        situation : ndarray of float32, shape (window,)
            The last log returns, with mean 0 and deviation 1.
        recalled : sequence of Recalled
            The most similar earlier situations, most similar first; may be empty.
        """
        weight = math.fsum(one.similarity for one in recalled)
        return math.fsum(one.similarity * one.outcome for one in recalled) / weight if weight else 0.0

    def target(self, prediction: float, step: Step, position: PositionRef) -> int:
        """Return the position to hold from now on, in units, negative for short.

        Parameters
        ----------
        prediction : float
            From :meth:`predict`; 0.0 while there is nothing to predict from.
        step : Step
            The market as it is known now.
        position : PositionRef
            What is held; its ``quantity`` is 0.0 before anything was, and then it has nothing else.
        """
        if self.random.random() < self.exploration:
            return self.random.choice((-1, 0, 1))
        cost = float(step.ask - step.bid) / (2 * step.mid)
        if abs(prediction) > cost:
            return 1 if prediction > 0 else -1
        return round(position.quantity / float(self.unit))

    # -- its state

    def begin(
        self,
        memory: MemorySystem,
        name: str,
        symbol: str,
        *,
        window: int,
        horizon: int,
        seed: int,
        fence: Fence,
    ) -> None:
        """Take up work on an open store. Called by the replay, once per process, which holds the lock of the book."""
        self.memory, self.name, self.symbol, self.fence = memory, name, symbol, fence
        self.window = self.window or window
        self.horizon = self.horizon or horizon
        if self.window < 2 or self.horizon < 1:
            raise ValueError(f"window must be at least 2 and horizon 1, were {self.window} and {self.horizon}")
        self._seed = seed
        self._own = (SWARM, name)
        self._market = memory.namespace(MARKET, symbol)
        self._news = memory.subscribe((MARKET, symbol))
        self._observations = memory.observations
        self._nanoseconds: dict[str, list[int]] = {}
        self._writes: list[tuple[str, str, int, bytes]] = []
        self.restore()

    def restore(self) -> None:
        """Read the state from the store: of a new agent there is none, of a killed one all it acknowledged."""
        assert self.window is not None
        assert self.horizon is not None
        state = self._timed("get", lambda: self.memory.namespace(*self._own).get("state"))
        self.cursor: int = -1 if state is None else state["cursor"]
        self._outcome_sum: float = 0.0 if state is None else state["outcome_sum"]
        self.position = self.memory.positions.ref(self.symbol, "", self.name)
        held = self.position.position
        self._held = Decimal(0) if held is None else held.quantity_decimal
        self._known = Situations(self.memory, self._own, self.window)
        self.judging: Judging = self._timed("pending", Judging, self.memory, self.name, self.horizon)

    # -- a step

    def step(self, number: int) -> tuple[list[tuple[str, str, int, bytes]], dict[str, list[int]]]:
        """Do one step and commit it; return the writes and the durations for the acknowledgement."""
        if number != self.cursor + 1:
            raise RuntimeError(f"{self.name} has done step {self.cursor}, was told to do step {number}")
        self._nanoseconds, self._writes = {}, []
        self.random = random.Random(f"{self._seed}/{self.name}/{number}")
        now = self._market_at(number)
        self._mids, self._pace = self._mids_until(number)
        self._write_last(now)
        self._vote(now)
        transaction = self.memory.transaction(fence=self.fence)
        begun = 0
        with transaction:
            self._collect(transaction, now)
            if self.before_commit is not None:
                self.before_commit()
            begun = perf_counter_ns()
        self._nanoseconds.setdefault("transaction", []).append(perf_counter_ns() - begun)
        committed = transaction.version or 0
        self._writes = [(below, key, version or committed, value) for below, key, version, value in self._writes]
        self.cursor = number
        return self._writes, self._nanoseconds

    def _vote(self, now: Step) -> None:
        """Vote for going flat if the position loses. Done again after a kill it is the same vote, which counts once."""
        name = poll_at(now.number)
        if name is not None:
            quantity = self.position.quantity
            loses = quantity * (now.mid - self.position.average_price) < 0 if quantity else False
            self._timed("vote", self.memory.consensus.vote, Vote(name, self.name, loses))

    def _market_at(self, number: int) -> Step:
        """Return the market of a step: from the bus, or, of what was published before this process came, the store."""
        seen = None
        for message in self._timed("recv", self._news.recv_many, timeout=0):
            said = _MSGPACK.decode(message.payload)
            if said["number"] == number:
                seen = said
        if seen is None:
            seen = self._timed("get", self._market.get, step_key(number))
        if seen is None:
            raise RuntimeError(f"step {number} is not in {'/'.join(self._market.labels)}")
        return Step(**{name: seen[name] for name in Step._fields})

    def _mids_until(self, number: int) -> tuple[list[float], float]:
        """Return the mids of as many steps as a window and a horizon need, up to this one, from the observations.

        And the mean of the seconds between them.
        """
        assert self.window is not None
        assert self.horizon is not None
        span = max(self.window, self.horizon) + 1
        seen = self._timed("recent", self._observations.recent, STEPS, self.symbol, span, fields=("number", "mid"))
        if not len(seen) or seen["number"][-1] != number:
            raise RuntimeError(f"step {number} is not the last among the observations of {self.symbol}")
        mids: list[float] = seen["mid"].tolist()
        return mids, float(seen["ts_event"][-1] - seen["ts_event"][0]) / NS / max(1, len(seen) - 1)

    def _write_last(self, now: Step) -> None:
        features = {
            "step": now.number,
            "bid": now.bid,
            "ask": now.ask,
            "last": now.last,
            "spread_bips": float(now.ask - now.bid) / now.mid * _BIPS,
            "return_bips": math.log(self._mids[-1] / self._mids[-2]) * _BIPS if len(self._mids) > 1 else 0.0,
        }
        value = _MSGPACK.encode(features)
        version = self._timed(
            "put",
            lambda: self.memory.put(
                self._own, "last", value, ts_event=now.ts_event, ts_known=now.ts_known, fence=self.fence
            ),
        )
        self._writes.append(("", "last", version, digest(value)))

    def _collect(self, transaction: Transaction, now: Step) -> None:
        assert self.window is not None
        assert self.horizon is not None
        known = max(0, now.number - self.horizon - self.window)  # outcomes before this step
        baseline = self._outcome_sum / known if known else 0.0
        prediction, recalled = 0.0, []
        situation = self._situation()
        if situation is not None:
            recalled = self._timed(
                "search", self._known.recall, situation, self.neighbours, step=now.number, as_of=now.ts_known
            )
            prediction = float(self.predict(situation, recalled))
            if not math.isfinite(prediction):
                raise ValueError(f"predict() must return a finite number, returned {prediction}")
            self._put(transaction, "situations", step_key(now.number), situation, once=True)
        self._resolve(transaction, now)
        target = index(self.target(prediction, now, self.position))
        if self._timed("result", is_to_go_flat, self.memory, now.number):
            target = 0
        if situation is not None:
            values = {
                "prediction": prediction,
                "baseline": baseline,
                "recalled": [one.step for one in recalled],
                "target": target,
            }
            self._put(transaction, "predictions", step_key(now.number), values, once=True)
            if recalled and is_judged(now.number):
                self.judging.expect(now, situation, values, self._pace, self._timed)
        wanted = target * self.unit
        self._trade(transaction, now, wanted - self._held)
        self._held = wanted
        state = {
            "cursor": now.number,
            "held": str(wanted),
            "outcome_sum": self._outcome_sum,
            "window": self.window,
            "horizon": self.horizon,
            "neighbours": self.neighbours,
        }
        self._put(transaction, "", "state", state)
        transaction.incr(self._own, "steps")

    def _situation(self) -> NDArray[np.float32] | None:
        assert self.window is not None
        if len(self._mids) <= self.window:
            return None
        returns = np.diff(np.log(np.array(self._mids)[-self.window - 1 :]))
        deviation = returns.std()
        if deviation < 1e-15:
            return np.zeros(self.window, np.float32)
        normalised: NDArray[np.float32] = ((returns - returns.mean()) / deviation).astype(np.float32)
        return normalised

    def _resolve(self, transaction: Transaction, now: Step) -> None:
        """Write down what followed the situation of `horizon` steps ago, and remember that situation."""
        assert self.window is not None
        assert self.horizon is not None
        self.judging.resolve(now, self._timed)
        step = now.number - self.horizon
        if step < self.window:
            return
        outcome = math.log(self._mids[-1] / self._mids[-1 - self.horizon])
        self._outcome_sum += outcome
        self._put(transaction, "outcomes", step_key(step), {"outcome": outcome, "resolved": now.number}, once=True)
        situation = self._timed("get", self.memory.namespace(*self._own, "situations").get, step_key(step))
        self._timed("add", self._known.add, step, situation, outcome, resolved=now.number, ts_known=now.ts_known)

    def _trade(self, transaction: Transaction, now: Step, quantity: Decimal) -> None:
        if quantity:
            transaction.apply_fill(
                self.symbol,
                quantity,
                now.ask if quantity > 0 else now.bid,
                trade_id=step_key(now.number),
                ts_event=now.ts_event,
                strategy=self.name,
            )

    # -- writing

    def _put(self, transaction: Transaction, below: str, key: str, value: Any, *, once: bool = False) -> None:
        data = _MSGPACK.encode(value)
        transaction.put((*self._own, below) if below else self._own, key, data, if_version=0 if once else None)
        self._writes.append((below, key, 0, digest(data)))

    def _timed(self, operation: str, call: Callable[..., T], *arguments: Any, **more: Any) -> T:
        begun = perf_counter_ns()
        result = call(*arguments, **more)
        self._nanoseconds.setdefault(operation, []).append(perf_counter_ns() - begun)
        return result

    def take_durations(self) -> Mapping[str, list[int]]:
        """Return the durations since the last step, by operation."""
        taken, self._nanoseconds = self._nanoseconds, {}
        return taken
