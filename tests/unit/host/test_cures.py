"""Commands to copy: what they say, that a shell reads them, that no device is open to all."""

from __future__ import annotations

import os
import subprocess

import pytest

from sandbox.host import cures, userns

PROGRAMS = ("apt-get", "dnf", "zypper", "pacman", "apk", "grubby", "update-grub")


def having(monkeypatch: pytest.MonkeyPatch, *names: str, udev: bool = True) -> None:
    monkeypatch.setattr(cures, "_exists", lambda name: name in names)
    monkeypatch.setattr(os.path, "exists", lambda _: True)
    monkeypatch.setattr(os.path, "isdir", lambda _: udev)


def all_cures() -> list[str]:
    return [
        cures.setting("user.max_user_namespaces", 15000),
        cures.module("overlay"),
        cures.boot_option("lsm=landlock,capability"),
        cures.id_helpers(installed=True),
        cures.id_helpers(installed=False),
        cures.tun_access("ana"),
        userns.apparmor_profile("/usr/bin/python3"),
    ]


@pytest.mark.parametrize("program", ["", *PROGRAMS])
@pytest.mark.parametrize("udev", [False, True])
def test_a_shell_can_read_them(monkeypatch: pytest.MonkeyPatch, program: str, udev: bool) -> None:
    having(monkeypatch, program, udev=udev)
    texts = all_cures()
    monkeypatch.undo()
    for text in texts:
        done = subprocess.run(["sh", "-n", "-c", text], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b""), text
        assert "666" not in text
        assert "777" not in text


def test_the_installer_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, "apt-get")
    assert cures.id_helpers(installed=False) == "sudo apt-get install -y uidmap"
    assert cures.id_helpers(installed=True) == "sudo apt-get install --reinstall -y uidmap"
    having(monkeypatch, "dnf")
    assert cures.id_helpers(installed=True) == "sudo dnf reinstall -y shadow-utils"
    having(monkeypatch)
    assert cures.id_helpers(installed=False) == ""
    assert "chmod u+s" in cures.id_helpers(installed=True)


def test_boot_options(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, "grubby")
    assert '--args="lsm=x"' in cures.boot_option("lsm=x")
    having(monkeypatch, "update-grub")
    assert 's/^GRUB_CMDLINE_LINUX="/&lsm=x /' in cures.boot_option("lsm=x")
    having(monkeypatch)
    assert cures.boot_option("lsm=x").startswith("# ")


def test_the_tun_device_is_given_to_one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, udev=True)
    assert 'GROUP="tun", MODE="0660"' in cures.tun_access("ana")
    assert "usermod -aG tun ana" in cures.tun_access("ana")
    having(monkeypatch, udev=False)
    assert cures.tun_access("ana") == "sudo setfacl -m u:ana:rw /dev/net/tun"
