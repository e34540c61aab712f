"""The ports of the host that lead into a sandbox, and the file of its folder that names them."""

from __future__ import annotations

import os

from sandbox.errors import SetupError
from sandbox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Port(Record):
    """`port` of the host's `address` ("0.0.0.0" or "::" is all) leads to `inner` inside."""

    address: str
    port: int
    inner: int
    protocol: str = "tcp"

    def as_dict(self) -> dict[str, object]:
        """The row of reports and of `sbx inspect`."""
        return {
            "protocol": self.protocol,
            "address": self.address,
            "port": self.port,
            "inner": self.inner,
        }


def record_ports(folder: int, ports: Sequence[Port]) -> None:
    """Write the file "ports" into the folder of a kept sandbox; none without a port.

    As JSON, whose module would take longer to load than the sandbox to start: what is quoted has
    letters, digits, "." and ":" alone. Raises SetupError.
    """
    if not ports:
        return
    rows = (
        ", ".join(
            f'"{key}": "{value}"' if isinstance(value, str) else f'"{key}": {value}'
            for key, value in port.as_dict().items()
        )
        for port in ports
    )
    text = f"[{', '.join(f'{{{row}}}' for row in rows)}]"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with os.fdopen(os.open("ports", flags, 0o600, dir_fd=folder), "w") as file:
            file.write(text)
    except OSError as error:
        cause = (error.strerror or str(error)).lower()
        raise SetupError("cannot keep the list of ports", cause=cause) from error
