"""What connects a sandbox to a network, beside it: the registry of drivers.

A mode whose plan holds the sandbox (`plan.network.MODES`, `service`) has a driver here under the
same name. It is started while the sandbox is held, with the policy and the pid of the sandbox's
init, through which it finds the namespaces: /proc/PID/ns. It returns once the network is usable,
and its handle takes back, after the end, what it made. The modes none and host need no driver.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox.policy.model import Policy
    from sandbox.services import Service

    Start = Callable[[Policy, int], Service]

DRIVERS: dict[str, Start] = {}
