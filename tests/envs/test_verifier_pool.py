"""Verifiers that hang, die and raise in processes of their own."""

import contextlib
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from rljax.envs import verifier_pool, verifiers
from rljax.envs.verifiers import Failure
from tests.envs import broken_verifier, odd_verifiers

SECONDS = 5.0  # enough for an answer on a busy machine
LATE = Failure("no verdict within 5 s", timed_out=True)
RAISED = Failure("ValueError: this answer breaks the verifier")


def alive(number):
    """Whether there is such a process; one that has ended and is not asked for is."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    stat = pathlib.Path(f"/proc/{number}/stat")
    return not (stat.exists() and stat.read_text().split(")")[1].split()[0] == "Z")


def reason(verdict):
    assert isinstance(verdict, Failure)
    return verdict.reason


def numbers(judge, count):
    """The processes that answer."""
    return {int(reason(one).split()[1]) for one in judge([("", "")] * count)}


def gone(numbers, seconds=10.0):
    """Whether all these processes are gone, now or soon."""
    end = time.monotonic() + seconds
    while any(map(alive, numbers)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, numbers))


@pytest.mark.parametrize("workers", [1, 3])
def test_each_failure_costs_its_own_answer_and_the_order_stays(workers):
    said = ["1", "raise", "exit", "0", "quit", *"1010", "raise", "1"]
    pairs = [("1", one) for one in said]
    # The first answer is slow: with more workers others are judged before it.
    pairs[0] = ("sleep0.5", "sleep0.5")
    with verifier_pool.open_pool(odd_verifiers.equal, workers, SECONDS) as judge:
        found = judge(pairs)
        assert judge(pairs) == found and judge([]) == []
    expected = [
        True, RAISED, Failure("its process is gone: it ended with status 3"), False,
        Failure("its process is gone: it ended with status 4"),
        True, False, True, False, RAISED, True,
    ]  # fmt: skip
    assert found == expected


def test_a_verifier_that_hangs_costs_one_answer_and_its_worker():
    pairs = [("1", "1"), ("1", "hang"), *[("1", "1"), ("1", "0")] * 20]
    with verifier_pool.open_pool(odd_verifiers.equal, 2, SECONDS) as judge:
        began = time.monotonic()
        found = judge(pairs)
        taken = time.monotonic() - began
        assert judge([("1", "1")] * 3) == [True] * 3  # with whom took its place
    assert found == [True, LATE, *[True, False] * 20]
    assert SECONDS <= taken < 2 * SECONDS


def test_the_time_is_that_of_an_answer_and_not_of_all():
    slow = [("sleep0.4", "sleep0.4")] * 4
    with verifier_pool.open_pool(odd_verifiers.equal, 1, 1.4) as judge:
        assert judge(slow) == [True] * 4


def test_workers_know_nothing_of_the_run_and_end_with_it():
    import jax

    assert "jax" in sys.modules and jax
    with verifier_pool.open_pool(odd_verifiers.who, 2, SECONDS) as judge:
        found = judge([("", "")] * 20)
        assert all(reason(one).endswith("jax=False") for one in found)
        crew = numbers(judge, 20)
        assert os.getpid() not in crew and all(map(alive, crew))
    assert gone(crew, 0)
    with pytest.raises(ZeroDivisionError):
        with verifier_pool.open_pool(odd_verifiers.who, 2, SECONDS) as judge:
            crew = numbers(judge, 20)
            raise ZeroDivisionError
    assert gone(crew, 0)


def test_a_call_that_is_broken_off_leaves_no_verdict_to_the_next():
    def interrupt(*_):
        raise KeyboardInterrupt

    with verifier_pool.open_pool(odd_verifiers.equal, 1, SECONDS) as judge:
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt):
                judge([("sleep1", "sleep1")])
        finally:
            signal.signal(signal.SIGALRM, before)
        time.sleep(1.2)  # by now the old answer would be there
        assert judge([("1", "0")]) == [False]


def test_a_worker_that_dies_between_two_calls_is_replaced():
    with verifier_pool.open_pool(odd_verifiers.who, 1, SECONDS) as judge:
        (first,) = numbers(judge, 1)
        os.kill(first, signal.SIGKILL)
        assert gone([first])
        (second,) = numbers(judge, 1)
        assert second != first


def test_what_a_hung_verifier_started_ends_with_it(tmp_path):
    note = tmp_path / "number"
    with verifier_pool.open_pool(odd_verifiers.child, 1, 1.0) as judge:
        (found,) = judge([(str(note), "")])
    assert isinstance(found, Failure) and found.timed_out
    assert gone([int(note.read_text())])


def test_workers_end_when_the_run_is_killed(tmp_path):
    """Idle ones at once, since their line closes."""
    program = (
        "import os, sys\n"
        "from rljax.envs import verifier_pool\n"
        "from tests.envs import odd_verifiers\n"
        "with verifier_pool.open_pool(odd_verifiers.who, 2, 60) as judge:\n"
        "    found = judge([('', '')] * 20)\n"
        "    print(*(one.reason.split()[1] for one in found), flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    crew = {int(number) for number in done.stdout.split()}
    assert done.returncode == -signal.SIGKILL and crew
    assert gone(crew)


def test_a_worker_that_hangs_when_nobody_is_left_ends_itself():
    ours, theirs = multiprocessing.Pipe()
    number = str(theirs.fileno())
    command = [sys.executable, "-m", "rljax.envs.verifier_worker", number]
    worker = subprocess.Popen(
        [*command, "tests.envs.odd_verifiers:equal", "0.5"],
        pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with ours, theirs:
        assert json.loads(ours.recv_bytes()) == {"ready": True}
        ours.send_bytes(json.dumps(["", "hang"]).encode())
        assert worker.wait(timeout=30) == 1


def test_long_texts_and_any_characters_arrive():
    texts = ["x" * 1_000_000, "\udc80 \x00 é 𝄞 \n", ""]
    with verifier_pool.open_pool(odd_verifiers.equal, 2, SECONDS) as judge:
        assert judge([(text, text) for text in texts]) == [True] * 3
        assert judge([(text, text + ".") for text in texts]) == [False] * 3


def nested():
    return lambda answer, response: True


@pytest.mark.parametrize("verify", [nested(), lambda a, b: True])
def test_only_what_has_a_name_can_be_imported(verify):
    with pytest.raises(ValueError, match="a function at the top of a module"):
        verifier_pool.name_of(verify)


@pytest.mark.parametrize(("workers", "seconds"), [(0, 1), (1, 0), (1, float("nan"))])
def test_impossible_numbers_are_refused(workers, seconds):
    with pytest.raises(ValueError, match=f"got {workers} and {seconds}"):
        with verifier_pool.open_pool(odd_verifiers.equal, workers, seconds):
            pass


def test_a_verifier_that_cannot_be_imported_says_so():
    match = "did not start: ImportError: what this verifier needs is not installed"
    with pytest.raises(RuntimeError, match=match), contextlib.ExitStack() as stack:
        pool = verifier_pool.open_pool(broken_verifier.verify, 2, SECONDS)
        stack.enter_context(pool)


def test_in_turn_is_the_same_without_processes():
    said = ["1", "raise", "0"]
    found = verifiers.in_turn(odd_verifiers.equal)([("1", one) for one in said])
    assert found == [True, RAISED, False]
