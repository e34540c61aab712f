"""A pytest plugin: run tests without the measures that the environment names."""

import os

from tests.support.measures import switch_off
from tests.support.switch import LAUNCHER_VARIABLE, VARIABLE

switch_off(
    [name for name in os.environ.get(VARIABLE, "").split("|") if name],
    os.environ.get(LAUNCHER_VARIABLE, ""),
)
