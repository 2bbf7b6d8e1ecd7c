"""Results of tools (MCP servers, REST calls), asked for once by a whole team.

A tool is slow and is billed by the call. `memoize` keeps its results in the store: they outlive the process, every
process of the team has them, and they end after `ttl` seconds of the store's clock. While one thread asks, others
that ask for the same wait for its answer; an exception is not kept.

    python examples/02_tool_results.py [DIRECTORY]

Prints::

    8 threads asked for AAPL: 1 call; one answer: True
    another symbol: 2 calls
    opened again: 2 calls; last is Decimal('189.30'), as it went in
    ten minutes later: 3 calls
    not kept: quote did not answer
    kept instead: TSLA by call 4
    results in the store that have not expired: 2
"""

import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import ntmem

Tool = Callable[[str], dict[str, object]]


class Server:
    """Stands for a tool server; it counts what it is asked."""

    calls = 0
    is_down = False

    def call(self, tool: str, symbol: str) -> dict[str, object]:
        if self.is_down:
            raise TimeoutError(f"{tool} did not answer")
        self.calls += 1
        return {"tool": tool, "symbol": symbol, "last": Decimal("189.30"), "call": self.calls}


def cached_quote(memory: ntmem.MemorySystem, server: Server) -> Tool:
    """What every process of the team calls."""

    @memory.namespace("mcp_cache").memoize(ttl=300, single_flight=True, name="quote")
    def quote(symbol: str) -> dict[str, object]:
        return server.call("quote", symbol)

    return quote


def main(directory: str) -> None:
    clock, server = ntmem.SimulatedClock(1_700_000_000 * 10**9), Server()
    with ntmem.open(directory, clock=clock) as memory:
        quote = cached_quote(memory, server)
        with ThreadPoolExecutor(8) as team:
            answers = list(team.map(quote, ["AAPL"] * 8))
        print(f"8 threads asked for AAPL: {server.calls} call; one answer: {answers == [answers[0]] * 8}")
        quote("MSFT")
        print(f"another symbol: {server.calls} calls")

    with ntmem.open(directory, clock=clock) as memory:
        quote = cached_quote(memory, server)
        found = quote("AAPL")
        print(f"opened again: {server.calls} calls; last is {found['last']!r}, as it went in")
        clock.set(clock.now() + 600 * 10**9)
        quote("AAPL")
        print(f"ten minutes later: {server.calls} calls")

        server.is_down = True
        try:
            quote("TSLA")
        except TimeoutError as error:
            print(f"not kept: {error}")
        server.is_down = False
        print(f"kept instead: {quote('TSLA')['symbol']} by call {server.calls}")
        print(f"results in the store that have not expired: {len(memory.namespace('mcp_cache'))}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
