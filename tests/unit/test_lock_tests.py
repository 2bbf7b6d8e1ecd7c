"""CPython's own tests of locks, run against ours: what `threading` promises holds here, too."""

from __future__ import annotations

import itertools
import threading
import unittest
from typing import Any, ClassVar

import pytest

import ntmem

lock_tests = pytest.importorskip("test.lock_tests")

_NO_REINIT = "a child of fork has no lease of its parent's, and opens the store again: there is nothing to reset"


class _OfAStore(unittest.TestCase):
    """Each lock that a test makes is a lock of another resource of one store, as locks of threads are."""

    options: ClassVar[dict[str, Any]] = {}
    memory: ntmem.MemorySystem

    def setUp(self) -> None:
        self.memory = ntmem.open(engine="shared")
        self.names = itertools.count()
        super().setUp()

    def tearDown(self) -> None:
        super().tearDown()
        self.memory.close()

    def locktype(self) -> ntmem.Lock:
        return self.memory.lock(f"lock {next(self.names)}", **self.options)

    def condtype(self, lock: Any = None) -> threading.Condition:
        return threading.Condition(self.locktype() if lock is None else lock)


class TestLock(_OfAStore, lock_tests.LockTests):
    @unittest.skip(_NO_REINIT)
    def test_at_fork_reinit(self) -> None: ...


class TestReentrantLock(_OfAStore, lock_tests.RLockTests):
    options: ClassVar[dict[str, Any]] = {"reentrant": True}


class TestConditionOfALock(_OfAStore, lock_tests.ConditionTests):
    """A condition over a lock that is not reentrant."""

    @unittest.skip("acquires it twice, which only a reentrant one can be")
    def test_acquire(self) -> None: ...


class TestConditionOfAReentrantLock(_OfAStore, lock_tests.ConditionTests):
    options: ClassVar[dict[str, Any]] = {"reentrant": True}


class TestSemaphoreOfAReentrantLock(_OfAStore, lock_tests.SemaphoreTests):
    """A semaphore of threading, whose condition is over one of our locks."""

    options: ClassVar[dict[str, Any]] = {"reentrant": True}

    def semtype(self, *args: Any, **kwargs: Any) -> Any:
        made = threading.Semaphore(*args, **kwargs)
        made._cond = self.condtype()  # type: ignore[attr-defined]
        return made


class TestBarrierOfAReentrantLock(_OfAStore, lock_tests.BarrierTests):
    """A barrier of threading, whose condition is over one of our locks."""

    options: ClassVar[dict[str, Any]] = {"reentrant": True}

    def barriertype(self, *args: Any, **kwargs: Any) -> Any:
        made = threading.Barrier(*args, **kwargs)
        made._cond = self.condtype()  # type: ignore[attr-defined]
        return made
