"""`sbx network`: the host's networks that root's sandboxes are plugged into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from sandbox.cli import render
from sandbox.cli.completion import Text
from sandbox.cli.groups import CommandGroup
from sandbox.errors import SbxError, StateError, UsageError
from sandbox.policy import fields
from sandbox.policy.model import NETWORK_MODES
from sandbox.policy.units import format_duration, format_rate
from sandbox.services.network.bridge import upkeep
from sandbox.services.network.bridge.definitions import DEFAULT, MTU, Definition, Gate, load, names
from sandbox.services.network.bridge.subnets import Subnet, check_subnet, parse_subnet

if TYPE_CHECKING:
    from collections.abc import Callable

_MTU_MIN, _MTU_MAX = 1280, 65535  # IPv6's least, veth's most

debug = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks and times.")
command = CommandGroup("network", help="Make, list and remove networks of the host's (as root).")


def _name(text: str) -> str:
    if not text or text == "container" or (text in NETWORK_MODES and text != DEFAULT):
        raise UsageError(f'"{text}" cannot name a network', hint="choose another name")
    return str(_read("NAME", fields.network_name, text))


def _read(option: str, check: Callable[[Any], Any], text: object) -> Any:
    try:
        return check(text)
    except fields.Bad as error:
        raise UsageError(f"{option}: {error.findings[0][1]}") from error
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def _subnet(text: str) -> Subnet:
    found = parse_subnet(text)
    check_subnet(found)
    return found


@command.command("create", short_help="Make a network.")
@click.argument("name", type=Text("NAME"))
@click.option(
    "--subnet",
    "subnets",
    multiple=True,
    metavar="CIDR",
    help="The addresses of the network; give it twice for IPv4 and IPv6. "
    "What is not given is chosen free of the host's routes.",
)
@click.option("--no-ipv6", is_flag=True, help="No IPv6 on this network.")
@click.option("--internal", is_flag=True, help="No way out: sandboxes reach each other only.")
@click.option("--isolate", is_flag=True, help="Sandboxes of this network do not reach each other.")
@click.option("--mtu", type=int, default=MTU, metavar="BYTES", help="The biggest packet (1500).")
@click.option("--net-rate", metavar="RATE", help="Each sandbox's bandwidth, such as 10M bits/s.")
@click.option("--net-delay", metavar="DURATION", help="The delay of what a sandbox sends.")
@click.option("--net-loss", metavar="PERCENT", help="How much of what a sandbox sends is lost.")
@debug
def create(
    name: str,
    subnets: tuple[str, ...],
    no_ipv6: bool,
    internal: bool,
    isolate: bool,
    mtu: int,
    net_rate: str | None,
    net_delay: str | None,
    net_loss: str | None,
) -> int:
    """Make the network NAME; its bridge comes up with the first sandbox on it."""
    _name(name)
    found = [_read("--subnet", _subnet, text) for text in subnets]
    if len({len(each.base) for each in found}) < len(found):
        raise UsageError("--subnet: one of each family is enough")
    if no_ipv6 and any(len(each.base) == 16 for each in found):
        raise UsageError("--no-ipv6: --subnet has an IPv6 network")
    if not _MTU_MIN <= mtu <= _MTU_MAX:
        raise UsageError(f"--mtu: must be {_MTU_MIN} to {_MTU_MAX}, found {mtu}")
    more = {
        "rate": _read("--net-rate", fields.bit_rate, net_rate or 0),
        "delay": _read("--net-delay", fields.short_delay, net_delay or 0),
        "loss": _read("--net-loss", fields.percent, net_loss or 0),
    }
    with Gate():
        made = upkeep.define(
            name,
            tuple(found),
            ipv6=not no_ipv6,
            internal=internal,
            isolate=isolate,
            mtu=mtu,
            **more,
        )
    render.show(made.name)
    return 0


@command.command("ls", short_help="List the networks.")
@click.option("--json", "as_json", is_flag=True, help="Show them as JSON.")
@debug
def list_networks(as_json: bool) -> int:
    """List the networks: their bridge, addresses, and how many sandboxes are on them."""
    with Gate():
        found = [upkeep.describe(network) for network in _readable()]
    if as_json:
        render.show_json(found)
        return 0
    rows = [("NAME", "BRIDGE", "SUBNETS", "STATE", "SANDBOXES", "WHAT IS SPECIAL")]
    for each in found:
        subnets = " ".join(filter(None, (str(each["subnet4"]), str(each["subnet6"]))))
        state = "up" if each["up"] else "down"
        many = len(each["sandboxes"])  # type: ignore[arg-type]
        rows.append(
            (str(each["name"]), str(each["bridge"]), subnets, state, str(many), _special(each))
        )
    render.show(*render.table(rows))
    return 0


def _special(each: dict[str, object]) -> str:
    words = [word for word in ("internal", "isolate") if each[word]]
    if each["rate"]:
        words.append(f"{format_rate(int(str(each['rate'])))}bit/s")
    if each["delay"]:
        words.append(f"{format_duration(float(str(each['delay'])))} delay")
    if each["loss"]:
        words.append(f"{each['loss']}% loss")
    return " ".join(words) or "-"


def _readable() -> list[Definition]:
    found = []
    for name in names():
        try:
            network = load(name)
        except StateError as error:
            render.warn(error.what, error.cause)
            continue
        if network:
            found.append(network)
    return found


@command.command("inspect", short_help="Show everything that is known of networks.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@debug
def inspect(names: tuple[str, ...]) -> int:
    """Show networks as JSON, with the sandboxes on them."""
    with Gate():
        render.show_json([upkeep.describe(_existing(name)) for name in names])
    return 0


def _existing(name: str) -> Definition:
    found = load(_name(name))
    if found is None:
        hint = "see which there are with: sbx network ls"
        raise StateError(f'no network "{name}"', cause="none has this name", hint=hint)
    return found


@command.command("rm", short_help="Remove networks.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@debug
def remove(names: tuple[str, ...]) -> int:
    """Remove networks that no sandbox is on, with all that the kernel holds of them."""
    problems: list[SbxError] = []
    for name in names:
        try:
            with Gate():
                upkeep.remove(_name(name))
            render.show(name)
        except SbxError as error:
            render.show_error(error)
            problems.append(error)
    return problems[0].exit_code if problems else 0


@command.command("prune", short_help="Remove all networks that no sandbox is on.")
@debug
def prune() -> int:
    """Remove all networks that no sandbox is on, and put the host's settings back.

    What sandboxes that were killed have left is taken back as well.
    """
    with Gate():
        upkeep.prune(render.show)
    return 0
