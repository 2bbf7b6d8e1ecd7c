"""Fuzzing of everything that parses bytes: ``make fuzz``, or one of these.

python tests/fuzz run SECONDS [TARGET ...]     targets in turn, each a process, the time divided among them
python tests/fuzz again TARGET FILE            run a target on an input, as a finding says
python tests/fuzz shorten TARGET FILE          make an input that a target fails on shorter, in place
python tests/fuzz keep [TARGET ...]            put what added coverage into the corpus in git, 8 kB a target
python tests/fuzz seeds                        make the corpus anew, of real encodings and past findings

Coverage of Python is seen by atheris, of native modules where they were built so (NTMEM_SANITIZE with `fuzzer`).
"""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

import inputs  # noqa: E402
from registry import targets, tried  # noqa: E402

WORK = Path(os.environ.get("NTMEM_FUZZ_WORK", "build/fuzz")).absolute()
MOST_INPUT = 8192
MOST_CORPUS = 8000
LONGEST = 20
_RATE = re.compile(r"stat::average_exec_per_sec:\s*(\d+)")
_DONE = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_COVERED = re.compile(r"cov: (\d+)")


def one(name: str, arguments: list[str]) -> None:
    """Become the fuzzer of one target."""
    import atheris

    if name in CONTROLS:
        run = atheris.instrument_func(planted if name == "planted" else planted_overflow)
    else:
        with atheris.instrument_imports(include=["ntmem"], enable_loader_override=False):
            run = targets()[name].run
    from mutate import mutated

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        return mutated(data, chance)[:most] if chance.random() < 0.4 else atheris.Mutate(data, most)

    atheris.Setup(["fuzz", *arguments], lambda data: tried(run, data) and None, custom_mutator=mutator)
    atheris.Fuzz()


CONTROLS = {"planted": "a planted fault", "planted_overflow": "ERROR: AddressSanitizer"}


def planted(data: bytes) -> None:
    """Fail at what only coverage leads to."""
    if data[:1] == b"N" and data[1:2] == b"T" and data[2:3] == b"M":
        raise RuntimeError("a planted fault")


def planted_overflow(data: bytes) -> None:
    """Write behind a buffer of the heap."""
    if data[:1] == b"N":
        ctypes.memmove(ctypes.create_string_buffer(64), bytes(80), 80)


def check_controls() -> None:
    """See that the fuzzer finds planted faults, natively too."""
    kept = WORK / "controls"
    kept.mkdir(parents=True, exist_ok=True)
    for name, says in CONTROLS.items():
        if name == "planted" or is_sanitized():
            said = fuzzer(name, "-max_total_time=60", f"-artifact_prefix={kept}/")
            if said.returncode == 0 or says not in said.stderr + said.stdout:
                sys.exit(f"{says!r} of {name} was not found, so nothing would be:\n{_last_words(said.stderr)}")
            print(f"control: {name} is found", flush=True)


def fuzzer(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the fuzzer of a target as a process; return it with what it said."""
    command = [sys.executable, str(HERE), "one", name, *arguments]
    return subprocess.run(command, text=True, capture_output=True, errors="replace", check=False)


def is_sanitized() -> bool:
    """Whether the native modules want the address sanitizer in the process."""
    import importlib.util

    spec = importlib.util.find_spec("ntmem")
    assert spec is not None
    assert spec.origin is not None
    [module, *_] = Path(spec.origin).parent.glob("_core/delta.*.so")
    return b"__asan_init" in module.read_bytes()


def with_sanitizers() -> None:
    """Begin this process again with the sanitizers that the native modules want before all else."""
    if not is_sanitized() or "NTMEM_FUZZ_AGAIN" in os.environ:
        return
    import atheris

    said = {
        "NTMEM_FUZZ_AGAIN": "1",
        "LD_PRELOAD": str(Path(atheris.path()) / "asan_with_fuzzer.so"),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:" + os.environ.get("ASAN_OPTIONS", ""),
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    os.execve(sys.executable, [sys.executable, str(HERE), *sys.argv[1:]], os.environ | said)


def run(seconds: int, names: list[str]) -> bool:
    """Fuzz targets in turn; return whether nothing was found."""
    names = names or list(targets())
    native = "with" if is_sanitized() else "WITHOUT"
    print(
        f"{len(names)} targets, {seconds // len(names)} s each, native modules {native} coverage and sanitizers; "
        f"inputs are in {WORK}",
        flush=True,
    )
    check_controls()
    executed, findings = 0, []
    for name in names:
        corpus, found = WORK / name / "corpus", WORK / name / "found"
        inputs.unpack(name, corpus)
        found.mkdir(parents=True, exist_ok=True)
        before = set(found.iterdir())
        said = fuzzer(
            *(
                name,
                f"-max_total_time={max(1, seconds // len(names))}",
                f"-timeout={LONGEST}",
                f"-max_len={MOST_INPUT}",
            ),
            *("-rss_limit_mb=4096", f"-artifact_prefix={found}/", "-print_final_stats=1", "-reload=0", str(corpus)),
        )
        (WORK / name / "last.log").write_text(said.stdout + said.stderr)
        done, rate, covered = (_last(it, said.stderr) for it in (_DONE, _RATE, _COVERED))
        news = sorted(set(found.iterdir()) - before)
        if said.returncode or news:
            findings += [(name, path) for path in news] or [(name, WORK / name / "last.log")]
            for path in news:
                subprocess.run(
                    [sys.executable, str(HERE), "shorten", name, str(path)], capture_output=True, check=False
                )
            print(f"  FOUND in {name}:\n{_last_words(said.stderr + said.stdout)}", flush=True)
            for path in news:
                print(f"  again: {sys.executable} {HERE} again {name} {path}", flush=True)
        executed += done
        print(f"{name:16} {done:9,} runs {rate:7,}/s, coverage {covered}", flush=True)
    print(f"{executed:,} runs, {len(findings)} findings")
    return not findings


def _last(pattern: re.Pattern[str], said: str) -> int:
    return int((pattern.findall(said) or ["0"])[-1])


def _last_words(said: str) -> str:
    lines = said.splitlines()
    marks = ("Uncaught Python exception", "ERROR:", "runtime error:")
    begin = next((at for mark in marks for at, line in enumerate(lines) if mark in line), -30)
    return "\n".join(f"    {line}" for line in lines[begin:][:40])


def again(name: str, path: Path) -> None:
    """Run a target on an input."""
    print("taken" if tried(targets()[name].run, path.read_bytes()) else "refused")


def shorten(name: str, path: Path, tries: int = 400) -> None:
    """Leave pieces of an input out as long as the target fails on it in the same way."""
    data = path.read_bytes()
    wanted = _failure(name, data)
    if wanted is None:
        return  # natively or slowly: it stays as it is
    size = max(1, len(data) // 2)
    while size and tries:
        at = 0
        while at < len(data) and tries:
            tries -= 1
            less = data[:at] + data[at + size :]
            if _failure(name, less) == wanted:
                data = less
            else:
                at += size
        size //= 2
    path.write_bytes(data)


def _failure(name: str, data: bytes) -> tuple[object, ...] | None:
    def too_long(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LONGEST)
    try:
        tried(targets()[name].run, data)
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        return type(error), trace and trace.tb_frame.f_code, trace and trace.tb_lineno
    finally:
        signal.alarm(0)
    return None


def keep(names: list[str]) -> None:
    """Take into the corpus what libFuzzer has kept as it added coverage, the shortest first."""
    for name in names or targets():
        found = [path.read_bytes() for path in (WORK / name / "corpus").glob("*")]
        if found:
            inputs.write(name, [*targets()[name].seeds(), *found], MOST_CORPUS)


def main(command: str = "", *rest: str) -> None:
    if command not in ("", "seeds"):
        with_sanitizers()
    match command:
        case "one":
            one(rest[0], [*rest[1:]])
        case "run":
            sys.exit(not run(int(rest[0]), [*rest[1:]]))
        case "again":
            again(rest[0], Path(rest[1]))
        case "shorten":
            shorten(rest[0], Path(rest[1]))
        case "keep":
            keep([*rest])
        case "seeds":
            for name, found in targets().items():
                inputs.write(name, found.seeds(), 1 << 20)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
