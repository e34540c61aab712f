"""From a FilterSpec to classic BPF: `compile_filter(spec)` gives an array of struct sock_filter.

The shape follows what loading costs. The kernel interprets a filter once for every number when
it is loaded, and keeps a bitmap of the numbers that are allowed whatever the arguments: so the
architecture comes first, then a balanced tree over ranges of numbers, and arguments are loaded
only behind the test of their number. Answers and equal tails exist once.

First a graph of tests is built, equal nodes shared; then it is written from its end backwards,
so that every jump goes to code whose place is known.
"""

from __future__ import annotations

import struct
from bisect import bisect_right

from sandbox.errors import PolicyError
from sandbox.seccomp.rules import LOW, Clauses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.seccomp.rules import Condition, FilterSpec

    # What the accumulator holds: (offset in struct seccomp_data, mask).
    Key = tuple[int, int]
    # (jump code, key, operand, node if true, node if false), or (RET, action).
    Node = tuple[int, Key, int, int, int] | tuple[int, int]
    Instruction = tuple[int, int, int, int]

AUDIT_ARCH_X86_64 = 0xC000003E
MAX_INSTRUCTIONS = 4096

LD_ABS, ALU_AND, JA, RET = 0x20, 0x54, 0x05, 0x06
JEQ, JGT, JGE, JSET = 0x15, 0x25, 0x35, 0x45

NR: Key = (0, LOW)
ARCH: Key = (4, LOW)

# A conditional jump reaches 255 instructions on; some are kept for trampolines put in between.
_REACH = 250


class _Graph:
    """Tests and answers, each distinct one once; a node is named by its index."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._known: dict[Node, int] = {}
        self._tails: dict[int, int] = {}

    def _add(self, node: Node) -> int:
        found = self._known.get(node)
        if found is None:
            found = self._known[node] = len(self.nodes)
            self.nodes.append(node)
        return found

    def ret(self, action: int) -> int:
        return self._add((RET, action))

    def test(self, code: int, key: Key, operand: int, yes: int, no: int) -> int:
        return yes if yes == no else self._add((code, key, operand, yes, no))

    def decision(self, decision: int | Clauses) -> int:
        """The first node of a decision."""
        if not isinstance(decision, Clauses):
            return self.ret(decision)
        found = self._tails.get(id(decision))
        if found is None:
            found = self.ret(decision.otherwise)
            for clause in reversed(decision.clauses):
                yes = self.ret(clause.action)
                for condition in reversed(clause.conditions):
                    yes = self._condition(condition, yes, found)
                found = yes
            self._tails[id(decision)] = found
        return found

    def _condition(self, condition: Condition, yes: int, no: int) -> int:
        low: Key = (16 + 8 * condition.arg, condition.mask & LOW)
        high: Key = (20 + 8 * condition.arg, condition.mask >> 32)
        if condition.op == "out":
            yes, no = no, yes
        if condition.op in ("in", "out"):
            by_high: dict[int, list[int]] = {}
            for value in condition.values:
                by_high.setdefault(value >> 32, []).append(value & LOW)
            node = no
            for upper, lowers in reversed(by_high.items()):
                same = no
                for lower in reversed(lowers):
                    same = self._word(low, lower, yes, same)
                node = self._word(high, upper, same, node)
            return node
        value = condition.values[0]
        if condition.op in ("lt", "ge"):
            code, (yes, no) = JGE, (no, yes) if condition.op == "lt" else (yes, no)
        else:
            code, (yes, no) = JGT, (no, yes) if condition.op == "le" else (yes, no)
        below = self.test(code, low, value & LOW, yes, no)
        same = self.test(JEQ, high, value >> 32, below, no)
        return self.test(JGT, high, value >> 32, yes, same)

    def _word(self, key: Key, wanted: int, yes: int, no: int) -> int:
        offset, mask = key
        if wanted & ~mask:
            return no
        if not mask:
            return yes
        if wanted == 0 and mask != LOW:
            # "no bit of the mask is set" is one instruction, on the unmasked word.
            return self.test(JSET, (offset, LOW), mask, no, yes)
        return self.test(JEQ, key, wanted, yes, no)


def _blocks(ranges: list[tuple[int, int]], most: int = 4) -> list[tuple[int, list[int], int]]:
    """Cut (start, node) ranges into blocks (start, exceptions, node) with the least instructions.

    A block has one answer, and up to `most` single numbers with another, tested one by one: one
    instruction each, where cutting a range out of another takes two. The best cut of the first n
    ranges follows from the best cuts of fewer.
    """
    count = len(ranges)
    lengths = [ranges[i + 1][0] - ranges[i][0] for i in range(count - 1)] + [1]
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # cost, first range of the last block, its node
    for end in range(1, count + 1):
        found = (best[end - 1][0] + 1, end - 1, ranges[end - 1][1])
        sizes: dict[int, int] = {}
        total = 0
        for first in range(end - 1, max(-1, end - 2 * most - 2), -1):
            node = ranges[first][1]
            sizes[node] = sizes.get(node, 0) + lengths[first]
            total += lengths[first]
            largest = max(sizes.values())
            if total - largest > most:
                break
            cost = best[first][0] + 1 + total - largest
            if cost < found[0]:
                found = (cost, first, next(n for n in sizes if sizes[n] == largest))
        best.append(found)
    blocks = []
    while count:
        _, first, node = best[count]
        numbers = [
            number
            for i in range(first, count)
            if ranges[i][1] != node
            for number in range(ranges[i][0], ranges[i][0] + lengths[i])
        ]
        blocks.append((ranges[first][0], numbers, node))
        count = first
    return blocks[::-1]


def _tree(graph: _Graph, spec: FilterSpec) -> int:
    """The balanced tree over the numbers; its root node."""
    ranges: list[tuple[int, int]] = []
    for start, decision in zip(spec.starts, spec.decisions, strict=True):
        node = graph.decision(decision)
        if not ranges or ranges[-1][1] != node:
            ranges.append((start, node))
    blocks = _blocks(ranges)
    starts = [start for start, _ in ranges]

    def build(low: int, high: int) -> int:
        if high - low > 1:
            middle = (low + high) // 2
            right = build(middle, high)
            return graph.test(JGE, NR, blocks[middle][0], right, build(low, middle))
        _, exceptions, node = blocks[low]
        for number in reversed(exceptions):
            other = ranges[bisect_right(starts, number) - 1][1]
            node = graph.test(JEQ, NR, number, other, node)
        return node

    return build(0, len(blocks))


class _Writer:
    """Writes nodes backwards: `out[0]` is the filter's last instruction."""

    def __init__(self, graph: _Graph) -> None:
        self.out: list[Instruction] = []
        self._nodes = graph.nodes
        self._places: dict[tuple[int, bool], int] = {}

    def _put(self, code: int, operand: int, yes: int = 0, no: int = 0) -> int:
        self.out.append((code, yes, no, operand))
        return len(self.out) - 1

    def write(self, index: int, held: Key | None) -> tuple[int, bool]:
        """Write a node and what it leads to; returns its name for `near`.

        `held` is what the accumulator holds there: a test of that needs no load before it.
        """
        node = self._nodes[index]
        if len(node) == 2:
            name = (index, True)
            if name not in self._places:
                self._places[name] = self._put(*node)
            return name
        code, key, operand, yes, no = node
        name = (index, key == held)
        if name not in self._places:
            targets = (self.write(yes, key), self.write(no, key))
            self._near(targets[0])
            self._near(targets[1])
            here = len(self.out)
            distances = [here - self._places[target] - 1 for target in targets]
            self._places[name] = self._put(code, operand, *distances)
            if key != held:
                self._load(key)
                self._places[name] = len(self.out) - 1
        return name

    def _load(self, key: Key) -> None:
        offset, mask = key
        if mask != LOW:
            self._put(ALU_AND, mask)
        self._put(LD_ABS, offset)

    def _near(self, name: tuple[int, bool]) -> None:
        """Bring a target within reach of the next jump: repeat an answer, or jump on to code."""
        place = self._places[name]
        distance = len(self.out) - place
        if distance > _REACH:
            node = self._nodes[name[0]]
            self._places[name] = self._put(*node) if len(node) == 2 else self._put(JA, distance - 1)


def compile_filter(spec: FilterSpec) -> bytes:
    """The filter as an array of struct sock_filter, 8 bytes each, ready for the kernel.

    Raises PolicyError when it would exceed the kernel's 4096 instructions.
    """
    graph = _Graph()
    root = graph.test(JEQ, ARCH, AUDIT_ARCH_X86_64, _tree(graph, spec), graph.ret(spec.foreign))
    writer = _Writer(graph)
    writer.write(root, None)
    if len(writer.out) > MAX_INSTRUCTIONS:
        raise PolicyError(
            "the seccomp profile is too big",
            cause=f"it takes {len(writer.out)} instructions, the kernel allows {MAX_INSTRUCTIONS}",
        )
    pack = struct.Struct("<HBBI").pack
    return b"".join(pack(*instruction) for instruction in reversed(writer.out))
