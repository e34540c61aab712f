"""`sbx rootfs`: makes root file systems; how is storage.from_host's."""

from __future__ import annotations

import click

from sandbox.cli import render
from sandbox.cli.groups import CommandGroup

command = CommandGroup("rootfs", help="Make root file systems.")


@command.command("from-host", short_help="Make one of this host's own programs.")
@click.argument("out", type=click.Path())
@click.argument("programs", nargs=-1, metavar="[PROGRAM]...")
@click.option(
    "--include",
    "includes",
    multiple=True,
    metavar="PATH[:INSIDE]",
    help="Copy a file or folder of the host as well, to the path INSIDE if given.",
)
@click.option("--force", is_flag=True, help="Replace OUT if an earlier call made it.")
@click.option("--json", "as_json", is_flag=True, help="Show what was made as JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks and times.")
def from_host(
    out: str, programs: tuple[str, ...], includes: tuple[str, ...], force: bool, as_json: bool
) -> int:
    """Make a minimal root file system at OUT of the host's PROGRAMs and what they need.

    A PROGRAM is a name on PATH or a path. Without one, a shell and the usual tools are taken.
    """
    from sandbox.services.storage import from_host as maker

    pairs = [(source, inside) for source, _, inside in (text.partition(":") for text in includes)]
    made = maker.build(out, programs, includes=pairs, force=force)
    for warning in made.warnings:
        render.warn(warning, json=as_json)
    if as_json:
        render.show_json(dict(made))
        return 0
    size = f"{made.bytes / (1 << 20):.1f} MiB"
    render.show(
        f"{made.out}: {made.programs} programs, {made.libraries} libraries, "
        f"{made.files} files, {size}"
    )
    return 0
