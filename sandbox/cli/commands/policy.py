"""`sbx policy`: which policies there are, what one holds, and whether one is right."""

from __future__ import annotations

import os

import click

from sandbox.cli import render
from sandbox.cli.completion import Text
from sandbox.cli.groups import CommandGroup
from sandbox.errors import PolicyError
from sandbox.policy import check, show
from sandbox.policy.load import load_policy
from sandbox.policy.merge import build_policy

_json = click.option("--json", "as_json", is_flag=True, help="Show it as JSON.")
_debug = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show tracebacks and times."
)


command = CommandGroup("policy", help="List, show and check policies.")


@command.command("list", short_help="List the policies by name.")
@_json
@_debug
def list_policies(as_json: bool) -> int:
    """List the policies that a name finds: the user's own before the built-in ones."""
    found = check.available()
    if as_json:
        keys = ("name", "path", "summary")
        render.show_json([dict(zip(keys, entry, strict=True)) for entry in found])
    else:
        render.show(*render.table([(name, summary) for name, _path, summary in found]))
    return 0


@command.command("show", short_help="Show what a policy holds.")
@click.argument("policy", type=Text("POLICY", complete="policy"))
@_json
@_debug
def show_policy(policy: str, as_json: bool) -> int:
    """Show every value of POLICY, a name or a path, and where it came from.

    What is shown is a policy file itself, which extends nothing.
    """
    layers = load_policy(policy)
    built = build_policy(layers)
    if as_json:
        rows = show.describe(built)
        values = [dict(zip(("key", "value", "origin"), row, strict=True)) for row in rows]
        files = [{"origin": layer.origin, "path": layer.path} for layer in reversed(layers)]
        render.show_json({"name": layers[-1].name, "files": files, "values": values})
        return 0
    render.show(f"# {' extends '.join(layer.path for layer in reversed(layers))}")
    lines = [(line, f"# {origin}" if origin else "") for line, origin in show.toml_rows(built)]
    render.show(*render.table(lines))
    return 0


@command.command("check", short_help="Check policies, warn of what they widen.")
@click.argument(
    "policies",
    nargs=-1,
    required=True,
    metavar="POLICY...",
    type=Text("POLICY", complete="policy"),
)
@_json
@_debug
def check_policies(policies: tuple[str, ...], as_json: bool) -> int:
    """Check policies, names or paths; warn where one allows more than what it extends.

    The exit code is 0 when all are right, warned or not.
    """
    results = [(policy, *_check(policy)) for policy in policies]
    if as_json:
        render.show_json(
            [
                {"policy": policy, "widenings": warnings, "error": error and error.as_dict()}
                for policy, warnings, error in results
            ]
        )
    else:
        for policy, warnings, error in results:
            _show_result(policy, warnings, error)
    return max((error.exit_code for _, _, error in results if error), default=0)


def _check(policy: str) -> tuple[list[str], PolicyError | None]:
    try:
        return check.widenings(load_policy(policy)), None
    except PolicyError as error:
        return [], error


def _show_result(policy: str, warnings: list[str], error: PolicyError | None) -> None:
    if error:
        render.show_error(error)
        return
    name = os.path.basename(policy)
    if not warnings:
        render.show(f"{name}: valid, allows nothing more than what it extends")
        return
    count = f"{len(warnings)} place{'s' if len(warnings) > 1 else ''}"
    render.show(f"{name}: valid, allows more than what it extends in {count}")
    for warning in warnings:
        render.warn(f"{name}: {warning}")
