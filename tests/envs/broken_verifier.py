"""A verifier that only its own process can import: it breaks in any other."""

import os

HERE = os.environ.setdefault("RLJAX_TEST_BROKEN_VERIFIER", str(os.getpid()))
if str(os.getpid()) != HERE:
    raise ImportError("what this verifier needs is not installed")


def verify(answer, response):
    """Never asked."""
    return answer == response
