"""Delay, loss and rate of a sandbox's cable. Times are lower bounds: a slow machine passes too."""

import json

from tests.support.worlds import Host

NETWORK = ("--read-only", "--network", "slow")
PING = ("ping", "-q", "-n", "-i", "0.2", "-c", "3", "-W")


def fastest_ms(shown: str) -> float:
    """The shortest way there and back of three."""
    assert "3 received" in shown
    return float(shown.rsplit("= ", 1)[1].split("/")[0])


def test_what_a_sandbox_sends_is_late_or_lost(host: Host) -> None:
    """On a network of such; what a sandbox itself asks for comes first."""
    host.good("network", "create", "slow", "--net-delay", "200ms", "--net-rate", "8M")
    host.detach("far", *NETWORK)
    host.detach("mute", *NETWORK, "--net-loss", "100%")
    far, mute = sorted(host.network("slow")["sandboxes"], key=lambda each: str(each["name"]))
    assert fastest_ms(host(*PING, 30, far["addresses"][0])) >= 200
    lost = host.try_to(*PING, 2, mute["addresses"][0])
    assert (lost.returncode, " 0 received" in lost.stdout) == (1, True), lost

    nearer = (*NETWORK, "--net-delay", "100ms", host.root)
    both = host.good("run", *nearer, *PING, 30, far["addresses"][0])
    assert fastest_ms(both) >= 300

    init = json.loads(host.good("inspect", "mute"))[0]["init_pid"]
    inside = host("nsenter", "-t", init, "-n", "tc", "qdisc", "show", "dev", "eth0")
    for word in ("netem", "delay 200ms", "loss 100%", "rate 8Mbit"):
        assert word in inside
    outside = host("tc", "qdisc", "show", "dev", mute["link"])
    for word in ("tbf", "rate 8Mbit"):
        assert word in outside
