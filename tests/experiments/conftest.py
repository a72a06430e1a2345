"""What several files of tests begin with, made once."""

import pytest

from tests.experiments import logged_runs


@pytest.fixture(scope="session")
def begun(tmp_path_factory):
    """The workdir of sft, and a log of right and wrong answers."""
    return logged_runs.begin(tmp_path_factory.mktemp("offline"))
