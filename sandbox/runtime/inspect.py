"""What can be said of a kept sandbox, as plain values for JSON and for tables."""

from __future__ import annotations

import os

from sandbox.errors import SbxError
from sandbox.launcher import events
from sandbox.runtime.history import last_life, read_history
from sandbox.runtime.keeper import FREEZE, THAW
from sandbox.runtime.signals import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandbox.runtime.description import Description
    from sandbox.runtime.history import History, Moment
    from sandbox.runtime.logs import Output
    from sandbox.runtime.registry import Folder
    from sandbox.runtime.report import Report
    from sandbox.runtime.supervise import Outcome

SCHEMA = "sbx.inspect/1"
ENDED = ("exited", "dead")
_WORDS = {
    events.STARTED: "started",
    events.WARNING: "warning",
    events.ERROR: "error",
    events.RUNNING: "running",
    events.EXITED: "exited",
    events.DONE: "done",
    events.LIMIT: "limit",
    events.ORDER: "order",
    events.FULL: "full",
}
_ORDERS = {FREEZE: "pause", THAW: "unpause"}


def summary(folder: Folder) -> dict[str, object]:
    """One sandbox in the keys of `sbx ps --format json`. Times in seconds since the epoch."""
    return _summary(folder.description, read_history(folder))


def _summary(known: Description, life: History) -> dict[str, object]:
    return {
        "id": known.id,
        "name": known.name,
        "state": life.state,
        "exit_code": life.exit_code,
        "pid": known.pid if life.state not in ENDED else None,
        "created_s": known.created_s,
        "started_s": life.started_s,
        "ended_s": life.ended_s,
        "restarts": max(0, life.starts - 1),
        "rootfs": known.rootfs,
        "argv": list(known.argv),
        "policy": known.policy,
        "network": known.network,
        "detached": known.detached,
    }


def details(folder: Folder) -> dict[str, object]:
    """Everything known of one sandbox, in the keys of `sbx inspect` (schema sbx.inspect/1).

    `report` is that of `sbx run --report` for one that has ended and left records, else null.
    """
    known, life = folder.description, read_history(folder)
    report = ended_report(folder, life) if life.state in ENDED and life.starts else None
    return {
        "schema": SCHEMA,
        **_summary(known, life),
        "folder": folder.path,
        "init_pid": init_pid(life),
        "tty": known.tty,
        "input": known.input,
        "auto_remove": known.auto_remove,
        "restart": known.restart,
        "timeout_s": known.timeout_s,
        "grace_s": known.grace_s,
        "identity": known.identity,
        "storage": known.storage,
        "storage_reason": known.storage_reason,
        "shares": list(known.shares),
        "shareable": list(known.shareable),
        "layers": list(known.layers),
        "degradations": [
            {"layer": layer, "lost": lost, "cause": cause}
            for layer, lost, cause in known.degradations
        ],
        "cgroup": _cgroup(folder),
        "ports": published(folder),
        "network_account": network_account(folder),
        "history": [_moment(moment) for moment in life.moments],
        "report": report.as_dict() if report else None,
    }


def _cgroup(folder: Folder) -> dict[str, object] | None:
    """Its control group; `used` is what that counts, null once it is gone."""
    driver, path, _ = folder.description.cgroup
    if not driver:
        return None
    from sandbox.runtime.grouped import group_of
    from sandbox.services.cgroup.account import read_account

    group = group_of(folder)
    try:
        used = read_account(group).as_dict() if group else None
    finally:
        if group:
            group.release()
    return {"driver": driver, "path": path, "used": used}


def published(folder: Folder) -> list[dict[str, object]]:
    """The ports of the host that lead inside: protocol, address, port, and inner port."""
    found = _json(folder, "ports")
    return found if isinstance(found, list) else []


def network_account(folder: Folder) -> dict[str, Any] | None:
    """What it has reached so far and what it was refused; None where nobody counts."""
    found = _json(folder, "network")
    if not isinstance(found, dict):
        return None
    return {"ports": published(folder), "lost": "", **found}


def _json(folder: Folder, name: str) -> object:
    """What stands in a file of the folder, None when nothing sound does."""
    import json

    try:
        return json.loads(folder.read(name))
    except (OSError, ValueError):
        return None


def init_pid(life: History) -> int | None:
    """The host's number of the sandbox's process 1, None when there is none."""
    if life.state in (*ENDED, "restarting"):
        return None
    found = [m.event.pid for m in life.moments if m.event.kind == events.STARTED]
    return found[-1] if found else None


def _moment(moment: Moment) -> dict[str, object]:
    event = moment.event
    shown: dict[str, object] = {"at_s": moment.at_s, "what": _WORDS.get(event.kind, "other")}
    if event.kind == events.ORDER:
        word = _ORDERS.get(event.status)
        shown |= (
            {"order": word} if word else {"order": "signal", "signal": signal_name(event.status)}
        )
    elif event.kind in (events.EXITED, events.DONE):
        shown |= _status(event.status)
    elif event.kind in (events.WARNING, events.ERROR):
        shown |= {"text": event.text, "cause": os.strerror(event.errno).lower()}
    elif event.kind == events.LIMIT:
        shown |= {"limit": event.text}
    elif event.kind == events.FULL:
        shown |= {"path": event.text}
    if event.pid:  # the launcher counts outside, init inside
        outside = event.kind in (events.STARTED, events.DONE)
        shown["pid" if outside else "inner_pid"] = event.pid
    return shown


def _status(status: int) -> dict[str, object]:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {"code": None, "signal": number, "signal_name": signal_name(number)}
    return {"code": os.WEXITSTATUS(status), "signal": None}


# ---- the report of one that has ended -------------------------------------------------------


def ended_report(folder: Folder, life: History) -> Report:
    """The report of its last life, from records and log, in the schema of a foreground run.

    `output_bytes` are those that the log still holds, `output_dropped_bytes` those of the log
    that are gone.
    """
    from sandbox.plan.request import Degradation, Plan, Step
    from sandbox.plan.wire import decode
    from sandbox.runtime.output import Budget
    from sandbox.runtime.report import Subject, make_report
    from sandbox.services.cgroup.account import parse_account

    known = folder.description
    try:
        operations = decode(folder.read("plan"))
    except SbxError:  # it only serves to name the steps that failed
        operations = ()
    plan = Plan(
        steps=tuple(Step(op, "") for op in operations),
        degradations=tuple(Degradation(*lost) for lost in known.degradations),
        layers=known.layers,
        identity=known.identity,
        storage=known.storage,
    )
    budget = Budget(0)
    for output in _log(folder):
        budget.passed += len(output.data)
        budget.dropped += output.lost
    subject = Subject(known.name, known.policy, known.network, known.has_init, known.storage_reason)
    account = parse_account(folder.read("account"))
    network = network_account(folder)
    return make_report(subject, plan, _outcome(life), budget, account=account, network=network)


def _log(folder: Folder) -> list[Output]:
    from sandbox.runtime.logs import LogReader

    reader = LogReader(folder)
    found: list[Output] = []
    try:
        found.extend(reader.read())
    except SbxError:  # damaged: what came before it counts
        return found
    finally:
        reader.close()
    return found


def _outcome(life: History) -> Outcome:
    from sandbox.runtime.supervise import Outcome

    last = [moment.event for moment in last_life(life.moments)]
    latest = {event.kind: event for event in last}
    killed = any(e.kind == events.ORDER and e.status == 9 for e in last)
    return Outcome(
        started=latest.get(events.STARTED),
        running=latest.get(events.RUNNING),
        exited=latest.get(events.EXITED),
        done=latest.get(events.DONE),
        errors=tuple(e for e in last if e.kind == events.ERROR),
        warnings=tuple(e for e in last if e.kind == events.WARNING),
        status=None,
        timed_out=life.timed_out,
        killed=killed,
        wall_s=max(0.0, life.ended_s - life.started_s),
        full=latest[events.FULL].text if events.FULL in latest else "",
    )
