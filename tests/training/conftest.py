"""The off-policy loop, compiled and run once for all tests that look at it."""

import pytest

from rljax.training import devices
from tests.training.off_policy_run import (
    Machine,
    Past,
    Setting,
    machine,
    make_setting,
    play,
)


@pytest.fixture(scope="session")
def setting() -> Setting:
    return make_setting()


@pytest.fixture(scope="session")
def one(setting) -> Machine:
    return machine(setting, devices.jit())


@pytest.fixture(scope="session")
def eight(setting) -> Machine:
    return machine(setting, devices.pmap(8))


@pytest.fixture(scope="session")
def past(one) -> Past:
    return play(one)
