"""Do decisions get better by memory? Scenes are played with a bank, and beside it by chance and always in one way.

The agent begins a trajectory, shows the bank the situation, lets it choose, and says what came of it when it is known;
every so many outcomes the bank distils. That is all: what it knows is in the store. Without memory each action is as
probable as the others, and what that earns is the mean of their rewards.

**The poisoned future.** Each scene is played a second time on a store that holds, from before the first decision on,
trajectories whose outcomes are known only after the end (:mod:`~.poison`). Equal bit for bit have to be

- each decision, with the numbers it was made of and the patterns that advised it;
- at some instants all patterns, what is recalled, and verdicts: asked then, asked again as of then at the end of the
  scene, and asked once more when what was poison has become known and was learnt from.

To the first store the same is added after the end, as data that come later. It must have changed the patterns of the
end, or the check would have said nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from ..clock import SimulatedClock
from ..instants import NS
from ..reasoningbank import DistilledPattern, VerdictResult
from ..system import MemorySystem
from ..system import open as open_store
from . import poison
from .intervals import compare_rewards
from .scenes import ACTIONS, FEWEST, FLAT, Scene

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVERY = 10
"""Outcomes after which the bank distils."""
INSTANTS = 5
"""Instants as of which what is known is compared."""
_QUERIES, _RECALLED = 6, 5
_PRUNES = 90 * 86_400 * NS
"""What was replaced so long ago consolidating lets go: as of before nobody can ask."""
_THEN, _END, _LATER = "then", "at the end", "when later data had come"
_digits = msgspec.msgpack.Encoder(order="deterministic").encode

Progress = Callable[[str, int, int], None]


class Played(NamedTuple):
    """What came of playing a scene.

    Attributes
    ----------
    actions : ndarray of int64, shape (n,)
        Numbers of :data:`~ntmem.replay.scenes.ACTIONS`.
    decided : list of bytes
        Of each decision a digest of all numbers that it was made of.
    asked : dict
        By when it was asked: a digest of what was known as of each of the instants.
    poisoned : int
        Patterns that had learnt from poison at last, when its outcomes were known.
    """

    actions: NDArray[np.int64]
    decided: list[bytes]
    asked: dict[str, list[bytes]]
    poisoned: int


def account_for_deciding(
    scenes: Sequence[Scene], seed: int = 0, progress: Progress = lambda what, done, total: None
) -> tuple[dict[str, Any], list[str]]:
    """Play scenes with memory, each a second time with a poisoned future; return figures, and what is wrong.

    Parameters
    ----------
    scenes : sequence of Scene
    seed : int
        Of the choices, the poison and the bootstrap.
    progress : callable
        Called with what is going on, how many decisions were made, and how many there are.

    Examples
    --------
    >>> from ntmem.replay.scenes import simulator
    >>> figures, problems = account_for_deciding([simulator(200)])
    >>> figures["scenes"][0]["decisions"], figures["exact"], problems
    (200, True, [])
    """
    began = time.monotonic()
    total = 2 * sum(len(scene.ts) for scene in scenes)
    decisions = itertools.count(1)

    def decided() -> None:
        progress("deciding", next(decisions), total)

    found, problems = [], []
    for scene in scenes:
        played = play(scene, seed, is_poisoned=False, decided=decided)
        wrong = differences(played, play(scene, seed, is_poisoned=True, decided=decided))
        problems += [f"{scene.name}: {each}" for each in wrong]
        found.append(summary(scene, played, seed) | {"exact": not wrong})
    return {
        "scenes": found,
        "every": EVERY,
        "instants": INSTANTS,
        "poison": poison.DOSE * poison.DOSES,
        "corrected": poison.CORRECTED * (poison.DOSES - 1),
        "exact": not problems,
        "seconds": time.monotonic() - began,
    }, problems


# -- playing


def play(scene: Scene, seed: int, *, is_poisoned: bool, decided: Callable[[], None] = lambda: None) -> Played:
    """Play a scene with a store of its own.

    Parameters
    ----------
    is_poisoned : bool
        Whether the store has a poisoned future from the beginning, and gets more of it on the way.
    decided : callable
        Called after each decision.

    Raises
    ------
    ValueError
        It has fewer than 50 decisions.
    """
    count = len(scene.ts)
    if count < FEWEST:
        raise ValueError(f"a scene must have {FEWEST} decisions or more, {scene.name} has {count}")
    clock = SimulatedClock(int(scene.ts[0]))
    with open_store(clock=clock, enable_compression=False) as memory:
        player = _Player(scene, memory, clock, seed)
        doses = poison.times(count)
        instants = _instants(count)
        asked: dict[str, list[bytes]] = {_THEN: [], _END: [], _LATER: []}
        for number in range(count):
            player.learn(int(scene.ts[number]))
            if is_poisoned and number in doses:
                poison.write(memory, scene, doses.index(number), seed, player.made)
            if number in instants:
                asked[_THEN].append(player.ask(number))
            player.decide(number)
            decided()
        player.learn(int(scene.ts_known[-1]))
        asked[_END] += [player.ask(number, int(scene.ts[number])) for number in instants]
        if not is_poisoned:
            for dose in range(len(doses)):
                poison.write(memory, scene, dose, seed, player.made)
        clock.set(poison.known_at(scene))
        memory.bank.distill()
        if memory.now() - int(scene.ts[0]) < _PRUNES:
            memory.bank.consolidate()
        asked[_LATER] += [player.ask(number, int(scene.ts[number])) for number in instants]
        return Played(np.array(player.actions), player.decided, asked, player.poisoned())


class _Player:
    """Who decides, and all that he remembers beside the store: which of his trajectories wait, and their numbers."""

    def __init__(self, scene: Scene, memory: MemorySystem, clock: SimulatedClock, seed: int) -> None:
        self._scene, self._bank, self._clock = scene, memory.bank, clock
        self._chance = np.random.default_rng([seed, 3])
        self.made: list[tuple[str, str]] = []
        self._numbers: dict[str, int] = {}
        self._resolved = self._learnt = 0
        self.actions: list[int] = []
        self.decided: list[bytes] = []

    def learn(self, now: int) -> None:
        """Say what came of decisions by now; distil if that is much."""
        scene = self._scene
        self._clock.set(now)
        while self._resolved < len(self.made) and scene.ts_known[self._resolved] <= now:
            number = self._resolved
            reward = float(scene.rewards[number, self.actions[number]])
            name, action_id = self.made[number]
            self._bank.resolve(name, reward, action_id=action_id, ts_known=int(scene.ts_known[number]))
            self._resolved += 1
        if self._resolved - self._learnt >= EVERY:
            self._bank.distill()
            self._learnt = self._resolved

    def decide(self, number: int) -> None:
        """Make a decision."""
        scene = self._scene
        made = self._bank.begin(poison.AGENT, scene.name)
        made.add_observation({}, scene.situations[number])
        choice = self._bank.choose(scene.situations[number], ACTIONS, trajectory_id=made.id, seed=self._chance)
        expected = next((each.mean for each in choice.options if each.action == choice.action), None)
        self.made.append((made.id, made.add_action(choice.action, predicted_outcome=expected)))
        self._numbers[made.id] = number
        self.actions.append(ACTIONS.index(choice.action))
        self.decided.append(_digest(choice.action, choice.options, *map(self._facts, choice.patterns)))

    def ask(self, number: int, as_of: int | None = None) -> bytes:
        """Return a digest of all that is known before a decision: of all patterns, and beside some of the earlier
        decisions of what is recalled in such a situation, and of the verdict."""
        bank = self._bank
        found: list[Any] = [self._facts(each) for each in bank.patterns(min_support=0, as_of=as_of)]
        for place in np.linspace(0, number - 1, _QUERIES).astype(int).tolist():
            recalled = bank.recall(self._scene.situations[place], _RECALLED, as_of=as_of, with_quarantined=True)
            verdict = bank.judge(self.made[place][0], as_of=as_of, record=False)
            found += [[self._facts(each) for each in recalled], _said(verdict)]
        return _digest(*found)

    def poisoned(self) -> int:
        """Return how many patterns have learnt from trajectories that are not his."""
        found = self._bank.patterns(min_support=0)
        return sum(any(name not in self._numbers for name in each.trajectory_ids) for each in found)

    def _facts(self, pattern: DistilledPattern) -> dict[str, Any]:
        """Return all that a pattern says; ids of trajectories are chance, so the numbers of their decisions."""
        facts = {name: getattr(pattern, name) for name in pattern.__struct_fields__}
        names = [self._numbers.get(name, -1) for name in pattern.trajectory_ids]
        return facts | {"centroid": pattern.centroid.tobytes(), "trajectory_ids": names}


def _said(verdict: VerdictResult) -> list[Any]:
    """Return all that a verdict says, but whose it is."""
    return [getattr(verdict, name) for name in verdict.__struct_fields__ if name != "trajectory_id"]


def _instants(decisions: int) -> list[int]:
    return sorted({decisions * (number + 1) // (INSTANTS + 1) for number in range(INSTANTS)})


def _digest(*what: Any) -> bytes:
    return hashlib.blake2b(_digits(what), digest_size=16).digest()


# -- the account


def differences(played: Played, poisoned: Played) -> list[str]:
    """Return how a scene went otherwise because of data that nobody could know of."""
    problems = []
    pairs = list(zip(played.decided, poisoned.decided, strict=True))
    changed = [number for number, (one, other) in enumerate(pairs) if one != other]
    if changed:
        problems.append(
            f"a poisoned future changed {len(changed)} of {len(pairs)} decisions, the first is number {changed[0]}"
        )
    then = played.asked[_THEN]
    for which, run in (("", played), (" with a poisoned future", poisoned)):
        for when, found in run.asked.items():
            wrong = [number for number, one in enumerate(found) if one != then[number]]
            if wrong:
                problems.append(
                    f"as of {len(wrong)} of {len(then)} instants something else was known{which}, asked {when}"
                )
        if not run.poisoned:
            problems.append(f"nothing was learnt from later data{which}, so that they change nothing says nothing")
    return problems


def summary(scene: Scene, played: Played, seed: int) -> dict[str, Any]:
    """Return what was earned in a scene, a decision, in its unit."""
    rewards = scene.rewards
    earned = rewards[np.arange(len(rewards)), played.actions]
    chance = compare_rewards(earned, rewards.mean(axis=1), scene.overlap, seed)
    found: dict[str, Any] = {
        "name": scene.name,
        "unit": scene.unit,
        "decisions": len(rewards),
        "from": int(scene.ts[0]),
        "to": int(scene.ts_known[-1]),
        "chosen": {name: float((played.actions == number).mean()) for number, name in enumerate(ACTIONS)},
        "with_memory": float(earned.mean()),
        "by_chance": float(rewards.mean()),
        "always": {name: float(rewards[:, number].mean()) for number, name in enumerate(ACTIONS)},
        "against_chance": chance,
        "against_flat": compare_rewards(earned, rewards[:, FLAT], scene.overlap, seed),
        "best": None,
    }
    found["conclusion"] = _conclusion(found)
    if scene.expected is not None:
        best = scene.expected.argmax(axis=1)
        found["best"] = {
            "share": float((played.actions == best).mean()),
            "by_chance": 1 / len(ACTIONS),
            "earns": float(scene.expected.max(axis=1).mean()),
        }
    return found


def _conclusion(found: Mapping[str, Any]) -> str:
    name, gain = found["name"], found["against_chance"]
    if gain["interval"] is None:
        return f"{name}: not enough decisions to tell whether memory helps."
    low, high = gain["interval"]
    span = f"{gain['difference']:+.3f} {found['unit']}".rstrip()
    span += f" a decision, 95 % interval {low:+.3f} to {high:+.3f}"
    if low <= 0 <= high:
        return f"{name}: no effect of memory on what decisions earn is shown: {span} includes 0."
    if high < 0:
        return f"{name}: with memory decisions earn less than by chance: {span} excludes 0; what was learnt misled."
    said = f"{name}: with memory decisions earn more than by chance: {span} excludes 0"
    action, most = max(found["always"].items(), key=lambda it: it[1])
    if most < found["with_memory"]:
        return f"{said}."
    return f"{said}, but always {action} would have earned {most:+.3f}: so much for knowing which way the market went."
