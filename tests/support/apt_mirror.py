"""Print the mirror and suite of this machine's own apt for one release. Argument: its code name."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path


def sources(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (uri, suites) of each source of packages, in both of apt's formats."""
    lists = [root / "sources.list", *sorted((root / "sources.list.d").glob("*.list"))]
    for path in lists:
        for line in path.read_text().splitlines() if path.exists() else ():
            found = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)", line.strip())
            if found:
                yield found[1], [found[2]]
    for path in sorted((root / "sources.list.d").glob("*.sources")):
        for block in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^(\w[\w-]*):[ \t]*(.*)$", block, re.MULTILINE))
            for uri in fields.get("URIs", "").split():
                yield uri, fields.get("Suites", "").split()


def rolling(name: str) -> list[str]:
    """The names under which sources may offer a release: an unstable Debian is no release yet."""
    return [name, "testing", "sid", "unstable"]


def main() -> int:
    """Print the first mirror that serves the release, and its name there; exit 1 when none does."""
    found = list(sources(Path("/etc/apt")))
    for name in rolling(sys.argv[1]):
        for uri, suites in found:
            if name not in suites:
                continue
            if uri.startswith(("mirror+file:", "mirror:file:")):
                uri = Path(uri.split("file:", 1)[1]).read_text().split()[0]
            print(uri, name)
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
