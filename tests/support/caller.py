"""The probe, run in a sandbox that a careless caller starts."""

from pathlib import Path

from tests.conftest import Sbx
from tests.support import probe
from tests.support.host_things import SECRET, HostThings, run_hostile


def probe_under(sbx: Sbx, rootfs: Path, things: HostThings, *options: str) -> dict[str, str]:
    """Run the probe in a sandbox and read its lines."""
    words = [sbx.path, "run", *options, str(rootfs), "/probe", *things.words]
    done = run_hostile(words, things, sbx.env)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    return probe.parse(done.stdout)
