"""`sbx layer`: what `sbx run --persist` keeps; how is storage.layer's."""

from __future__ import annotations

import click

from sandbox.cli.groups import CommandGroup

command = CommandGroup("layer", help="Handle what runs with --persist have kept.")


@command.command("rm")
@click.argument("folders", nargs=-1, required=True, metavar="DIR...", type=click.Path())
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks and times.")
def remove(folders: tuple[str, ...]) -> int:
    """Remove the folders DIR of --persist with all they hold.

    Files that other users inside have made belong to subordinate ids, which rm cannot remove.
    """
    from sandbox.host.probe import host_facts
    from sandbox.services.storage.layer import remove_layer

    facts = host_facts()
    for folder in folders:
        remove_layer(folder, facts)
    return 0
