"""`import sandbox` in processes of other kinds than a script: large ones, and notebooks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import Sbx

LARGE = """
import asyncio, os, sys, sandbox
ballast = bytearray(b"\\1") * (1 << 30)
started = []
EVENTS = ("os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "subprocess.Popen")
sys.addaudithook(lambda event, _: started.append(event) if event in EVENTS else None)
os.register_at_fork(before=lambda: started.append("a fork"))
options = dict(rootfs=sys.argv[1], policy="default")
assert sandbox.run(["true"], **options).returncode == 0
with sandbox.Popen(["true"], **options) as process:
    assert process.wait() == 0
with sandbox.Sandbox(**options) as box:
    assert box.run(["true"]).returncode == 0
    box.write_file("/tmp/x", "x")
assert asyncio.run(sandbox.arun(["true"], **options)).returncode == 0
print(" ".join(sorted(set(started))), len(ballast) >> 30)
"""


def test_a_large_caller_is_never_copied(sbx: Sbx, rootfs: Path) -> None:
    """A fork would copy the tables of all its pages, and run handlers of other threads' locks."""
    assert sbx("run", rootfs, "true").returncode == 0  # what is found out once for a boot
    argv = [sys.executable, "-c", LARGE, str(rootfs)]
    done = subprocess.run(
        argv, env=sbx.env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stdout == "os.posix_spawn 1\n", done


NOTEBOOK = """
import asyncio, io, os, signal, sys, threading, traceback
os.setsid()
options = dict(rootfs=sys.argv[1], policy="default")
said = os.fdopen(os.dup(1), "w", buffering=1)
sys.stdin = None
sys.stdout = sys.stderr = io.StringIO()  # as a kernel's, which have no descriptor
handlers = [signal.getsignal(number) for number in range(1, 65)]

def cell_run():
    import sandbox
    done = sandbox.run(["sh", "-c", "echo hello"], capture_output=True, text=True, **options)
    assert (done.returncode, done.stdout) == (0, "hello\\n")
    assert sandbox.run(["sh", "-c", "echo aloud; exit 3"], **options).returncode == 3

def cell_box():
    import sandbox
    with sandbox.Sandbox(**options) as box:
        box.write_file("/tmp/x", "kept")
        assert box.read_file("/tmp/x") == b"kept"
        with box.popen(["cat"], stdin=sandbox.PIPE, stdout=sandbox.PIPE) as cat:
            assert cat.communicate(b"through")[0] == b"through"

def cell_interrupted():
    import sandbox
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        sandbox.run(["sh", "-c", "sleep 300 & sleep 300"], **options)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("nobody was interrupted")
    with open(f"/proc/self/task/{threading.get_native_id()}/children") as children:
        assert children.read() == ""

async def cell_await():
    import sandbox
    runs = [sandbox.arun(["seq", str(n), str(n)], capture_output=True, **options) for n in range(5)]
    assert [done.stdout for done in await asyncio.gather(*runs)] == [b"%d\\n" % n for n in range(5)]
    async with sandbox.AsyncSandbox(**options) as box:
        assert (await box.run(["true"])).returncode == 0

async def kernel():
    for cell in (cell_run, cell_box, cell_interrupted, cell_await, cell_run, cell_interrupted):
        result = cell()
        if asyncio.iscoroutine(result):
            await result
        assert [signal.getsignal(number) for number in range(1, 65)] == handlers, cell
        said.write(cell.__name__ + " ")
    await asyncio.get_running_loop().run_in_executor(None, cell_box)
    await asyncio.get_running_loop().shutdown_default_executor()
    said.write("thread\\n")

# A kernel keeps its loop over the interrupt of a cell, which asyncio.run does not.
loop = asyncio.new_event_loop()
try:
    loop.run_until_complete(kernel())
except BaseException:
    said.write(traceback.format_exc())
loop.close()
said.close()
"""


def test_in_the_cells_of_a_notebook(sbx: Sbx, rootfs: Path) -> None:
    """Called inside a running loop, in the main thread, without a terminal or a real stdout."""
    argv = [sys.executable, "-W", "error", "-c", NOTEBOOK, str(rootfs)]
    done = subprocess.run(
        argv, env=sbx.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    cells = "cell_run cell_box cell_interrupted cell_await cell_run cell_interrupted thread"
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.replace("aloud\n", "").split() == cells.split(), done.stdout
    assert done.stdout.count("aloud\n") == 2
