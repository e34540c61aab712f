"""The matrix: with one measure switched off, the tests that stand beside it turn red."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Sbx
from tests.support.caller import probe_under
from tests.support.host_things import HostThings
from tests.support.measures import MEASURES, matrix
from tests.support.switch import LAUNCHER_VARIABLE, SOURCE, VARIABLE, Measure, Probe, make_command

TEST_FAILED = 1
SETUP_FAILED = 125


def sbx_without(folder: Path, sbx: Sbx, *measures: Measure) -> Sbx:
    """An sbx of its own caches: a filter compiled without a rule must not be another's."""
    command = make_command(folder / "command", list(measures))
    names = ("cache", "config", "state")
    env = {k: v for k, v in sbx.env.items() if not k.startswith("COVERAGE_")}
    env |= {f"XDG_{name.upper()}_HOME": str(folder / name) for name in names}
    return Sbx(str(command), folder, env)


def outcome_of(test: str, measure: Measure, sbx: Sbx) -> int:
    """Run one test in a pytest of its own, against this sbx; its exit code."""
    launcher = Path(sbx.path).with_name("sbx-launcher")
    env = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    env |= {"SBX_TEST_SBX": sbx.path, VARIABLE: measure.name}
    # A test that turns red may leave a sandbox that nobody could end.
    env["XDG_STATE_HOME"] = sbx.env["XDG_STATE_HOME"]
    env |= {LAUNCHER_VARIABLE: str(launcher)} if launcher.exists() else {}
    words = ["-q", "-x", "-p", "no:cacheprovider", "-p", "tests.support.without", test]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        env=env,
        cwd=SOURCE,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    print(done.stdout[-4000:], done.stderr[-2000:])
    return done.returncode


@pytest.mark.parametrize("name", list(MEASURES))
def test_without(
    sbx: Sbx, probe_rootfs: Path, host_things: HostThings, tmp_path: Path, name: str
) -> None:
    measure = MEASURES[name]
    lacking = sbx_without(tmp_path / "without", sbx, measure)
    if not any(isinstance(red, Probe) for red in measure.red):  # which ends only where it starts
        done = lacking("run", probe_rootfs, "/probe", "--ids")
        assert done.returncode == (0 if measure.starts else SETUP_FAILED), done.stderr
    for red in measure.red:
        if isinstance(red, Probe):
            found = probe_under(lacking, probe_rootfs, host_things, *red.options)
            assert found[red.check] != "", red
        else:
            assert outcome_of(red, measure, lacking) == TEST_FAILED, red


def test_with_all_of_them_nothing_is_red(
    sbx: Sbx, probe_rootfs: Path, host_things: HostThings, tmp_path: Path
) -> None:
    """Each probe of the matrix, in the same way, but with nothing missing."""
    complete = sbx_without(tmp_path / "complete", sbx)
    wanted: dict[tuple[str, ...], set[str]] = {}
    for measure in MEASURES.values():
        for red in measure.red:
            if isinstance(red, Probe):
                wanted.setdefault(red.options, set()).add(red.check)
    for options, checks in wanted.items():
        found = probe_under(complete, probe_rootfs, host_things, *options)
        assert {name: found[name] for name in checks} == dict.fromkeys(checks, ""), options


def test_the_matrix(capsys: pytest.CaptureFixture[str]) -> None:
    """It is printed into the log of the tests that have just shown it."""
    with capsys.disabled():
        print("\n" + "\n".join(matrix()))
