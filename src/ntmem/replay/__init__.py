"""The replay: market data through a team of agents whose whole memory is one store. ``ntmem replay`` runs it.

A feeder drives the store's clock and writes what is known of the market by then; N agents, each a process of its
own, recall similar situations, predict, decide, and commit every step, under the lock of their book. In the middle one
is killed with ``kill -9`` and started again. Later another one is stopped while it holds its lock, replaced, and
continued: its write is refused. At the end everything is read back from the store and checked. Then scenes are played:
do decisions get better by what a bank has learnt, and does anything that was not known yet change them?

===================== ================================================================
:mod:`~.market`       a CSV file to rows (:mod:`~.columns`, :mod:`~.times`)
:mod:`~.steps`        rows to decision steps; :mod:`~.tape`: all rows as numbers
:mod:`~.observing`    rows and steps as observations of the store
:mod:`~.agent`        the strategy and its state; subclass :class:`Agent`
:mod:`~.desk`         the lock of an agent's book, its registration
:mod:`~.worker`       the process around an agent (:mod:`~.loading`, :mod:`~.wire`)
:mod:`~.swarm`        all processes, seen from the supervisor
:mod:`~.run`          the supervisor: clock, feeding, kill, restart
:mod:`~.killing`      what was acknowledged, and is it there
:mod:`~.recalling`    what an agent recalls, and was it the nearest
:mod:`~.judging`      what was expected, as trajectories that are judged
:mod:`~.zombie`       an agent that is stopped, replaced, and continued
:mod:`~.book`         fills to a position, and the same again in another way
:mod:`~.accounts`     from the store to the report (:mod:`~.intervals`)
:mod:`~.scenes`       situations, and what each action would have earned
:mod:`~.deciding`     scenes played with memory and without
:mod:`~.poison`       trajectories from a future that nobody may know of
:mod:`~.report`       the figures; :mod:`~.cards`: on the screen
===================== ================================================================
"""

from __future__ import annotations

from .agent import Agent
from .market import MarketError
from .recalling import Recalled
from .report import Report
from .run import ReplayOptions, run
from .steps import Step

__all__ = ["Agent", "MarketError", "Recalled", "ReplayOptions", "Report", "Step", "run"]
