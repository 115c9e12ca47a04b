from __future__ import annotations

import pickle
import shutil
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.backends.errors import is_panic
from model.reading import tokenizer_processes
from model.reading.pairs import cut_pairs
from model.reading.tokenizer import Tokenizer
from model.reading.tokenizer_processes import ProcessLost, TokenizerProcesses, _Failure
from model.reading.windows import WindowLimits
from tests.model.texts import TRICKY_CONTEXTS, long_context
from tests.runs import read_parts, run

CONTEXTS = [*TRICKY_CONTEXTS.values(), long_context(), "[SEP] in a text", ""]

PanicException = type("PanicException", (BaseException,), {})


@pytest.fixture(scope="module")
def tokenizer(bert_folder: Path) -> TokenizerProcesses:
    return TokenizerProcesses(bert_folder, None, 2)


def running(tokenizer: TokenizerProcesses) -> list[subprocess.Popen]:
    """Return the processes that wait for texts."""
    return [process._process for process in tokenizer._places.queue if process]


def test_tokens_equal_those_of_this_process(
    tokenizer: TokenizerProcesses, bert_folder: Path
) -> None:
    here = Tokenizer(bert_folder)
    assert tokenizer.format == here.format
    for method in ("passages", "questions"):
        found, expected = (getattr(each, method)(CONTEXTS) for each in (tokenizer, here))
        for one, other in zip(astuple(found), astuple(expected), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_threads_wait_for_a_free_process(tokenizer: TokenizerProcesses) -> None:
    texts = [f"{'word ' * n}end" for n in range(40)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda text: len(tokenizer.questions([text])[0]), texts))
    assert found == [len(tokenizer.questions([text])[0]) for text in texts]
    assert 1 <= len(running(tokenizer)) <= 2


def test_an_error_is_raised_here(tokenizer: TokenizerProcesses) -> None:
    with pytest.raises(TypeError):
        tokenizer.passages([7])  # type: ignore[list-item]  # not text, to fail there
    assert len(tokenizer.questions(["still there"])) == 1


def test_an_error_that_can_not_be_sent_keeps_its_name_and_message() -> None:
    class Odd(ValueError):
        def __init__(self, one: str, other: str):
            super().__init__(f"{one} {other}")

    for error in (Odd("a", "b"), PanicException("a b")):
        failure = pickle.loads(pickle.dumps(_Failure.of(error)))
        described = failure.error()
        assert (type(described).__name__, str(described)) == (type(error).__name__, "a b")
    assert is_panic(_Failure.of(PanicException("a b")).error())
    assert type(_Failure.of(MemoryError("full")).error()) is MemoryError


@pytest.mark.parametrize("contexts", [["She did."], ["She did.", "It is."]])
def test_texts_on_which_a_process_ends_are_tried_again(
    bert_folder: Path, contexts: list[str]
) -> None:
    tokenizer = TokenizerProcesses(bert_folder, None, 1)
    tokenizer.questions(["one"])
    for _ in range(2):
        (process,) = running(tokenizer)
        process.kill()
        process.wait()
        pairs = cut_pairs(["who"] * len(contexts), contexts, tokenizer, WindowLimits())
        assert not pairs.problems and len(pairs.windows) == len(contexts)
        assert running(tokenizer) != [process]


def test_texts_on_which_two_processes_end_are_refused(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = TokenizerProcesses(bert_folder, None, 1)
    send, started = tokenizer_processes._send, []

    def end(connection: socket.socket, message: object) -> None:
        """End the process before it gets the texts."""
        (process,) = started[-1:]
        process._process.kill()
        process._process.wait()
        send(connection, message)

    class Remembered(tokenizer_processes._Process):
        def __init__(self, *arguments: Any):
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr(tokenizer_processes, "_Process", Remembered)
    monkeypatch.setattr(tokenizer_processes, "_send", end)
    with pytest.raises(ProcessLost, match="the process that tokenizes ended with exit code -9"):
        tokenizer.questions(["two"])
    assert len(started) == 2
    monkeypatch.undo()
    assert len(tokenizer.questions(["three"])) == 1


def test_a_process_that_can_not_start_fails_the_call_once(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(bert_folder, tmp_path / "model")
    tokenizer = TokenizerProcesses(folder, None, 2)
    shutil.rmtree(folder)
    start, started = subprocess.Popen, []
    monkeypatch.setattr(
        subprocess, "Popen", lambda *given, **more: started.append(given) or start(*given, **more)
    )
    said = "a process to tokenize in ended with exit code 1 before its first text"
    with pytest.raises(OSError, match=said):
        cut_pairs(["who", "what"], ["She did.", "It is."], tokenizer, WindowLimits())
    assert len(started) == 1


def test_no_socket_stays_open_without_a_process(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, ends = socket.socketpair, []

    def socketpair() -> tuple[socket.socket, socket.socket]:
        ends.extend(pair())
        return ends[0], ends[1]

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("too many processes")

    monkeypatch.setattr(socket, "socketpair", socketpair)
    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(OSError, match="too many processes"):
        TokenizerProcesses(bert_folder, None, 1).questions(["who"])
    assert [end.fileno() for end in ends] == [-1, -1]


SCRIPT = """
import os, signal, sys
from model.reading.tokenizer_processes import TokenizerProcesses
tokenizer = TokenizerProcesses(sys.argv[1], None, 1)

def pid():
    (process,) = tokenizer._places.queue
    return process._process.pid

expected = tokenizer.questions(["in the first"]).values.tolist()
first = pid()
if not os.fork():
    assert tokenizer.questions(["in the first"]).values.tolist() == expected
    print(first, pid(), flush=True)
    os._exit(0)
assert os.wait()[1] == 0
assert tokenizer.questions(["in the first"]).values.tolist() == expected
assert pid() == first
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_fork_has_processes_of_its_own_and_none_outlives_its_owner(bert_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, bert_folder], capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr
    pids = set(map(int, done.stdout.split()))
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Return whether a process runs. One that ended but that nobody has waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("stage", ["annotate", "audit"])
def test_a_run_has_the_same_parts(stage: str, bert_folder: Path, tmp_path: Path) -> None:
    parts = []
    for processes in (0, 2):
        output = tmp_path / str(processes)
        arguments = ["--input=bundled", "--limit=40", f"--model={bert_folder}", "--device=cpu"]
        assert (
            run(stage, *arguments, f"--output={output}", f"--tokenizer_processes={processes}") == 0
        )
        parts.append(read_parts(output))
    assert parts[0].equals(parts[1])
