"""Every error sbx raises, and the exit codes that go with them. Imports nothing of ours.

SbxError                     what / cause / hint, exit code 125
├── UsageError               the command line cannot be understood (2), ValueError
├── PolicyError              a policy or its merge with the flags is wrong, ValueError
├── RootfsError              the root file system cannot be used, OSError
├── HostError                this host lacks something that the policy demands, OSError
├── SetupError               the launcher failed before the payload ran, OSError
│   ├── CommandNotFound      127, FileNotFoundError
│   └── CommandNotExecutable 126, PermissionError
├── Interrupted              a signal came before the payload ran (128 + its number)
├── StateError               no such sandbox, or its state cannot be read, LookupError
├── SandboxFileError         a file of a living sandbox cannot be read or written (1), OSError
│   ├── SandboxFileNotFound      FileNotFoundError
│   ├── SandboxIsADirectory      IsADirectoryError
│   ├── SandboxNotADirectory     NotADirectoryError
│   └── SandboxPermissionError   PermissionError
└── OutputError              what was asked for cannot be printed (1), OSError

In api/failed, for they are subprocess's errors too: CommandFailed, TimeoutExpired (124).
"""

from __future__ import annotations

EXIT_OUTPUT = 1
EXIT_FILE = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 124
EXIT_SETUP = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class SbxError(Exception):
    """One failure: `what` failed, the `cause` in the kernel's or helper's words, a `hint`.

    `problems` lists several findings of one check, each already one line ("key.path: text").
    All texts are lower case, name the object and carry no full stop.
    """

    exit_code = EXIT_SETUP

    def __init__(
        self,
        what: str,
        *,
        cause: str = "",
        hint: str = "",
        problems: tuple[str, ...] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.hint = hint
        self.problems = problems

    def __str__(self) -> str:
        parts = [self.what, *self.problems]
        if self.cause:
            parts.append(f"cause: {self.cause}")
        if self.hint:
            parts.append(f"hint: {self.hint}")
        return "\n".join(parts)

    def as_dict(self) -> dict[str, object]:
        """The same facts for JSON output."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "cause": self.cause,
            "hint": self.hint,
            "problems": list(self.problems),
            "exit_code": self.exit_code,
        }


class UsageError(SbxError, ValueError):
    """The command line cannot be understood."""

    exit_code = EXIT_USAGE


class PolicyError(SbxError, ValueError):
    """A policy file, or the policy after flags were merged in, is wrong."""


class RootfsError(SbxError, OSError):
    """The root file system is missing, of the wrong kind, or cannot be shown."""


class HostError(SbxError, OSError):
    """This host lacks a layer that the policy does not allow to be missing."""


class SetupError(SbxError, OSError):
    """The launcher reported a failed step; `errno` is the kernel's, 0 if unknown.

    `phase` is where: decode, clone, map, setup, security, exec; "" before the launcher ran.
    """

    def __init__(
        self, what: str, *, cause: str = "", hint: str = "", errno: int = 0, phase: str = ""
    ) -> None:
        super().__init__(what, cause=cause, hint=hint)
        self.errno = errno
        self.phase = phase


class CommandNotFound(SetupError, FileNotFoundError):
    """The command does not exist in the root file system."""

    exit_code = EXIT_NOT_FOUND


class CommandNotExecutable(SetupError, PermissionError):
    """The command exists but the kernel cannot execute it."""

    exit_code = EXIT_NOT_EXECUTABLE


class Interrupted(SbxError):
    """Signal `number` ended the preparation; what it had made is removed."""

    def __init__(self, what: str, *, number: int) -> None:
        super().__init__(what)
        self.exit_code = 128 + number


class StateError(SbxError, LookupError):
    """The named sandbox does not exist, or its recorded state is not usable."""


class SandboxFileError(SbxError, OSError):
    """A file of a living sandbox, or its copy outside; `errno` is the kernel's."""

    exit_code = EXIT_FILE

    def __init__(self, what: str, *, cause: str = "", hint: str = "", errno: int = 0) -> None:
        super().__init__(what, cause=cause, hint=hint)
        self.errno = errno


class SandboxFileNotFound(SandboxFileError, FileNotFoundError):
    """There is no such file."""


class SandboxIsADirectory(SandboxFileError, IsADirectoryError):
    """It is a folder, where a file is needed."""


class SandboxNotADirectory(SandboxFileError, NotADirectoryError):
    """It is a file, where a folder is needed."""


class SandboxPermissionError(SandboxFileError, PermissionError):
    """It is not to be touched: the kernel refuses, or it belongs to /proc, /sys or /dev."""


class OutputError(SbxError, OSError):
    """Standard output does not take what a command has to show."""

    exit_code = EXIT_OUTPUT
