"""A gate that many threads pass and one may shut: transactions pass, resizing, closing and forking shut it."""

from __future__ import annotations

import threading
import time
from typing import Any


class Gate:
    """Many may pass at once; one may shut it, after all inside have left.

    A caller holds a token of its own and does ``inside.pop(token, None)`` to leave: one C call, which an exception
    of a signal handler (Ctrl-C) comes before or behind, but not into; a forgotten caller would block every later
    shutting for ever. So whoever shuts the gate looks again and again rather than being told.
    """

    def __init__(self) -> None:
        self.inside: dict[object, int] = {}  # token: thread
        self._shutting = threading.RLock()
        self._shut_by: list[int] = []
        self._quieting = threading.Lock()
        self._quiet_for = 0

    def enter(self, token: object, write: bool) -> None:
        """Pass; wait while another thread has it shut, or wants no readers in."""
        me = threading.get_ident()
        while True:
            self.inside[token] = me
            quiet_for = self._quiet_for
            if self._shut_by and me not in self._shut_by and not self._is_nested(token, me):
                lock: Any = self._shutting
            elif quiet_for and not write and quiet_for != me:
                lock = self._quieting
            else:
                return
            self.inside.pop(token, None)
            with lock:
                pass

    def _is_nested(self, token: object, me: int) -> bool:
        """Whether this thread was let in already: who shuts the gate waits for it, so it must not wait for them."""
        return any(thread == me for other, thread in list(self.inside.items()) if other is not token)

    def abort(self, txn: Any) -> None:
        """Abort a write transaction, for which no new reader is let in.

        py-lmdb 3.0 waits in there, with the lock of all writers, for a moment at which no other thread is in any of
        its calls; two threads that read without a pause leave it none.
        """
        with self._quieting:
            self._quiet_for = threading.get_ident()
            try:
                txn.abort()
            finally:
                self._quiet_for = 0

    def holds_this_thread(self) -> bool:
        """Whether this thread is inside, or shutting it: signal handlers and finalizers come at any moment."""
        me = threading.get_ident()
        return me in list(self.inside.values()) or me in self._shut_by

    def shut(self) -> None:
        """Wait until nobody else is inside, and let nobody else in."""
        me = threading.get_ident()
        self._shutting.acquire()
        try:
            self._shut_by.append(me)
            while any(thread != me for thread in list(self.inside.values())):
                time.sleep(0.0002)
        except BaseException:
            self.open()
            raise

    def open(self) -> None:
        """Undo :meth:`shut`."""
        self._shut_by.pop()
        self._shutting.release()
