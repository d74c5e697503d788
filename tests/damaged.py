"""Damage of every sort done to whole files, and what a reader may make of it.

Samples, a `BadSample` and a `UserError` are fine. Another exception, the end of the process, a hang, memory
far beyond what the file holds, and anything that is unpickled or started are not.
"""

import json
import os
import re
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
from hypothesis import strategies as st

from anyjepa.core.errors import BadSample, UserError
from anyjepa.domains import domains

KINDS = domains()  # imported before anything is forked
MEMORY = re.compile(r"memory|allocate\b|malloc|bad_alloc", re.IGNORECASE)
ROOM = 2**30  # bytes that reading may take beyond what the process has
PROCESSOR, CLOCK = 10, 120  # seconds that one damaged source may take
FEW = 6  # samples read of each source
NUMBERS = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
WORDS = (
    b"-1",
    b"0",
    b"99999999",
    b"1099511627776",
    b"9" * 40,
    b"1e999",
    b"nan",
    b"\0",
    b"\xff\xfe",
    b"'",
    b"%s",
)
FORBIDDEN = (
    "pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
    "socket.connect",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A file that is damaged, and how its content is wrapped again after that.

    Args:
        content: in which the damage is done.
        wrap: makes the file, with its own checks put right, so that damage gets past them.
        asks: its library asks the system for what the file claims before it looks; to be told no is fine.
    """

    content: bytes
    wrap: Callable[[bytes], bytes] = bytes
    asks: bool = False


@st.composite
def edits(draw, content: bytes) -> bytes:
    """`content` cut, blanked, flipped, overwritten by numbers, repeated or with other words for its own."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        if not found:
            break
        size = len(found)
        # headers are where the claims are
        place = st.integers(0, size - 1) | st.integers(0, min(size, 256) - 1)
        at = draw(place)
        how = draw(st.sampled_from(("cut", "blank", "flip", "number", "number", "word", "repeat", "drop")))
        if how == "cut":
            del found[at:]
        elif how == "blank":
            length = draw(st.integers(1, 64))
            found[at : at + length] = bytes(len(found[at : at + length]))
        elif how == "flip":
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "number":
            width, order = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(("little", "big")))
            number = draw(st.sampled_from(NUMBERS)) % 256**width
            found[at : at + width] = number.to_bytes(width, order)
        elif how == "word":
            end = at
            while end < size and found[end : end + 1].isalnum():
                end += 1
            found[at:end] = draw(st.sampled_from(WORDS))
        elif how == "repeat":
            length = draw(st.integers(1, 200))
            found[at:at] = found[at : at + length] * draw(st.sampled_from((1, 2, 50)))
        else:
            del found[at : at + draw(st.integers(1, 64))]
    return bytes(found)


def readable(kind: str, source: str, **options) -> list[str]:
    """What was wrong with a source and its samples, in words; other exceptions come through."""
    try:
        samples = KINDS[kind].open(source, **options)
        problems = [problem.reason for problem in samples.problems]
        for index in range(min(FEW, len(samples))):
            try:
                samples.read(index)
                if options.get("reading", {}).get("dense"):
                    samples.dense(index)
            except BadSample as problem:
                problems.append(problem.reason)
    except UserError as mistake:
        return [str(mistake)]
    return problems


def withstands(
    kind: str,
    folder: Path,
    parts: dict[str, Part | bytes],
    source: str = "",
    *,
    examples: int = 40,
    random: bool = False,
    **options,
) -> None:
    """Assert that a kind of data's reader takes no harm from `examples` sorts of damage to a source.

    Args:
        kind: of data.
        folder: to write in.
        parts: of the source, by relative path.
        source: what is opened, with ``{}`` for the folder; the only file where not given.
        examples: how many.
        random: others each time.
        options: of `Domain.open`.
    """
    held = {name: part if isinstance(part, Part) else Part(part) for name, part in parts.items()}
    source = (source or f"{{}}/{next(iter(held))}").format(folder / "data")
    process = os.fork()
    if process == 0:
        try:
            report = _all_damage(kind, folder, held, source, examples, random, options)
        except BaseException:
            report = [traceback.format_exc()]
        (folder / "report.json").write_text(json.dumps(report))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    ways = {-signal.SIGPROF: "hung", -signal.SIGALRM: "hung"}
    last = (folder / "last.txt").read_text() if (folder / "last.txt").exists() else "at its beginning"
    assert code == 0, f"the process {ways.get(code, f'ended with {code}')} over {last}, kept in {folder}/data"
    report = json.loads((folder / "report.json").read_text())
    assert not report, "\n\n".join(report)


def refuses(kind: str, folder: Path, parts: dict[str, bytes], source: str = "", **options) -> str:
    """What is said of a source that claims more than it holds; reading it takes neither memory nor time."""
    for name, content in parts.items():
        _put(folder / "data" / name, content)
    source = (source or f"{{}}/{next(iter(parts))}").format(folder / "data")
    process = os.fork()
    if process == 0:
        _limit()
        signal.setitimer(signal.ITIMER_PROF, PROCESSOR)
        signal.setitimer(signal.ITIMER_REAL, CLOCK)
        try:
            said = " ".join(readable(kind, source, **options))
        except BaseException:
            said = traceback.format_exc()
        (folder / "said.txt").write_text(said)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code == 0, f"the process ended with {code}"
    said = (folder / "said.txt").read_text()
    assert said, "it was read as if it were whole"
    assert "Traceback" not in said, said
    assert not MEMORY.search(said), said
    return said


def _all_damage(kind, folder, parts, source, examples, random, options) -> list[str]:
    """A description of each way in which the reader failed, none twice."""
    found: dict[str, str] = {}
    for name, part in parts.items():
        _put(folder / "data" / name, part.wrap(part.content))
    # imports what reading needs, so that the limit is on the data alone
    whole = readable(kind, source, **options)
    if whole:
        return [f"the undamaged source is not whole: {whole}"]
    _limit()
    seen = []
    sys.addaudithook(lambda event, arguments: seen.append(event) if event in FORBIDDEN else None)

    @hypothesis.settings(
        max_examples=examples, derandomize=not random, database=None, deadline=None,
        phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(st.data())
    def damage(data):
        name = data.draw(st.sampled_from(sorted(parts)))
        part = parts[name]
        if data.draw(st.booleans()):
            content = part.wrap(data.draw(edits(part.content)))
        else:
            content = data.draw(edits(part.wrap(part.content)))
        _put(folder / "data" / name, content)
        (folder / "last.txt").write_text(name)
        signal.setitimer(signal.ITIMER_PROF, PROCESSOR)
        signal.setitimer(signal.ITIMER_REAL, CLOCK)
        seen.clear()
        try:
            for reason in readable(kind, source, **options):
                if MEMORY.search(reason) and not (part.asks and "malloc" in reason):
                    found.setdefault("memory", _kept(folder, name, content, reason))
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "/anyjepa/" in f.filename]
            key = (
                f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}" if frames else repr(error)
            )
            if key not in found:
                found[key] = _kept(folder, name, content, traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
        for event in set(seen):
            found.setdefault(event, _kept(folder, name, content, f"the reader did {event}"))
        _put(folder / "data" / name, part.wrap(part.content))

    damage()
    return list(found.values())


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _kept(folder: Path, name: str, content: bytes, words: str) -> str:
    place = folder / "kept" / f"{len(list((folder / 'kept').glob('*')))}-{Path(name).name}"
    _put(place, content)
    return f"{name}, kept in {place}:\n{words}"
