"""`sandbox.Policy`: a policy that is built in Python, a layer for each word."""

from __future__ import annotations

import os

from sandbox.api.wishes import absolute_mount, layer_of
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from sandbox.policy import model
    from sandbox.policy.merge import Layer


class Policy(Record):
    """What is wanted of a sandbox: a policy by name or from a file, and changes on top of it.

    Frozen: each `with_…` returns another one, whose value remembers that word as its origin.
    What the values may be is in the policy documentation; `check` and each run raise PolicyError
    with all problems at once.

        policy = sandbox.Policy.strict().with_mount("./src", "/src").with_timeout(60)
    """

    layers: tuple[Layer, ...]

    @classmethod
    def load(cls, ref: str | os.PathLike[str]) -> Self:
        """The policy with this name, or of this file. Raises PolicyError."""
        from sandbox.policy.load import load_policy

        return cls(tuple(load_policy(os.fspath(ref))))

    @classmethod
    def strict(cls) -> Self:
        """For code that nobody trusts."""
        return cls.load("strict")

    @classmethod
    def default(cls) -> Self:
        """What `sbx run` uses."""
        return cls.load("default")

    @classmethod
    def ci(cls) -> Self:
        """For builds and tests."""
        return cls.load("ci")

    @classmethod
    def permissive(cls) -> Self:
        """For what needs most of a system."""
        return cls.load("permissive")

    def _with(self, word: str, section: str, values: dict[str, Any]) -> Self:
        layer = layer_of(f"Policy.{word}", {section: values})
        return self.replace(layers=(*self.layers, layer))

    def with_mount(
        self,
        source: str | os.PathLike[str],
        target: str,
        *,
        read_only: bool = True,
        **flags: bool,
    ) -> Self:
        """Show `source` of the host, seen from the current folder, at `target`. `flags` are the
        other fields of a mount in a policy file."""
        from sandbox.policy.model import Mount

        mount = Mount(os.fspath(source), target, read_only=read_only, **flags)
        return self._with("with_mount", "filesystem", {"mounts": [absolute_mount(mount)]})

    def with_tmpfs(self, target: str, *, size: int | str | None = None) -> Self:
        """An empty writable folder in memory at `target`, of `size` bytes or "64M"."""
        entry = {"target": target} | ({} if size is None else {"size": size})
        return self._with("with_tmpfs", "filesystem", {"tmpfs": [entry]})

    def with_root(self, **values: Any) -> Self:
        """Other values of the section `filesystem`: `read_only`, `size`, `root` and so on."""
        return self._with("with_root", "filesystem", values)

    def with_env(self, **variables: str) -> Self:
        """Set environment variables."""
        return self._with("with_env", "process", {"env": variables})

    def with_limit(self, **limits: int | str) -> Self:
        """Resource limits by their names in a policy file: `nofile=256`, `fsize="10M"`."""
        return self._with("with_limit", "rlimits", limits)

    def with_timeout(self, seconds: float | str) -> Self:
        """The time limit, in seconds or as "5m"; 0 is none."""
        return self._with("with_timeout", "process", {"timeout": seconds})

    def with_output_limit(self, size: int | str) -> Self:
        """How many bytes of output may pass."""
        return self._with("with_output_limit", "process", {"output_limit": size})

    def with_network(self, mode: str, **values: Any) -> Self:
        """The network mode: "none", "user", "bridge", "host" or "container:NAME"; with other values
        of the section `network`: `allow=["example.org:443"]`, `publish` and so on."""
        return self._with("with_network", "network", {"mode": mode, **values})

    def with_user(self, user: int | str, group: int | str | None = None) -> Self:
        """The user inside, by number or by a name of the root file system."""
        group_too = {} if group is None else {"group": group}
        return self._with("with_user", "identity", {"user": user} | group_too)

    def with_identity(self, **values: int | str | bool) -> Self:
        """Other values of the section `identity`: `map`, `root`, `user`, `group`."""
        return self._with("with_identity", "identity", values)

    def with_capabilities(self, *names: str) -> Self:
        """Let the command have these capabilities, inside its own user namespace."""
        return self._with("with_capabilities", "capabilities", {"add": list(names)})

    def check(self) -> model.Policy:
        """The merged and checked values. Raises PolicyError with all problems."""
        from sandbox.policy.merge import build_policy

        return build_policy(list(self.layers))

    def describe(self) -> list[tuple[str, str, str]]:
        """Every value: (key, value as in a policy file, where it came from)."""
        from sandbox.policy.show import describe

        return describe(self.check())
