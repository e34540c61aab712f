"""`sbx doctor`: shows what sandbox.host.doctor found; the trials themselves live there."""

from __future__ import annotations

import click

from sandbox.cli import render
from sandbox.cli.groups import Command


@click.command("doctor", cls=Command, short_help="Find out what this machine can do.")
@click.option("--json", "as_json", is_flag=True, help="Show the findings as JSON.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks and times.")
def command(as_json: bool) -> int:
    """Try what a sandbox needs on this machine, and show a cure for what fails.

    Verdicts: ok; warn, something is lost; fail, sandboxes cannot run. The exit code is 1 when
    something fails, else 0. The JSON is {"verdict": the worst, "findings": [{"name", "verdict",
    "detail", "fix"}]}, where fix is "" or lines to copy; names and verdicts are stable.
    """
    from sandbox.host import doctor

    if as_json:
        findings = list(doctor.run_doctor())
        render.show_json(doctor.as_dict(findings))
        return doctor.exit_code(findings)
    found = []
    for finding in doctor.iter_findings():
        render.show(*doctor.lines([finding]))
        found.append(finding)
    render.show(doctor.summary(found))
    return doctor.exit_code(found)
