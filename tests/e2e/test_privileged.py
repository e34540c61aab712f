"""What only root can ask for: a normal user is told so."""

from pathlib import Path

import pytest

from tests.conftest import Sbx


@pytest.mark.parametrize(
    "options", [("--privileged",), ("--device", "/dev/null"), ("--policy", "POLICY")]
)
def test_a_normal_user_is_told(
    sbx: Sbx, rootfs: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    policy = tmp_path / "mine.toml"
    policy.write_text('extends = "default"\n[filesystem]\nguard = false\n')
    words = [str(policy) if word == "POLICY" else word for word in options]
    done = sbx("run", *words, rootfs, "true")
    assert done.returncode == 125
    assert "error: only root can have" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_capabilities_are_those_of_the_sandbox(sbx: Sbx, rootfs: Path) -> None:
    """In a user namespace of its own; strict refuses even that."""
    done = sbx("run", "--root", "--cap-add", "ALL", rootfs, "touch", "/sys/kernel/x")
    assert done.returncode == 1
    strict = sbx("run", "--policy", "strict", "--cap-add", "ALL", rootfs, "true")
    assert strict.returncode == 125
    assert "the policy strict refuses all capabilities" in strict.stderr
