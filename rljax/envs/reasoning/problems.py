"""What a problem is."""

from typing import NamedTuple


class Problem(NamedTuple):
    """One problem, with its answer for the verifier and maybe a written solution."""

    task: str  # its name; attempts at one problem share it
    prompt: str  # what the policy reads
    answer: str  # what a verifier compares with
    solution: str = ""  # steps and answer, to learn from; "" where there is none
