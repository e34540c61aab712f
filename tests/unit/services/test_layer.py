"""Folders of --persist: the one that is locked is the one that the plan is for."""

from pathlib import Path

import pytest

from sandbox.errors import SbxError
from sandbox.plan.request import Plan
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy
from sandbox.runtime.decision import prepare
from sandbox.runtime.task import Task
from sandbox.services.storage.layer import open_layer


def test_a_plan_for_another_folder_is_refused(tmp_path: Path) -> None:
    root, kept = tmp_path / "root", tmp_path / "kept"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "true").write_bytes(b"#!")
    (root / "bin" / "true").chmod(0o755)
    layer = open_layer(str(kept), str(root))
    policy = build_policy(load_policy("default"))
    policy = policy.replace(filesystem=policy.filesystem.replace(persist=str(kept)))

    def plan() -> Plan:
        return prepare(policy, Task(str(root), ("/bin/true",))).plan

    try:
        assert layer.record(plan()) == []
        kept.rename(tmp_path / "aside")
        kept.mkdir()
        with pytest.raises(SbxError, match="cannot use") as refused:
            layer.record(plan())
        assert "another folder" in refused.value.cause
    finally:
        layer.close()
