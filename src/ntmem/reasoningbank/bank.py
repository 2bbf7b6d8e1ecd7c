"""The bank: trajectories, and what is made of them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from .._core import meters
from ..filters import compile_where
from ..instants import LATEST, MAX_INSTANT, AsOf, Duration, Instant, instant_ns, require_bool, require_int
from ..twins import twin
from .checks import check_text, require_number
from .events import Advised, Judged, hashed
from .memories import Memories
from .memory import ReasoningMemory, public
from .patterns import DistilledPattern, RecalledPattern, distilled
from .scrubbed import as_kept, where_kept
from .shelf import Shelf, is_pattern
from .state import State
from .tracker import PendingOutcome, TrajectoryTracker
from .trajectory import Trajectory
from .verdict import Case, Judge, Pair, VerdictResult, judge_name, require_judge, run_judge

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from ..embedding import EmbeddingProvider
    from ..scrubbing import Scrubber
    from ..tiers.engine import LmdbEngine
    from ..tiers.vectors import VectorStore
    from .consolidation import ConsolidationReport
    from .distiller import Distiller
    from .explaining import Explanation
    from .matts import MattsRun
    from .recall import Candidate, Choice, Criteria, Recallable
    from .report import BankReport
    from .taking import BankExport, BankImport, Known, OnError


_MOST_RECALLED = 1000
_NEAR = 0.3  # the lowest cosine at which a pattern speaks of a situation


class ReasoningBank:
    """What the agents of a store have tried, and how good it was. ``memory.bank``.

    Notes
    -----
    **Thread safety**: any thread, of any process that has the store open.

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     bank = memory.bank
    ...     with bank.begin("agent_1", "breakout") as t:
    ...         _ = t.add_action("buy", {"quantity": 10}, predicted_outcome=110.0, reference=100.0)
    ...     len(bank.pending())
    ...     bank.resolve(t.id, 109.5)
    ...     bank.judge(t.id).verdict
    1
    <Verdict.CORRECT: 'correct'>
    """

    def __init__(
        self,
        trajectories: TrajectoryTracker,
        engine: Callable[[], LmdbEngine],
        vectors: Callable[[], VectorStore],
        judge: Callable[[], Judge],
        embedder: Callable[[], EmbeddingProvider | None],
    ) -> None:
        self.trajectories = trajectories
        self._shelf = Shelf(engine, vectors, durable=trajectories.ledger.durable)
        self._memories = Memories(self._shelf)
        self._distiller: Distiller | None = None
        self._making = threading.Lock()
        self._embedder = embedder
        self._engine = engine
        self._default = judge

    def begin(
        self, agent_id: str, task: str = "", *, ts_event: Instant | None = None, ts_known: Instant | None = None
    ) -> Trajectory:
        """Begin a trajectory; what is added to it is kept at once, and leaving it as a context completes it."""
        return self.trajectories.begin(agent_id, task, ts_event=ts_event, ts_known=ts_known)

    def matts(
        self, agent_id: str, task: str = "", *, k: int, mode: str = "parallel", ts_known: Instant | None = None
    ) -> MattsRun:
        """Begin a run of at most k attempts at one task, which are compared, and learnt from as of one.

        Parameters
        ----------
        k : int
            From 1 to 1000.
        mode : {"parallel", "sequential"}
            Whether attempts are made side by side, none with an eye to the others, or one after the other, each with
            what came of those before.
        ts_known : instant, optional
            When it was known that it began; by default now.
        """
        from .matts import new_run

        return new_run(self, agent_id, task, k, mode, ts_known)

    def run(self, run_id: str, *, as_of: AsOf = None) -> MattsRun | None:
        """Return a run, as it is or, with `as_of`, as it was seen then; None: there is none, or was none."""
        from .matts import find_run

        return find_run(self, run_id, as_of)

    def runs(self, *, status: str | None = None, as_of: AsOf = None, limit: int = 100) -> list[MattsRun]:
        """Return runs, the one begun last first.

        Parameters
        ----------
        status : {"running", "completed", "failed"}, optional
            As of then. One that nobody is at any more, since its process died, is running.
        as_of : instant, optional
            As they were seen then.
        limit : int
            At most so many.

        Notes
        -----
        **Complexity**: O(all runs).
        """
        from .matts import all_runs

        return all_runs(self, status, as_of, limit)

    aruns = twin(runs)

    def resolve(
        self,
        trajectory_id: str,
        outcome: float,
        *,
        action_id: str | None = None,
        ts_event: Instant | None = None,
        ts_known: Instant | None = None,
    ) -> None:
        """Say what came of an action, as late as it may be; see :meth:`Trajectory.add_outcome`.

        Raises
        ------
        KeyError
            There is no such trajectory.
        """
        found = self._get(trajectory_id, None)
        found.add_outcome(outcome, action_id=action_id, ts_event=ts_event, ts_known=ts_known)

    def pending(
        self, *, agent_id: str | None = None, older_than: Duration | None = None, as_of: AsOf = None
    ) -> list[PendingOutcome]:
        """Return the actions whose outcome is not known, the oldest first; see :meth:`TrajectoryTracker.pending`."""
        return self.trajectories.pending(agent_id=agent_id, older_than=older_than, as_of=as_of)

    def judge(
        self, trajectory_id: str, *, judge: Judge | None = None, as_of: AsOf = None, record: bool | None = None
    ) -> VerdictResult:
        """Judge a trajectory by what is known of it.

        Parameters
        ----------
        judge : callable, optional
            By default ``memory.judge``, a :class:`ScaledJudge` unless another was set; see
            :data:`ntmem.reasoningbank.Judge`.
        as_of : instant, optional
            By what was known then. Such a verdict is not kept.
        record : bool, optional
            Whether to keep the verdict, so that trajectories are found by it; by default if the store can be written to
            and there is no `as_of`. One that is as the last is not kept again.

        Raises
        ------
        KeyError
            There is no such trajectory, or it was not known then.
        """
        return self._judge(self._get(trajectory_id, as_of), self._chosen(judge), self._records(as_of, record))

    ajudge = twin(judge)

    def judge_many(
        self,
        trajectory_ids: Iterable[str],
        *,
        judge: Judge | None = None,
        as_of: AsOf = None,
        record: bool | None = None,
    ) -> list[VerdictResult]:
        """Judge trajectories, one after the other as by :meth:`judge`; all are read before the first is judged."""
        chosen, records = self._chosen(judge), self._records(as_of, record)
        ids = trajectory_ids if isinstance(trajectory_ids, str) else list(trajectory_ids)
        found = self.trajectories.get_many(ids, as_of=as_of)
        return [self._judge(_there(each, name), chosen, records) for name, each in zip(ids, found, strict=True)]

    ajudge_many = twin(judge_many)

    # -- learning

    @property
    def distiller(self) -> Distiller:
        """What makes patterns of trajectories: its settings, and distilling in the background."""
        found = self._distiller
        if found is None:
            from .distiller import Distiller

            with self._making:
                found = self._distiller = self._distiller or Distiller(self.trajectories.ledger, self._shelf)
        return found

    def stop(self) -> None:
        """Stop what runs in the background. Called by the store when it is closed."""
        if self._distiller is not None:
            self._distiller.stop()

    def distill(self, *, since: Instant | None = None, as_of: AsOf = None) -> list[DistilledPattern]:
        """Learn from the outcomes that nothing was learnt from yet; see :meth:`Distiller.distill`."""
        return self.distiller.distill(since=since, as_of=as_of)

    adistill = twin(distill)

    def consolidate(self, *, memories: bool = True) -> ConsolidationReport:
        """Merge what is one, mark what contradicts itself, let go of what is old; see :meth:`Distiller.consolidate`."""
        return self.distiller.consolidate(memories=memories)

    aconsolidate = twin(consolidate)

    def patterns(
        self,
        *,
        min_strength: float = 0.0,
        min_support: int | None = None,
        where: Mapping[str, Any] | None = None,
        as_of: AsOf = None,
    ) -> Iterator[DistilledPattern]:
        """Yield the patterns that are known, kind of situation by kind of situation.

        Parameters
        ----------
        min_strength : float
            Above 0.5 only what is more than chance.
        min_support : int, optional
            Outcomes, by default as the distiller's `min_trajectories`.
        where : mapping, optional
            As of :meth:`recall`.
        as_of : instant, optional
            As they were known then.
        """
        require_number(min_strength, "min_strength")
        criteria = self._criteria(None, where, -1.0, min_support, with_quarantined=True)
        for cluster in self._shelf.all(self.limit(as_of)):
            for cell in cluster.cells:
                if cell.measure.strength >= min_strength and criteria.let_pass(cluster, cell):
                    yield distilled(cluster, cell)

    def memories(self, *, where: Mapping[str, Any] | None = None, as_of: AsOf = None) -> Iterator[ReasoningMemory]:
        """Yield the memories that were imported, in the order in which they came; `where` as of :meth:`recall`."""
        from .remembering import facts_to_filter

        passes = compile_where(where)
        for kept in self._memories.all(self.limit(as_of)):
            if passes is None or passes.matches(facts_to_filter(kept)):
                yield public(kept)

    def forget(self, memory_id: str, *, past: bool = False) -> bool:
        """Let a memory that was imported go; return whether there was one.

        It is not recalled, listed or exported from now on, nor are links to it. As of an instant before it is seen as
        it was then. An import leaves it out as long as it says what it said; if it says something else it is new.

        Parameters
        ----------
        past : bool
            Its past goes, too, also that of one that was let go before: no `as_of` shows it any more.

        Raises
        ------
        ValueError
            It is the id of a pattern; patterns are this store's own, and :meth:`consolidate` lets them go.

        Notes
        -----
        With `past` its text and its numbers are deleted from the bank. What remains: a hash of its id, and one of what
        it said, by which an import knows it; its embedding among the past changes of the vector store, where no search
        as of now finds it; the bytes of what was deleted in the store's files until they are written over, or the store
        is compacted; backups and files that were exported before; what other parts of the store were told of it.

        A memory that came as an item of a line of JSON takes that line with it; its other items stay, and are exported
        as memories.
        """
        from .forgetting import forget

        return forget(self._memories, self._shelf, memory_id, past=past)

    aforget = twin(forget)

    def recall(
        self,
        query: ArrayLike | str,
        k: int = 3,
        *,
        trajectory_id: str | None = None,
        agent_id: str | None = None,
        where: Mapping[str, Any] | None = None,
        as_of: AsOf = None,
        min_similarity: float | None = None,
        min_support: int | None = None,
        with_quarantined: bool = False,
        scoring: str = "ntmem",
    ) -> list[RecalledPattern]:
        """Return what is known of situations like this one, the most useful first; empty: nothing is known.

        That is patterns, and memories that were imported (:meth:`import_sqlite`, :meth:`import_jsonl`). A memory is a
        pattern without an action and without outcomes: `action` is "", `support` and `strength` are 0, `outcome_mean`
        is NaN and `outcome_interval` everything; `trajectory_ids` is the task it was learnt from, `confidence` and
        `metadata` (`domain`, `tags`, `task_id`, `agents`, `outcome`, `usage_count`, ...) what its row says.

        Parameters
        ----------
        query : array of float, shape (n,), or str
            The situation; text wants an embedder. Its length is of no matter.
        k : int
            At most so many.
        trajectory_id : str, optional
            The decision that this advises: it is written down what advised it, for :meth:`explain`, and so that what
            comes of it moves the patterns' confidence. A memory's use is counted, and it was right if the decision
            earned something.
        agent_id : str, optional
            Only what this agent has made experience of itself.
        where : mapping, optional
            Only patterns whose `metadata`, `action`, `pattern_type`, `support`, `strength`, `confidence` and
            `outcome_mean` pass; :mod:`ntmem.filters` has the operators.
        as_of : instant, optional
            By what was known then.
        min_similarity : float, optional
            The lowest cosine, by default 0.3; any where `scoring` is "upstream".
        min_support : int, optional
            The fewest outcomes, by default the distiller's `min_trajectories`, of patterns; memories have none, and are
            recalled unless it is said to be 1 or more.
        with_quarantined : bool
            Also those that have been wrong too often.
        scoring : {"ntmem", "upstream"}
            "upstream": as agentic-flow would recall from what :meth:`export_sqlite` writes, exactly; see
            :mod:`ntmem.reasoningbank.upstream`. O(memories and patterns).

        Raises
        ------
        KeyError
            There is no trajectory of this id.
        ValueError, TypeError
            The query is zero, not finite or no vector.

        Notes
        -----
        **Complexity**: one search by similarity among the kinds of situations, and one look at each that may count.
        """
        from .recall import direction_of, diverse, recall

        begun = perf_counter_ns()
        require_int(k, "k", 1, _MOST_RECALLED)
        if scoring not in ("ntmem", "upstream"):
            raise ValueError(f"scoring must be 'ntmem' or 'upstream', was {scoring!r}")
        limit = self.limit(as_of)
        if min_similarity is None:
            floor = _NEAR if scoring == "ntmem" else -math.inf
        else:
            floor = require_number(min_similarity, "min_similarity", least=-1, most=1)
        criteria = self._criteria(agent_id, where, floor, min_support, with_quarantined=with_quarantined)
        now = self.trajectories.now() if as_of is LATEST else limit
        numbers = self._numbers(query)
        direction = direction_of(numbers)
        found: list[Any]
        if scoring == "upstream":
            from .upstream import recall_upstream

            found = recall_upstream(self._shelf, self._memories, numbers, k, criteria, limit, now)
        else:
            found = [*recall(self._shelf, direction, k, criteria, limit, now, is_now=as_of is None)]
            if criteria.with_memories and self._memories.are_any():
                from .remembering import remembered

                found += remembered(
                    self._memories, self._shelf, direction, k, criteria, limit, now, is_now=as_of is None
                )
            found = diverse(found, k)
        if trajectory_id is not None:
            self._advise(trajectory_id, found)
        patterns = [it.public() for it in found]
        self._engine().store.meters.since(meters.RECALL, begun)
        return patterns

    arecall = twin(recall)

    def choose(
        self,
        query: ArrayLike | str,
        actions: Sequence[str],
        *,
        trajectory_id: str | None = None,
        task: str | None = None,
        k: int = 3,
        as_of: AsOf = None,
        seed: int | np.random.Generator | None = None,
    ) -> Choice:
        """Choose an action by Thompson sampling over what is known of situations like this one.

        Parameters
        ----------
        query : array of float, shape (n,), or str
            The situation.
        actions : sequence of str
            What can be done. What was never tried in such a situation is tried sooner or later.
        trajectory_id : str, optional
            The decision: what advised it is written down, as by :meth:`recall`; its task is what is chosen for.
        task : str, optional
            Only what was learnt in this task; by default that of the trajectory, without one any.
        k : int
            Patterns of the action that are returned, at most.
        seed : int or numpy.random.Generator, optional
            The same seed chooses the same way; by default it is chance.

        Notes
        -----
        If nothing is known in this task each action is as probable as the others; if something is, the nearest kinds of
        situations count, however far they are. Only those with a cosine of 0.3 and more are said to have advised.
        Quarantine is of no matter for the choice: what an action earns is taken from the outcomes alone.
        """
        import numpy as np

        from .recall import NEAR, Choice, candidates, diverse, near, options

        begun = perf_counter_ns()
        names = _checked_actions(actions)
        require_int(k, "k", 1, _MOST_RECALLED)
        limit = self.limit(as_of)
        now = self.trajectories.now() if as_of is LATEST else limit
        chance = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)
        asked = None if trajectory_id is None else self._get(trajectory_id, None)
        if task is None and asked is not None:
            task = asked.task
        if task is not None:
            check_text(task, "task", 4096, least=0)
            task = as_kept(task, self.trajectories.ledger.scrubber())
        found = near(self._shelf, self._direction(query), NEAR, limit, is_now=as_of is None, task=task)
        chosen: list[Candidate] = []
        if found.clusters:
            found = found.of_one_unit()
            made = options(found, names, chance)
            best = max(made, key=lambda it: it.sampled).action
            criteria = self._criteria(None, {"action": best}, _NEAR, None, with_quarantined=False)
            chosen = diverse(candidates(found, criteria, now), k)
        else:
            made, best = [], names[int(chance.integers(len(names)))]
        if asked is not None:
            _write_advice(asked, chosen)
        choice = Choice(best, bool(made), tuple(made), tuple(it.public() for it in chosen))
        self._engine().store.meters.since(meters.CHOOSE, begun)
        return choice

    achoose = twin(choose)

    def feedback(self, pattern_id: str, reward: float, *, trajectory_id: str | None = None) -> bool:
        """Say what a pattern was worth to a decision; return whether it counted.

        Outcomes say so by themselves where it was written down what advised a decision (`trajectory_id` of
        :meth:`recall`); this is for whatever else is known.

        Parameters
        ----------
        reward : float
            From -1, it misled, to 1, it helped. Its confidence moves by 0.05 of it, by half of that if it is negative.
        trajectory_id : str, optional
            The decision. What was said before of the pattern and this decision, or has followed from an outcome,
            stands; what is said now stands against the outcomes that come later. (By itself, a decision of several
            actions gives a pattern its due for each of their outcomes.)

        Raises
        ------
        KeyError
            There is no such pattern, or no such trajectory.
        """
        amount = require_number(reward, "reward", least=-1, most=1)
        if trajectory_id is not None:
            self._get(trajectory_id, None)
        return self.distiller.feedback(pattern_id, amount, trajectory_id)

    def explain(self, trajectory_id: str, *, as_of: AsOf = None) -> Explanation:
        """Return which patterns were recalled for a decision, as they were then, why, and whether they were right."""
        from .explaining import explain

        return explain(self._shelf, self._get(trajectory_id, as_of), self.distiller.settings.direction)

    def report(self, path: str | os.PathLike[str], *, as_of: AsOf = None) -> BankReport:
        """Write what is known as one page of HTML, with pictures, that needs nothing else; return its figures.

        What came of decisions with memory and without, over time; whether confidence holds; where patterns are, which
        are used, where what pays has changed; the strongest patterns.

        Parameters
        ----------
        path : str or Path
            The file, written whole or not at all; what was there is replaced.
        as_of : instant, optional
            As it was known then.

        Raises
        ------
        ValueError, OSError
            It names no file, or one that cannot be written.

        Notes
        -----
        **Complexity**: O(patterns), and one look at each of the latest 20,000 trajectories.
        """
        from .report import write_report

        return write_report(path, self.trajectories, self._shelf, self.distiller.settings, self.limit(as_of))

    areport = twin(report)

    # -- other programs

    def export_sqlite(self, path: str | os.PathLike[str]) -> BankExport:
        """Write the bank as a new database in the schema of agentic-flow's ReasoningBank, whole or not at all.

        Memories and what came with them are as they came, bit for bit, with what use and feedback have made of their
        confidence and counts. Patterns with enough outcomes are memories there, with all their numbers under ``ntmem``
        in ``pattern_data``; trajectories are task_trajectories.

        Raises
        ------
        StorageError
            There is a file of this name, or it cannot be written.
        """
        from .sqliteout import export_sqlite

        least = self.distiller.settings.min_trajectories
        return export_sqlite(path, self.trajectories, self._shelf, self._memories, least)

    aexport_sqlite = twin(export_sqlite)

    def import_sqlite(
        self,
        path: str | os.PathLike[str],
        *,
        known: Known = "now",
        on_error: OnError = "raise",
        scrub: bool = False,
    ) -> BankImport:
        """Bring the memories of a database of agentic-flow's into the bank, and what else is in it.

        The database is read from one snapshot and not written to. Tables that the schema does not have are ignored,
        and named; what the schema has a default for may be missing. To import again changes nothing that is as it was,
        and goes on where it was interrupted. What this store has exported itself is left out.

        Parameters
        ----------
        known : {"now", "created"}
            From when on memories that are new are known: by the store's clock, or since each says it was made. The
            latter is for who knows that nobody has changed them since: recall as of then finds them. A memory that an
            import changes is what it was as of before.
        on_error : {"raise", "skip"}
            Whether rows that cannot be right are an error, and then nothing is written, or are left out and named.
        scrub : bool
            Whether personal data and secrets are taken out of what comes, by ``memory.scrubber``. By default all is
            kept as it comes, so that it can go back so.

        Raises
        ------
        SerializationError
            It is no such database, or rows are wrong.
        StorageError
            There is no such file, or it cannot be read.
        """
        from .sqlitein import import_sqlite

        return import_sqlite(
            path,
            self.trajectories.ledger,
            self._shelf,
            self._memories,
            known=known,
            on_error=on_error,
            scrubber=self._scrubber(scrub),
        )

    aimport_sqlite = twin(import_sqlite)

    def export_jsonl(
        self, path: str | os.PathLike[str], *, embeddings: str | os.PathLike[str] | None = None
    ) -> BankExport:
        """Write the bank as the paper's lines of JSON (arXiv 2509.25140), whole or not at all.

        Lines that came so are as they were; memories, patterns and trajectories are lines with what the paper has no
        place for under ``ntmem``.

        Parameters
        ----------
        embeddings : path, optional
            A file for the lines with embeddings; by default they stand behind the others.

        Raises
        ------
        StorageError
            There is a file of this name, or it cannot be written.
        """
        from .jsonlines import export_jsonl

        least = self.distiller.settings.min_trajectories
        return export_jsonl(path, embeddings, self.trajectories, self._shelf, self._memories, least)

    aexport_jsonl = twin(export_jsonl)

    def import_jsonl(
        self,
        path: str | os.PathLike[str],
        *,
        embeddings: str | os.PathLike[str] | None = None,
        known: Known = "now",
        on_error: OnError = "raise",
        scrub: bool = False,
    ) -> BankImport:
        """Bring the paper's lines of JSON into the bank: ``{task_id, query, ..., memory_items, ...}``, embeddings.

        Memory items, objects or Markdown, are recalled by the embedding whose ``id`` is their ``task_id``; that may
        come later. Lines with an embedding may stand in the same file. Else as :meth:`import_sqlite`.
        """
        from .jsonlines import import_jsonl

        paths = [path] if embeddings is None else [embeddings, path]
        return import_jsonl(
            paths,
            self.trajectories.ledger,
            self._shelf,
            self._memories,
            known=known,
            on_error=on_error,
            scrubber=self._scrubber(scrub),
        )

    aimport_jsonl = twin(import_jsonl)

    def _scrubber(self, wanted: bool) -> Scrubber | None:
        """Return what takes out of imports what the bank would not keep; None: nothing does."""
        require_bool(wanted, "scrub")
        if not wanted:
            return None
        from ..scrubbing import Scrubber

        return self.trajectories.ledger.scrubber() or Scrubber()

    def _advise(self, trajectory_id: str, found: Sequence[Recallable]) -> None:
        _write_advice(self._get(trajectory_id, None), found)
        used = [hashed(it.advice.pattern_id) for it in found if not is_pattern(it.advice.pattern_id)]
        if used:
            self._memories.count_use(used)

    def _direction(self, query: ArrayLike | str) -> NDArray[np.float64]:
        from .recall import direction_of

        return direction_of(self._numbers(query))

    def _numbers(self, query: ArrayLike | str) -> NDArray[Any]:
        import numpy as np

        if not isinstance(query, str):
            return np.asarray(query)
        embedder = self._embedder()
        if embedder is None:
            raise TypeError("text needs an embedder: open the store with embedder=, or pass a vector")
        return np.asarray(embedder.embed(query))

    def _criteria(
        self,
        agent_id: str | None,
        where: Mapping[str, Any] | None,
        floor: float,
        min_support: int | None,
        *,
        with_quarantined: bool,
    ) -> Criteria:
        from .recall import Criteria

        if agent_id is not None:
            check_text(agent_id, "agent_id", 255)
        with_memories = not min_support
        if min_support is None:
            min_support = self.distiller.settings.min_trajectories
        require_int(min_support, "min_support", 0, 2**62)
        where = where_kept(where, self.trajectories.ledger.scrubber())
        return Criteria(agent_id, compile_where(where), floor, min_support, with_quarantined, with_memories)

    def limit(self, as_of: AsOf) -> int:
        """Return the last instant of what is asked for, ns UTC. Called by the parts of the bank."""
        if as_of is None:
            return self.trajectories.now()
        return MAX_INSTANT if as_of is LATEST else instant_ns(as_of, "as_of")

    def case(self, trajectory: Trajectory) -> Case:
        """Return what a judge would judge of a trajectory, as it is seen."""
        came, pairs = trajectory.latest_outcomes(), []
        for action in trajectory.actions:
            outcome = came.get(action.id)
            if outcome is not None:
                pairs.append(Pair(action, outcome, self.trajectories.past(trajectory, action)))
        return Case(trajectory.id, trajectory.agent_id, trajectory.task, tuple(pairs))

    def _chosen(self, judge: Judge | None) -> Judge:
        return self._default() if judge is None else require_judge(judge)

    def _judge(self, trajectory: Trajectory, judge: Judge, records: bool) -> VerdictResult:
        begun = perf_counter_ns()
        result = run_judge(judge, self.case(trajectory))
        feedback = as_kept(result.feedback, self.trajectories.ledger.scrubber())
        said = (judge_name(judge), result.verdict.value, result.error, result.accuracy, result.confidence, feedback)

        def make(state: State, now: int) -> Judged:
            last = next((it.event for it in reversed(state.steps) if isinstance(it.event, Judged)), None)
            if last is not None and _said(last) == said:
                raise _IsKept
            return Judged(now, now, *said)

        if records:
            with suppress(_IsKept):
                trajectory.add(make)
        self._engine().store.meters.since(meters.JUDGE, begun)
        return result

    def _records(self, as_of: AsOf, record: bool | None) -> bool:
        if record is None:
            return as_of is None and not self._engine().read_only
        if not isinstance(record, bool):
            raise TypeError(f"record must be a bool or None, was {type(record).__name__}")
        if record and as_of is not None:
            raise ValueError("a verdict as of an instant is not kept: it was not known then; leave record out")
        return record

    def _get(self, trajectory_id: str, as_of: AsOf) -> Trajectory:
        return _there(self.trajectories.get(trajectory_id, as_of=as_of), trajectory_id)


class _IsKept(Exception):
    """It was judged so last."""


def _there(found: Trajectory | None, trajectory_id: str) -> Trajectory:
    if found is None:
        raise KeyError(f"there is no trajectory {trajectory_id!r} in this store, or it was not known then")
    return found


def _write_advice(trajectory: Trajectory, found: Sequence[Recallable]) -> None:
    advice = tuple(it.advice for it in found)
    trajectory.add(lambda state, now: Advised(now, now, advice))


def _checked_actions(actions: Sequence[str]) -> list[str]:
    if isinstance(actions, str):
        raise TypeError("actions must be a sequence of str, was one str")
    names = list(actions)
    for each in names:
        check_text(each, "an action", 255)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"actions must be at least one, each of them once, were {names[:8]}")
    return names


def _said(event: Judged) -> tuple[object, ...]:
    return (event.judge, event.verdict, event.error, event.accuracy, event.confidence, event.feedback)
