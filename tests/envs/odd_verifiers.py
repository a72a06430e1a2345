"""Verifiers that go wrong in every way, for the processes of a pool to import."""

import os
import sys
import time


def equal(answer, response):
    """Right if the two are one text; some responses make it go wrong.

    It prints, as verifiers do.
    """
    print("judging", response)
    if response == "raise":
        raise ValueError("this answer breaks the verifier")
    if response == "exit":
        os._exit(3)
    if response == "quit":
        sys.exit(4)
    if response == "hang":
        while True:
            pass
    if response.startswith("sleep"):
        time.sleep(float(response[5:]))
    return answer == response


def even(answer, response):
    """Right if the response has an even number of characters."""
    return len(response) % 2 == 0


def late(answer, response):
    """Hangs at half of the responses, and raises at the others."""
    if even(answer, response):
        time.sleep(1e6)
    raise ValueError("an odd response")


def who(answer, response):
    """Raises with the process that judges and what it has imported."""
    raise LookupError(f"{os.getpid()} jax={'jax' in sys.modules}")


def child(answer, response):
    """Leaves a process of its own behind, whose number it writes down, and hangs."""
    number = os.fork()
    if number:
        with open(answer, "w") as file:
            file.write(str(number))
    while True:
        time.sleep(1)
