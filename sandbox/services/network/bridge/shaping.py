"""Bandwidth, delay and loss of one sandbox's cable, by queueing disciplines over netlink (tc(8)).

What the sandbox sends waits at its own end, what it receives at the host's; delay and loss are done
to what it sends alone, so that two sandboxes with 10 ms each are 20 ms apart and back. The payload
has no rights over either end.
"""

from __future__ import annotations

import errno
from struct import Struct

from sandbox.errors import HostError, SetupError
from sandbox.linux.netlink import (
    ACK,
    CREATE,
    REPLACE,
    REQUEST,
    ROUTE,
    ask,
    attribute,
    message,
    nested,
    numbered,
    text,
)
from sandbox.record import Record

_NEWQDISC = 36
_ROOT = 0xFFFFFFFF
_HEADER = Struct("=BxxxiIII")  # tcmsg
_RATE = Struct("=BBHhHI")  # tc_ratespec
_TBF = Struct("=12s12sIII")  # tc_tbf_qopt
_NETEM = Struct("=IIIIII")  # tc_netem_qopt
_NETEM_RATE = Struct("=IiIi")  # tc_netem_rate
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_NETEM_RATE_KIND, _NETEM_RATE64, _NETEM_LATENCY64 = 6, 8, 10
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: no table of rates is needed
_TICKS_PER_US = 15.625  # psched: a tick is 64 ns
_QUEUE_PACKETS = 10000
_LATENCY_S = 0.05


class Shape(Record):
    """`rate` in bits a second, `delay` in seconds, `loss` in percent; 0 is nothing of it."""

    rate: int = 0
    delay: float = 0.0
    loss: float = 0.0


def shape(index: int, wanted: Shape, *, over: int = -1) -> None:
    """Do it to what a link sends; `over` as in netlink.ask. Raises HostError, SetupError."""
    kind, body = _discipline(wanted)
    if not kind:
        return
    try:
        ask(ROUTE, numbered([_message(index, kind, body)]), over=over)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise HostError(
                "cannot shape the sandbox's network",
                cause=f"the kernel has no {kind} (CONFIG_NET_SCH_{kind.upper()})",
                hint="--net-rate alone needs less than --net-delay and --net-loss"
                if kind == "netem"
                else f"load it: modprobe sch_{kind}",
            ) from error
        raise SetupError(
            "cannot shape the sandbox's network",
            cause=(error.strerror or "").lower(),
            errno=error.errno or 0,
            phase="network",
        ) from error


def _message(index: int, kind: str, options: bytes) -> bytes:
    body = _HEADER.pack(0, index, 0, _ROOT, 0) + text(1, kind) + options  # TCA_KIND
    return message(_NEWQDISC, REQUEST | ACK | CREATE | REPLACE, body)


def _discipline(wanted: Shape) -> tuple[str, bytes]:
    """(kind, TCA_OPTIONS); a rate alone is tbf's, which more kernels have than netem."""
    rate = wanted.rate // 8
    if wanted.delay or wanted.loss:
        lost = round(wanted.loss / 100 * 0xFFFFFFFF)
        head = _NETEM.pack(0, _QUEUE_PACKETS, lost, 0, 0, 0)
        rest = attribute(_NETEM_LATENCY64, round(wanted.delay * 1e9).to_bytes(8, "little"))
        if rate:
            rest += attribute(_NETEM_RATE64, rate.to_bytes(8, "little"))
            rest += attribute(_NETEM_RATE_KIND, _NETEM_RATE.pack(min(rate, 0xFFFFFFFF), 0, 0, 0))
        return "netem", attribute(2, head + rest)
    if rate:
        # Enough for a segment that the kernel cuts late, and for what a tick of the clock lets by.
        burst = max(70000, rate // 250)
        limit = burst + int(rate * _LATENCY_S)
        spec = _RATE.pack(0, _ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))
        head = _TBF.pack(spec, bytes(12), min(limit, 0xFFFFFFFF), _ticks(burst, rate), 0)
        parts = [attribute(_TBF_PARMS, head), attribute(_TBF_BURST, burst.to_bytes(4, "little"))]
        if rate > 0xFFFFFFFF:
            parts.append(attribute(_TBF_RATE64, rate.to_bytes(8, "little")))
        return "tbf", nested(2, *parts)
    return "", b""


def _ticks(size: int, rate: int) -> int:
    return min(round(size / rate * 1e6 * _TICKS_PER_US), 0xFFFFFFFF)
