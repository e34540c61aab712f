"""Bounds and addresses that the parts of the process share."""

import socket

import pytest

from sandbox.services.network.user.setting import Bucket, Limits, Site
from tests.support.netspace import addresses

SITE = Site(*addresses())


def packed(text: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


@pytest.mark.parametrize(
    ("client", "seen"),
    [
        ("127.0.0.1", SITE.gateway4),
        ("127.9.9.9", SITE.gateway4),
        ("10.0.2.100", SITE.gateway4),
        ("10.0.2.3", SITE.gateway4),
        ("192.0.2.9", packed("192.0.2.9")),
        ("::1", SITE.gateway6),
        ("fe80::1", SITE.gateway6),
        ("::ffff:192.0.2.9", SITE.gateway6),
        ("fd00:73:6278::100", SITE.gateway6),
        ("2001:db8::1", packed("2001:db8::1")),
    ],
)
def test_a_client_is_seen_under_an_address_that_can_be_answered(client: str, seen: bytes) -> None:
    assert SITE.seen_as(packed(client)) == seen


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(10, 5)
    assert [bucket.take(100.0) for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.take(100.2) for _ in range(3)] == [True, True, False]
    assert [bucket.take(1000.0) for _ in range(6)] == [True] * 5 + [False]


def test_without_a_rate_there_is_no_limit() -> None:
    bucket = Bucket(0, 0)
    assert all(bucket.take(0.0) for _ in range(1000))


@pytest.mark.parametrize("descriptors", [64, 256, 1024, 4096, 20_000, 1 << 30])
def test_what_is_bounded_fits_the_descriptors(descriptors: int) -> None:
    limits = Limits({}, descriptors)
    used = 2 * limits.connections + limits.pending + limits.flows
    assert used <= max(descriptors, 64)
    assert limits.connections >= 16
    assert Limits({"connections": 7}, 20_000).connections == 7
