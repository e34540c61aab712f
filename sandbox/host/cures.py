"""The commands that cure a host, each as text to copy, and lasting over a reboot where it matters.

Only texts: nothing here is ever run. They differ with the distribution, so some of them look at
what is installed.
"""

from __future__ import annotations

import os

SYSCTL_FILE = "/etc/sysctl.d/60-sbx.conf"
MODULES_FILE = "/etc/modules-load.d/sbx.conf"
TUN = "/dev/net/tun"
# Program; how it installs the package of newuidmap, and how it installs it again.
_PACKAGE_MANAGERS = (
    ("apt-get", "apt-get install -y uidmap", "apt-get install --reinstall -y uidmap"),
    ("dnf", "dnf install -y shadow-utils", "dnf reinstall -y shadow-utils"),
    ("zypper", "zypper install -y shadow", "zypper install --force -y shadow"),
    ("pacman", "pacman -S --noconfirm shadow", "pacman -S --noconfirm shadow"),
    ("apk", "apk add shadow-subids", "apk fix shadow-subids"),
)


def _exists(name: str) -> bool:
    return any(os.path.exists(f"{folder}/{name}") for folder in ("/usr/bin", "/usr/sbin", "/sbin"))


def setting(name: str, value: int) -> str:
    """Set a sysctl now and at every boot; one line."""
    return f"echo {name}={value} | sudo tee -a {SYSCTL_FILE} && sudo sysctl -p {SYSCTL_FILE}"


def module(name: str) -> str:
    """Load a kernel module now and at every boot; one line."""
    return f"sudo modprobe {name} && echo {name} | sudo tee -a {MODULES_FILE}"


def boot_option(option: str) -> str:
    """Add an option to the kernel's command line, in force after a reboot."""
    if _exists("grubby"):
        return f'sudo grubby --update-kernel=ALL --args="{option}" && sudo reboot'
    if os.path.exists("/etc/default/grub") and _exists("update-grub"):
        edit = f's/^GRUB_CMDLINE_LINUX="/&{option} /'
        return f"sudo sed -i '{edit}' /etc/default/grub && sudo update-grub && sudo reboot"
    return f"# add to the kernel's command line, then reboot: {option}"


def id_helpers(*, installed: bool) -> str:
    """Install newuidmap and newgidmap; a new copy has its owner, mode and capabilities right."""
    for program, install, again in _PACKAGE_MANAGERS:
        if _exists(program):
            return f"sudo {again if installed else install}"
    return "sudo chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap" if installed else ""


def package(name: str) -> str:
    """Install a package that has this name everywhere."""
    for program, install, _ in _PACKAGE_MANAGERS:
        if _exists(program):
            return f"sudo {install.rpartition(' ')[0]} {name}"
    return ""


def tun_access(user: str) -> str:
    """Give one user the tun device: by a rule of udev, which makes it; else by an ACL."""
    if not os.path.isdir("/run/udev"):
        return f"sudo setfacl -m u:{user}:rw {TUN}"
    rule = 'KERNEL=="tun", GROUP="tun", MODE="0660", OPTIONS+="static_node=net/tun"'
    return "\n".join(
        (
            f"sudo groupadd --system --force tun && sudo usermod -aG tun {user}",
            f"echo '{rule}' | sudo tee /etc/udev/rules.d/60-sbx-tun.rules",
            "sudo udevadm control --reload && sudo udevadm trigger --sysname-match=tun --settle",
            "# the new group counts from the next login on",
        )
    )
