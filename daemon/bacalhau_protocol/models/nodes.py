"""A document as a tree of nodes, each with its place: what YAML and JSON readers make and `binding` reads.

Trees are frozen and may share branches (YAML aliases); `weight` and `height` count a shared branch at every place where
it stands, so a small text that would unfold into a large document is refused while it is read.
"""

from __future__ import annotations

import enum
import math

import msgspec

from bacalhau_protocol.models.nesting import DEPTH_MAX
from bacalhau_protocol.models.problems import Problem, spec_error
from bacalhau_protocol.models.submission import JOB_BYTES_MAX

Value = str | int | float | bool | None


class Style(enum.Enum):
    """How a scalar was written; it decides what else it may be read as."""

    QUOTED = "quoted"  # a text, whatever it looks like
    PLAIN = "plain"  # what it looks like
    SETTING = "setting"  # from `--set`: what it looks like, or a text where a text is needed


class Scalar(msgspec.Struct, frozen=True):
    """A value without parts. `text` is what was written, `value` what it is read as. Places count from 1."""

    value: Value
    text: str
    style: Style
    line: int = 0
    column: int = 0
    source: str = ""

    @property
    def weight(self) -> int:
        """A lower bound of its encoded size."""
        return len(self.text) + 1

    @property
    def height(self) -> int:
        """How deep it nests."""
        return 0


class Entry(msgspec.Struct, frozen=True):
    """A key with its node; the place is the key's."""

    key: str
    node: Node
    line: int = 0
    column: int = 0
    source: str = ""
    read_as: str = ""  # set when a plain key was not a text, for instance `on`


class Items(msgspec.Struct, frozen=True):
    """A list."""

    items: tuple[Node, ...]
    line: int = 0
    column: int = 0
    weight: int = 0
    height: int = 0
    source: str = ""


class Entries(msgspec.Struct, frozen=True):
    """An object. Keys may repeat: the later one counts."""

    entries: tuple[Entry, ...]
    line: int = 0
    column: int = 0
    weight: int = 0
    height: int = 0
    source: str = ""


Node = Scalar | Items | Entries


def items(nodes: list[Node], line: int, column: int) -> Items:
    """Make a list node, within the limits."""
    weight = 2 + sum(node.weight for node in nodes)
    height = 1 + max((node.height for node in nodes), default=0)
    check_limits(weight, height, line, column)
    return Items(tuple(nodes), line, column, weight, height)


def entries(pairs: list[Entry], line: int, column: int) -> Entries:
    """Make an object node, within the limits."""
    weight = 2 + sum(len(pair.key) + 1 + pair.node.weight for pair in pairs)
    height = 1 + max((pair.node.height for pair in pairs), default=0)
    check_limits(weight, height, line, column)
    return Entries(tuple(pairs), line, column, weight, height)


def check_limits(weight: int, height: int, line: int, column: int) -> None:
    """Raise `SpecError` with the place when a document of this weight (bytes) and height is beyond the limits."""
    if height > DEPTH_MAX:
        raise spec_error([too_deep(line, column)])
    if weight > JOB_BYTES_MAX:
        words = f"with its aliases unfolded, the document is larger than {JOB_BYTES_MAX:,} bytes"
        raise spec_error([Problem("", words, line=line, column=column)])


def too_deep(line: int, column: int) -> Problem:
    """Return the problem of a document that nests too deep at that place."""
    return Problem("", f"lists and objects are nested more than {DEPTH_MAX} deep", line=line, column=column)


def describe(node: Node) -> str:
    """Say what a node is, for messages."""
    match node:
        case Items():
            return "a list"
        case Entries():
            return "an object"
        case Scalar(value=str()):
            return f"the text {msgspec.json.encode(node.text[:60]).decode()}"
        case Scalar(value=bool()):
            return f"the boolean {node.text}"
        case Scalar(value=None):
            return "null"
        case Scalar():
            return f"the number {node.text}"


def plain(node: Node) -> object:
    """Return the node as plain lists, dicts and values; of repeated keys the later one counts."""
    match node:
        case Items():
            return [plain(item) for item in node.items]
        case Entries():
            return {entry.key: plain(entry.node) for entry in node.entries}
        case Scalar():
            return node.value


def number_text(value: float) -> str:
    """Write a number as Go would write it in JSON."""
    return str(int(value)) if isinstance(value, int) or (value.is_integer() and abs(value) < 1e21) else repr(value)


def is_text(text: str) -> bool:
    """Whether a text can be encoded: halves of surrogate pairs cannot."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def is_finite(value: Value) -> bool:
    """Whether JSON can hold this value."""
    return not isinstance(value, float) or math.isfinite(value)
