"""Requests that schemathesis makes of the server's own description, valid and not, at the real process.

No answer is a 500, each is one that the description has, and the data of a collection nobody asks stay.
`make abuse-agentdb` makes 10,000 of them; NTMEM_AGENTDB_SEED says which.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from agentdb import SERVER, Asker
from hostile import Start
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable

import ntmem

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
schemathesis = pytest.importorskip("schemathesis")

REQUESTS = int(os.environ.get("NTMEM_AGENTDB_REQUESTS", "100"))
SEED = int(os.environ.get("NTMEM_AGENTDB_SEED", "1"))
TOKEN = "0123456789abcdef"
QUIET = settings(database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
KEPT = [{"id": f"{number:02x}", "embedding": [1.0, number], "metadata": {"n": number}} for number in range(20)]


def asked(url: str, checks: list[Any], done: collections.Counter[Any]) -> None:
    """Make the requests, as many of each operation, half of them such that the description refuses them."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", headers=headers)
    operations = [found.ok() for found in schema.get_all_operations()]
    kinds = [(operation, mode) for operation in operations for mode in schemathesis.GenerationMode]
    if REQUESTS < 1000:  # what is no query takes schemathesis seconds to make up
        kinds = [it for it in kinds if not (it[0].label.endswith("query") and it[1].value == "negative")]
    share = -(-REQUESTS // len(kinds))

    def ask(case: Any) -> None:
        aimed(case, done["requests"])
        reply = case.call(base_url=url, headers=headers, timeout=60)
        done["requests"] += 1
        done[reply.status_code] += 1
        case.validate_response(reply, checks=checks)

    for number, (operation, mode) in enumerate(itertools.cycle(kinds)):
        left = REQUESTS - done["requests"]
        if not left:
            return
        drawn = given(case=operation.as_strategy(generation_mode=mode))(ask)
        with contextlib.suppress(Unsatisfiable):  # a GET without parameters cannot say anything wrong
            seed(SEED + number)(settings(QUIET, max_examples=min(left, share))(drawn))()


def aimed(case: Any, number: int) -> None:
    """Let two of three be about a collection that is there, and half of these have embeddings of its dimension."""
    path = case.path_parameters
    if number % 3 == 0 or not path or "collection" not in path:
        return
    path["collection"] = "abused"
    documents = case.body.get("documents", []) if isinstance(case.body, dict) else []
    for said in [case.body, *(documents if isinstance(documents, list) else [])]:
        if number % 2 and isinstance(said, dict) and isinstance(said.get("embedding"), list):
            said["embedding"] = [*said["embedding"], 1.0, 1.0][:2]


def test_no_request_is_a_bug_or_reaches_what_it_does_not_ask(start: Start, ram: Path) -> None:
    server = start(SERVER, "--store", ram / "desk", env={"NTMEM_AGENTDB_TOKEN": TOKEN})
    ask = Asker(server.line(), TOKEN)
    for name in ("kept", "abused"):
        assert ask.post("/collections", name=name, dimension=2)[0] == 201
        assert ask.post(f"/collections/{name}/batch_insert", documents=KEPT)[0] == 200
    before = ask.post("/collections/kept/query", form="nested")
    ask.close()  # it would idle for too long
    checks = [
        schemathesis.checks.not_a_server_error,
        schemathesis.checks.status_code_conformance,
        schemathesis.checks.content_type_conformance,
        schemathesis.checks.response_schema_conformance,
    ]
    done: collections.Counter[Any] = collections.Counter()
    asked(ask.url, checks, done)
    statuses = {status: count for status, count in sorted(done.items(), key=str) if status != "requests"}
    print(f"{done['requests']} requests: {statuses}")
    assert {200, 201, 400, 404} <= statuses.keys()  # of each kind
    assert max(statuses) < 500
    assert ask.post("/collections/kept/query", form="nested") == before
    ask.close()
    server.signal(signal.SIGTERM)
    server.end()
    assert server.complaint() == ""
    with ntmem.open(ram / "desk") as memory:
        assert memory.vectors.count("kept") == len(KEPT)
        assert memory.verify().ok
