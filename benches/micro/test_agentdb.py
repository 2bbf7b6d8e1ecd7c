"""Searches a second over AgentDB's wire: a server on one core, its client on the other."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest

import ntmem
from ntmem.agentdb import wire

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

VECTORS, DIMENSION, K = 10_000, 384, 10
CONNECTIONS = 8
PINNED = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); "
OURS = (
    PINNED
    + """
from ntmem.cli import main
sys.argv = ["ntmem", "serve-agentdb", "--port", "0", "--store", sys.argv[2]]
main()
"""
)
FLOOR = (
    PINNED
    + """
import uvicorn
from starlette.responses import Response
from starlette.routing import Route, Router
from ntmem.agentdb import server
async def empty(request):
    return Response()
app = Router([Route("/collections/{collection}/search", empty, methods=["POST"])])
with server.listening("127.0.0.1", 0) as found:
    print(f"http://127.0.0.1:{found.getsockname()[1]}", flush=True)
    server.run(app, found)
"""
)


@contextmanager
def running(code, *args):
    """Start a server; give connections to it."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True)
    try:
        host, port = process.stdout.readline().strip().removeprefix("http://").split(":")
        connections = [socket.create_connection((host, int(port))) for _ in range(CONNECTIONS)]
        for each in connections:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connections
        for each in connections:
            each.close()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def exchange(connections, requests):
    """Send a request over each connection, then read the answers; return these."""
    for each, request in zip(connections, requests, strict=True):
        each.sendall(request)
    return [answer(each) for each in connections]


def answer(connection):
    data = connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), data
    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < size:
        body += connection.recv(65536)
    return body


@pytest.fixture(scope="module")
def cores():
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        pytest.skip("wants two cores")
    os.sched_setaffinity(0, {mine[1]})
    yield mine
    os.sched_setaffinity(0, mine)


@pytest.mark.parametrize("form", ["default", "nested"])
def test_search_over_the_wire_to_an_empty_endpoint(ratio_to, benchmark, tmp_path, cores, form):
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(VECTORS, DIMENSION)).astype(np.float32)
    with ntmem.open(tmp_path / "desk") as memory:
        memory.vectors.add_many("a", [f"{i:08d}" for i in range(VECTORS)], rows, [{"n": i} for i in range(VECTORS)])
    bodies = [
        msgspec.json.encode(wire.Search(embedding=rows[i].tolist(), k=K, form=None if form == "default" else wire.FORM))
        for i in range(CONNECTIONS)
    ]
    head = b"POST /collections/a/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    requests = [head + b"Content-Length: %d\r\n\r\n" % len(body) + body for body in bodies]
    with running(OURS, cores[0], tmp_path / "desk") as ours, running(FLOOR, cores[0]) as floor:
        ratio_to(lambda: exchange(ours, requests), lambda: exchange(floor, requests), calls=CONNECTIONS)
        for number, body in enumerate(exchange(ours, requests)):
            results = msgspec.json.decode(body)["results"]
            assert len(results) == K
            best = results[0]["document"]
            assert best["n" if form == "default" else "metadata"] == (number if form == "default" else {"n": number})
    rate = 1e9 / benchmark.extra_info["ours_ns"][0]
    benchmark.extra_info["searches_per_second"] = rate
    benchmark.name += f" = {rate:,.0f} searches/s"
