"""The file that names published ports."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.errors import SetupError
from sandbox.services.network.ports import Port, record_ports

PORTS = (Port("127.0.0.1", 8080, 80), Port("::", 53, 5353, "udp"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    """A descriptor of `tmp_path`."""
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_what_is_written_is_json(folder: int, tmp_path: Path) -> None:
    record_ports(folder, PORTS)
    assert json.loads((tmp_path / "ports").read_text()) == [
        {"protocol": "tcp", "address": "127.0.0.1", "port": 8080, "inner": 80},
        {"protocol": "udp", "address": "::", "port": 53, "inner": 5353},
    ]
    assert (tmp_path / "ports").stat().st_mode & 0o777 == 0o600


def test_without_ports_there_is_no_file(folder: int, tmp_path: Path) -> None:
    record_ports(folder, ())
    assert not list(tmp_path.iterdir())


def test_what_stands_there_is_not_followed(folder: int, tmp_path: Path) -> None:
    (tmp_path / "ports").symlink_to("elsewhere")
    with pytest.raises(SetupError) as caught:
        record_ports(folder, PORTS)
    assert caught.value.cause == "file exists"
    assert not (tmp_path / "elsewhere").exists()
