"""The driver of user mode, as far as nothing is started."""

import socket

import pytest

from sandbox.errors import HostError
from sandbox.policy.load import Layer, load_policy
from sandbox.policy.merge import build_policy
from sandbox.services.network.user.driver import UserNetwork


def test_a_busy_port_is_told_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        wanted = Layer("test", {"network": {"mode": "user", "publish": [f"{port}:80"]}}, {})
        policy = build_policy([*load_policy("default"), wanted])
        with pytest.raises(HostError) as raised:
            UserNetwork(policy, "box", lambda _what, _why: None)
    assert raised.value.what == f"cannot publish 127.0.0.1:{port} ({port}:80)"
    assert raised.value.cause == "address already in use"
