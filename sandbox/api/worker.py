"""The program that carries out a Python callable inside a sandbox; run there by its own Python.

Reads one pickle from standard input, writes one answer to standard output. What the callable prints
goes to standard error. Never imported outside; starts with `plain` put before it.
"""

import os
import pickle
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.api.plain import dumps


def main() -> None:
    """Answer with ("result", value) or ("error", module, name, args, text, traceback)."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.path.append("/run/sandbox")
    version, trusted, job = pickle.load(sys.stdin.buffer)  # noqa: S301 (our caller's)
    here = sys.version_info[:2]
    try:
        if version != here:
            wanted, found = (".".join(map(str, pair)) for pair in (version, here))
            raise RuntimeError(f"the sandbox has Python {found}, its caller {wanted}")
        function, args, keywords = pickle.loads(job)  # noqa: S301
        value = function(*args, **keywords)
        if trusted:
            import cloudpickle

            value = cloudpickle.dumps(value)
        answer = dumps(("result", value))
    except BaseException as error:
        answer = _failure(error)
    answers.write(answer)
    answers.close()


def _failure(error: BaseException) -> bytes:
    kind = type(error)
    text = "".join(traceback.format_exception(error))
    try:
        return dumps(("error", kind.__module__, kind.__qualname__, error.args, str(error), text))
    except (TypeError, ValueError):
        return dumps(("error", kind.__module__, kind.__qualname__, (str(error),), str(error), text))


if __name__ == "__main__":
    main()
