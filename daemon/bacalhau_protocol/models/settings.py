"""`--set KEY=VALUE`: changes to a document before it is bound. `Count=3`, `Tasks[0].Env.MODE=fast`, `Labels["a.b"]=x`.

Keys of structs match without letter case, as in files; a name that does not exist is refused, with the nearest one. A
value is a number, a boolean or null when it looks like one and a text is not needed; `[…]`, `{…}` and quotes are YAML.
What does not exist yet is made: keys anywhere, and one element at the end of a list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import reduce

import msgspec
from msgspec import inspect

from bacalhau_protocol.models import nodes
from bacalhau_protocol.models.binding import fields_of, info_of, without_null
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.nodes import Entries, Entry, Items, Node, Scalar, Style
from bacalhau_protocol.models.problems import Problem, join, nearest, quote, spec_error
from bacalhau_protocol.models.yaml_nodes import read_yaml, resolve_plain

Step = str | int
_STEP = re.compile(
    r'(?:^|\.)([A-Za-z_][A-Za-z0-9_/-]*)|\[(\d{1,6})\]|\.?\["((?:[^"\\]|\\.)*)"\]|\.?"((?:[^"\\]|\\.)*)"'
)
_ESCAPE = re.compile(r"\\(.)")
_HINT = "write KEY=VALUE, for instance Count=3 or Tasks[0].Env.MODE=fast"


def apply_settings(root: Node, settings: Sequence[str]) -> Node:
    """Return the document with these settings, the later over the earlier. Raises `SpecError` naming the setting."""
    return reduce(_apply, settings, root)


def _apply(root: Node, setting: str) -> Node:
    steps, value = _parse(setting)
    return _Setter(setting, value).put(root, info_of(Job), steps, "")


def _parse(setting: str) -> tuple[list[Step], str]:
    steps: list[Step] = []
    at = 0
    while found := _STEP.match(setting, at):
        word, index, bracketed, quoted = found.groups()
        text = word or bracketed or quoted or ""
        steps.append(int(index) if index is not None else _ESCAPE.sub(r"\1", text))
        at = found.end()
    if not steps or setting[at : at + 1] != "=":
        raise _refuse(setting, "", "not a path and a value", _HINT)
    try:
        setting.encode()
    except UnicodeEncodeError as error:
        raise _refuse(setting, "", "not UTF-8 text") from error
    return steps, setting[at + 1 :]


def _refuse(setting: str, path: str, words: str, hint: str = "", near: str = "") -> Exception:
    shown = setting if len(setting) <= 40 else setting[:40] + "…"
    return spec_error([Problem(path, words, hint, near, source=f"--set {shown.encode(errors='replace').decode()}")])


class _Setter:
    """Rebuilds the branch that leads to one value."""

    def __init__(self, setting: str, value: str) -> None:
        self._setting = setting
        self._text = value
        self._source = f"--set {setting.partition('=')[0]}"

    def put(self, node: Node | None, kind: inspect.Type, steps: list[Step], path: str) -> Node:
        if not steps:
            return self._read(path)
        if isinstance(node, Scalar) and node.value is None:
            node = None
        step, rest = steps[0], steps[1:]
        kind = without_null(kind)
        if isinstance(step, int):
            if not isinstance(kind, (inspect.VarTupleType, inspect.AnyType)):
                raise _refuse(self._setting, path, f"{path or 'the job'} is not a list")
            item = kind.item_type if isinstance(kind, inspect.VarTupleType) else kind
            return self._put_item(node, item, step, rest, path)
        return self._put_entry(node, kind, step, rest, path)

    def _put_item(self, node: Node | None, kind: inspect.Type, index: int, rest: list[Step], path: str) -> Node:
        if node is not None and not isinstance(node, Items):
            raise _refuse(self._setting, path, f"found {nodes.describe(node)}, not a list")
        children = list(node.items) if node else []
        if index > len(children):
            raise _refuse(
                self._setting, f"{path}[{index}]", f"beyond the end of the list, which has length {len(children)}"
            )
        old = children[index] if index < len(children) else None
        children[index : index + 1] = [self.put(old, kind, rest, f"{path}[{index}]")]
        return nodes.items(children, node.line if node else 0, node.column if node else 0)

    def _put_entry(self, node: Node | None, kind: inspect.Type, key: str, rest: list[Step], path: str) -> Node:
        if node is not None and not isinstance(node, Entries):
            raise _refuse(self._setting, path, f"found {nodes.describe(node)}, not an object")
        pairs = list(node.entries) if node else []
        name, child = self._child(kind, key, path)
        folds = not isinstance(kind, inspect.DictType) or isinstance(kind.value_type, inspect.AnyType)
        at = _position(pairs, name, folds=folds)
        old = pairs[at] if at < len(pairs) else Entry(name, Scalar(None, "", Style.PLAIN))
        made = self.put(old.node, child, rest, join(path, name))
        if rest and at < len(pairs):
            pairs[at] = msgspec.structs.replace(old, node=made)
        else:
            pairs[at : at + 1] = [Entry(old.key, made, source=self._source)]
        return nodes.entries(pairs, node.line if node else 0, node.column if node else 0)

    def _child(self, kind: inspect.Type, key: str, path: str) -> tuple[str, inspect.Type]:
        """Return the key in its right spelling, and what its value may be."""
        match kind:
            case inspect.StructType():
                fields = fields_of(kind.cls)
                name = key if key in fields else next((each for each in fields if each.lower() == key.lower()), "")
                if not name:
                    near = nearest(key, fields)
                    hint = "" if near else f"known are {', '.join(fields)}"
                    raise _refuse(self._setting, join(path, key), "unknown key", hint, near)
                return name, fields[name].type
            case inspect.DictType():
                return key, kind.value_type
            case inspect.AnyType():
                return key, kind
            case _:
                raise _refuse(self._setting, path, f"{path} has no keys below it")

    def _read(self, path: str) -> Node:
        text = self._text
        if text[:1] not in ("[", "{", '"', "'") or not text:
            value = resolve_plain(text)
            if not nodes.is_finite(value):
                raise _refuse(self._setting, path, f"{quote(text)} is not a number that a job can hold")
            return Scalar(value, text, Style.SETTING, source=self._source)
        try:
            node = read_yaml(text)
        except Exception as error:
            raise _refuse(self._setting, path, f"the value is not YAML: {error}") from error
        return _moved(node if node is not None else Scalar(None, "", Style.PLAIN), self._source)


def _position(pairs: list[Entry], name: str, *, folds: bool) -> int:
    """Return the index of the entry that counts under this name, or the index after the last."""
    same = [index for index, pair in enumerate(pairs) if pair.key == name]
    if folds and not same:
        same = [index for index, pair in enumerate(pairs) if pair.key.lower() == name.lower()]
    return same[-1] if same else len(pairs)


def _moved(node: Node, source: str) -> Node:
    """Give a whole branch this source instead of places in the text of the value."""
    match node:
        case Scalar():
            return msgspec.structs.replace(node, line=0, column=0, source=source)
        case Items():
            children = tuple(_moved(item, source) for item in node.items)
            return msgspec.structs.replace(node, items=children, line=0, column=0, source=source)
        case Entries():
            pairs = tuple(
                msgspec.structs.replace(pair, node=_moved(pair.node, source), line=0, column=0, source=source)
                for pair in node.entries
            )
            return msgspec.structs.replace(node, entries=pairs, line=0, column=0, source=source)
