"""Signals to a driver reach whatever it has begun."""

import signal
import sys
import threading

from experiments import driver


def test_a_signal_while_a_process_begins_reaches_it(tmp_path, monkeypatch):
    driving = driver.Driver(jobs=1)
    begun = []

    class Process:
        """Begins slowly: the signal comes when it runs and nobody has it yet."""

        def __init__(self, command, **_):
            self.heard = threading.Event()
            self.command = command
            begun.append(self)
            given = (signal.SIGTERM, None)
            self.other = threading.Thread(target=driving.stop, args=given)
            self.other.start()
            self.other.join(0.2)

        def send_signal(self, number):
            assert number == signal.SIGTERM
            self.heard.set()

        def wait(self):
            self.other.join()
            return -signal.SIGTERM if self.heard.wait(2) else 0

    monkeypatch.setattr(driver.subprocess, "Popen", Process)
    one, two = (driver.Job(n, [sys.executable, n], tmp_path / n) for n in "ab")
    assert driving.all([one, two]) == []  # stopped, not failed
    assert driving.stopped and not driving.live
    assert [process.command for process in begun] == [one.command]
    assert begun[0].heard.is_set()


def test_a_second_signal_may_come_while_the_first_is_passed_on():
    driving, heard = driver.Driver(jobs=1), []

    class Process:
        def send_signal(self, number):
            heard.append(number)
            if len(heard) == 1:
                driving.stop(signal.SIGTERM, None)

    driving.live.add(Process())  # pyrefly: ignore
    driving.stop(signal.SIGINT, None)
    assert heard == [signal.SIGINT, signal.SIGTERM]
