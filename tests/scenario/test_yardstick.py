"""The market that agents with and without memory are measured on is what it was, and is fair."""

import functools
import hashlib
import math

import bounds
import market as markets
import numpy as np
import pytest
import yardstick
from agents import NearestNeighbours, NoMemory
from market import ACTIONS, DIMENSIONS, KINDS, LEVELS, make, shuffle

FROZEN = {
    (0, "calm"): ("0f0f9c3908ab1a8c3df49914895f52f5", "26411a34e2e5b05a5390af5d97ac095b"),
    (1, "usual"): ("3c6231442dc494d52cad4cb6cfca1a1d", "c3381148cf2ceaaf9bcccc0c99858f68"),
    (2, "rough"): ("f1e33d36f834efbe0a024311a8f30650", "25baae9a3a94ec96d75ce670e3fb9592"),
}
"""Digests of the market by seed and level. They change with a reason in the changelog only: what was measured before
cannot be compared any more."""

BEST = {"rising": "buy", "falling": "sell", "quiet": "quote", "toxic": "hold"}
"""What pays in a market that moves."""


def digest(market):
    """Return the digest of all that happens, to six digits: the last ones differ by machine."""
    parts = [np.round(part, 6) + 0.0 for part in (market.situations, market.expected, market.rewards)]
    parts += [market.regimes, market.kinds, market.ts, market.ts_known]
    kinds = {"f": "<f8", "i": "<i8"}
    data = b"".join(np.ascontiguousarray(part, kinds[part.dtype.kind]).tobytes() for part in parts)
    return hashlib.sha256(data).hexdigest()[:32]


@functools.cache
def usual(seed):
    """Return a market that several tests look at."""
    return make(seed, "usual")


class Watcher(NoMemory):
    """A random agent that keeps what it is given."""

    def __init__(self, actions, dimensions, seed):
        super().__init__(actions, dimensions, seed)
        self.given, self.seen, self.outcomes = (actions, dimensions, seed), [], []

    def decide(self, situation, now):
        self.seen.append((situation, now, len(self.outcomes)))
        return super().decide(situation, now)

    def learn(self, decision, reward, now):
        self.outcomes.append((decision, reward, now))


@pytest.fixture(scope="module")
def watched():
    """A random agent, after a market."""
    market = usual(3)
    agent = Watcher(ACTIONS, DIMENSIONS, 7)
    taken, rewards = yardstick.play(agent, market)
    return market, agent, taken, rewards


@pytest.mark.parametrize(("seed", "level"), FROZEN)
def test_the_market_is_what_it_was(seed, level):
    market = make(seed, level)
    assert (digest(market), digest(shuffle(market))) == FROZEN[seed, level]


def test_a_seed_says_everything():
    assert digest(make(5, "rough")) == digest(make(5, "rough"))
    assert digest(make(5, "rough")) != digest(make(6, "rough"))
    one, other = make(5, "calm"), make(5, "rough")
    assert (one.regimes == other.regimes).all()
    assert (one.kinds == other.kinds).all()


def test_seeds_for_judging_are_others():
    assert len(set(yardstick.judging(100))) == 100
    assert not set(yardstick.judging(100)) & set(yardstick.TRAINING)
    assert yardstick.judging(5) == yardstick.judging(20)[:5]


@pytest.mark.parametrize("level", LEVELS)
def test_the_best_action_is_known(level):
    market = make(1, level)
    kinds = market.kinds[(np.arange(len(market.ts)) >= market.change).astype(int), market.regimes]
    moving = markets.magnitudes(market.situations) > 0.25
    best = market.expected.argmax(axis=1)
    for number, kind in enumerate(KINDS):
        assert set(best[moving & (kinds == number)]) == {ACTIONS.index(BEST[kind])}
    assert (market.regrets.min(axis=1) == 0).all()
    assert market.regrets[np.arange(len(best)), best].sum() == 0


def test_rewards_are_the_expected_ones_with_noise():
    noise = {level: make(2, level).rewards - make(2, level).expected for level in LEVELS}
    for level, given in LEVELS.items():
        assert np.abs(noise[level].mean(axis=0)).max() < 4 * given.noise / math.sqrt(5000)
        assert noise[level].std(axis=0) == pytest.approx(np.array([1, 0, 1, 1]) * given.noise, rel=0.1)


def test_half_of_the_regimes_change():
    for seed in range(50):
        before, after = make(seed, "calm", decisions=2).kinds
        assert sorted(before) == sorted(after) == sorted([*range(4)] * 2)
        assert sorted(before[before != after]) == [*range(4)]


def test_regimes_last_and_come_back():
    paths = [usual(seed).regimes for seed in range(20)]
    assert np.mean([np.count_nonzero(np.diff(path)) for path in paths]) == pytest.approx(5000 / markets.LASTS, rel=0.05)
    assert all(len(set(path[:1250])) == 8 for path in paths)


def test_no_memory_regrets_what_it_must():
    """All kinds are as frequent; the activity is a normal deviate, integrated in small steps."""
    steps = np.linspace(-8, 8, 4001)
    weights = np.exp(-(steps**2) / 2) / np.exp(-(steps**2) / 2).sum()
    situations = np.zeros((len(steps), DIMENSIONS))
    situations[:, markets.ACTIVITY] = steps
    earned = [markets.expected_rewards(np.full(len(steps), kind), situations) for kind in range(len(KINDS))]
    analytic = np.mean([weights @ (rows.max(axis=1) - rows.mean(axis=1)) for rows in earned])
    assert analytic == pytest.approx(0.776, abs=0.001)  # docs/design/yardstick.md
    run = yardstick.run("no memory", "usual", range(5))
    assert run.random.mean() == pytest.approx(analytic, rel=0.04)
    assert yardstick.ratio(run).value == pytest.approx(1, abs=0.02)


def test_a_memory_is_better_than_none():
    run = yardstick.run("k-NN", "calm", [0])
    assert yardstick.ratio(run).value < 0.5
    assert yardstick.reached(run) < 0.3


def test_who_knows_the_rules_regrets_next_to_nothing():
    assert yardstick.ratio(yardstick.run("rules", "usual", [0])).value < 0.02


def test_outcomes_come_when_they_are_known(watched):
    market, agent, taken, rewards = watched
    assert all(decision.ts_known <= now for decision, _, now in agent.outcomes)
    known = [decision.ts_known for decision, _, _ in agent.outcomes]
    assert known == sorted(known)
    for (_, now, had), decision in zip(agent.seen, taken, strict=True):
        assert had == np.count_nonzero(market.ts_known <= now)
        assert decision.ts_known - decision.ts >= 5 * markets.MINUTE
    for decision, reward, _ in agent.outcomes:
        assert reward == rewards[decision.number] == market.rewards[decision.number, decision.action]


def test_agents_are_given_nothing_else(watched):
    market, agent, taken, _ = watched
    assert agent.given == (ACTIONS, DIMENSIONS, 7)
    for (situation, _, _), row in zip(agent.seen, market.situations, strict=True):
        assert situation.base is None
        assert not situation.flags.writeable
        assert not np.shares_memory(situation, row)
    assert all(type(reward) is float for _, reward, _ in agent.outcomes)
    assert all(decision is taken[decision.number] for decision, _, _ in agent.outcomes)
    made = yardstick.agent_of(NoMemory, market)
    assert market not in vars(made).values()
    rivals = map(yardstick.agent_class, ("no memory", "hold", *yardstick.BASELINES, "clusters"))
    assert not any(issubclass(rival, bounds.Told) for rival in rivals)


def test_the_twin_tells_nothing():
    """Who sees all rewards of half of the decisions, and the regimes, gains nothing by them in the other half."""
    gains = np.array([gain(shuffle(usual(seed))) for seed in range(20)])
    reach = 2.09 * gains.std(ddof=1) / math.sqrt(len(gains))  # Student's t, 19 degrees of freedom
    assert gains.mean() - reach < 0 < 0.03 - gains.mean()
    assert min(gain(usual(seed)) for seed in range(20)) > 0.4


def gain(market):
    """Return what the best actions of each regime, as even decisions tell, earn at odd ones; halves are kept apart."""
    cells = market.regimes + 8 * (np.arange(len(market.ts)) >= market.change)
    even = np.arange(len(market.ts)) % 2 == 0
    earned = [
        market.rewards[~even & (cells == cell), market.rewards[even & (cells == cell)].mean(axis=0).argmax()]
        for cell in np.unique(cells[even])
    ]
    return np.concatenate(earned).mean()


def test_the_twin_keeps_the_rest():
    market = usual(4)
    twin = shuffle(market)
    assert (twin.situations == market.situations).all()
    assert (twin.ts_known == market.ts_known).all()
    assert not twin.regrets.any()
    centred = market.rewards - market.rewards.mean(axis=0)
    assert np.sort(twin.rewards, axis=0) == pytest.approx(np.sort(centred, axis=0), abs=1e-12)


def test_what_is_found_in_the_twin_is_counted():
    def eager(history):
        return ["quote"] if history.rewards[history.actions == 3].mean() < -0.1 else []

    assert yardstick.discoveries(eager, seeds=range(2)).counts == (0, 0)
    found = yardstick.discoveries(eager, seeds=range(2), twin=False)
    assert found.counts == (1, 1)
    assert found.rate.value == found.rate.high == 1
    none = yardstick.Discoveries((0,) * 100).rate
    assert none.value == none.low == 0
    assert 0.03 < none.high < 0.04


def played(regrets):
    """Return a run whose regret to no memory, in each seed, is this."""
    regrets = np.array(regrets, float)
    return yardstick.Run("made", "usual", regrets, np.ones_like(regrets), 0.0)


def test_recovery_is_when_the_lead_is_back(monkeypatch):
    monkeypatch.setattr(yardstick, "RESAMPLES", 20)
    numbers = np.arange(5000)
    level = np.where(numbers < 2500, 0.2, np.where(numbers < 2800, 0.9, 0.2))
    found = yardstick.recovery(played([level] * 4))
    # 0.2 + 0.2 * 0.8 = 0.36 is more than the mean of a hundred decisions of which 22 are at 0.9
    assert found == (378, 378, 378)
    assert yardstick.recovery(played([np.where(numbers < 2500, 0.2, 0.9)] * 4)) == (math.inf,) * 3
    dip = np.where((numbers >= 3000) & (numbers < 3100), 0.2, np.where(numbers < 2500, 0.2, 0.9))
    assert yardstick.recovery(played([dip] * 4)).value == math.inf


def test_ratios_and_their_intervals():
    one, other = played([[0.5] * 100, [0.3] * 100]), played([[0.6] * 100, [0.4] * 100])
    assert yardstick.ratio(one) == pytest.approx((0.4, 0.3, 0.5))
    assert yardstick.lead(one, other) == pytest.approx((-0.1, -0.1, -0.1))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["LinUCB", "LinTS"])
@pytest.mark.parametrize("window", [None, 100])
def test_linear_models_learn(name, window):
    """A market that a line describes: what the first feature says."""
    pytest.importorskip("mabwiser")
    agent = yardstick.agent_class(name)(("up", "down"), 2, 1, window=window)
    chance = np.random.default_rng(1)
    wins = 0
    for number in range(300):
        situation = chance.normal(size=2)
        action = agent.decide(situation, number)
        reward = situation[0] * (1 - 2 * action)
        agent.learn(yardstick.Decision(number, number, number, situation, action), reward, number)
        wins += number >= 100 and reward > 0
    assert wins > 180


def test_the_nearest_forget():
    agent = NearestNeighbours(("a", "b"), 1, 0, k=5, window=20)
    place = np.zeros(1)
    for number in range(40):
        reward = 1.0 if number < 20 else -1.0
        agent.learn(yardstick.Decision(number, number, number, place, 0), reward, number)
    assert agent.decide(place, 40) == 1
