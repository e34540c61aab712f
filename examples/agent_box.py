"""Give an agent a computer: shell commands and files in one kept sandbox, until its input ends.

    python examples/agent_box.py ROOTFS < REQUESTS

Each line is a request in JSON: {"run": "a shell line"}, {"read": PATH}, or {"write": PATH, "text":
TEXT}. What comes back is bounded, as a model would be given it. Files stay between the requests;
the host's are not there, and nothing of the sandbox outlives this program.
"""

from __future__ import annotations

import json
import sys

import sandbox

LIMIT_S = 20
SHOWN_CHARS = 4000


def run(box: sandbox.Sandbox, line: str) -> str:
    """What the agent is told of one command."""
    try:
        done = box.run(
            ["sh", "-c", line],
            cwd="/tmp",
            timeout=LIMIT_S,
            stdout=sandbox.PIPE,
            stderr=sandbox.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except sandbox.TimeoutExpired as error:
        return f"{str(error.stdout)[:SHOWN_CHARS]}(ended after {LIMIT_S} seconds)"
    return f"{done.stdout[:SHOWN_CHARS]}(exit code {done.returncode})"


def answer(box: sandbox.Sandbox, request: dict[str, str]) -> str:
    """Do what is asked for; what goes wrong is an answer as well."""
    try:
        if "write" in request:
            box.write_file(request["write"], request["text"])
            return "written"
        if "read" in request:
            return box.read_file(request["read"]).decode(errors="replace")[:SHOWN_CHARS]
        return run(box, request["run"])
    except sandbox.SbxError as error:
        return str(error)


def main() -> None:
    """Answer each request by one line of JSON."""
    with sandbox.Sandbox(rootfs=sys.argv[1], policy="strict") as box:
        for line in sys.stdin:
            print(json.dumps({"answer": answer(box, json.loads(line))}), flush=True)


if __name__ == "__main__":
    main()
