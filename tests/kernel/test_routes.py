"""The host's routing tables tell whose an address is."""

import socket

from sandbox.services.network.user.routes import Routes


def test_local_and_foreign_addresses() -> None:
    with Routes() as routes:
        assert routes.own(socket.inet_aton("127.0.0.1"))
        assert routes.own(socket.inet_aton("127.9.9.9"))
        assert routes.own(socket.inet_aton("255.255.255.255"))
        assert not routes.own(socket.inet_aton("198.51.100.1"))


def test_every_address_of_this_machine_is_its_own() -> None:
    with Routes() as routes, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # The kernel picks the source address of a route; nothing is sent.
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            return
        assert routes.own(socket.inet_aton(probe.getsockname()[0]))


def test_no_answer_means_own() -> None:
    routes = Routes()
    routes.close()
    assert routes.own(socket.inet_aton("198.51.100.1"))
    assert not routes.leads_ipv6()
