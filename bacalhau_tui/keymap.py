"""Every action of the screens: id, keys, and what it does in words. Bindings, hints, help and palette come from here.

A user changes keys by id (`[tui] keys = { stop = "ctrl+k" }`). Several keys have commas between them; keys with blanks
between them are a chord: `g g`. A chord reaches the bindings as one made-up key (`chord_g_g`), see `Chords`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from textual.binding import Binding, BindingType
from textual.keys import format_key

from bacalhau_protocol.errors import UsageError

CHORD_S = 0.8
"""How long the second key of a chord may take."""

_CHORD = "chord_"


class Act(NamedTuple):
    """One action. `hint` is its word in the hint bar (blank: not there); `write` ones change the cluster."""

    id: str
    keys: str
    action: str
    help: str
    hint: str = ""
    write: bool = False


GROUPS: dict[str, tuple[Act, ...]] = {
    "app": (
        Act("help", "?,f1", "help", "all keys of this screen", "help"),
        Act("command", ":", "command", "type a command: jobs, nodes, job ID, theme NAME, quit …", "command"),
        Act("palette", "ctrl+p", "palette", "choose among all actions of this screen"),
        Act("quit", "ctrl+q", "quit_now", "leave the program"),
        Act("suspend", "ctrl+z", "suspend_process", "stop the program; the shell's fg brings it back"),
        Act("last", "-", "last_view", "the view before this one"),
    ),
    "frame": (
        Act("back", "escape", "back", "undo a filter, a search, marks; then up one level", "back"),
        Act("leave", "q", "leave", "up one level; at the top, ask whether to quit"),
        Act("refresh", "ctrl+r", "refresh_data", "ask the cluster again"),
        Act("copy", "c", "copy", "copy the id under the cursor to the terminal's clipboard"),
    ),
    "root": (
        Act("jobs", "1", "app.view('jobs')", "the list of jobs", "jobs"),
        Act("nodes", "2", "app.view('nodes')", "the list of nodes", "nodes"),
    ),
    "move": (
        Act("up", "k,up", "move(-1)", "up one line"),
        Act("down", "j,down", "move(1)", "down one line"),
        Act("half_up", "ctrl+u", "page(-0.5)", "up half a page"),
        Act("half_down", "ctrl+d", "page(0.5)", "down half a page"),
        Act("page_up", "ctrl+b,pageup", "page(-1)", "up one page"),
        Act("page_down", "ctrl+f,pagedown", "page(1)", "down one page"),
        Act("top", "g g,home", "top", "to the beginning"),
        Act("bottom", "G,end", "bottom", "to the end"),
    ),
    "sideways": (
        Act("left", "h,left", "sideways(-1)", "to the left"),
        Act("right", "l,right", "sideways(1)", "to the right"),
    ),
    "table": (
        Act("open", "enter", "open", "open what is under the cursor", "open"),
        Act("columns_left", "left", "sideways(-1)", "show columns further left"),
        Act("columns_right", "right", "sideways(1)", "show columns further right"),
        Act("filter", "/", "filter", "show only rows that match: words, state:failed, age<10m …", "filter"),
        Act("problems", "!", "problems", "only what needs attention", "problems"),
        Act("sort_left", "<", "sort(-1)", "sort by the column to the left"),
        Act("sort_right", ">", "sort(1)", "sort by the column to the right"),
        Act("sort_turn", "s", "turn", "sort the other way round"),
        Act("wide", "W", "wide", "more columns, or fewer"),
        Act("mark", "space", "mark", "mark the row; actions apply to all marked rows"),
        Act("mark_all", "*", "mark_all", "mark all rows that are shown"),
        Act("unmark", "u", "unmark", "take all marks away"),
    ),
    "search": (
        Act("search", "/", "search", "look for text", "search"),
        Act("next", "n", "next(1)", "the next place that matches"),
        Act("previous", "N", "next(-1)", "the place before that matches"),
    ),
    "jobs": (
        Act("why", "d", "open_tab('why')", "why a job runs where it runs, or waits", "why"),
        Act("logs", "l", "open_tab('logs')", "the logs of all executions", "logs"),
        Act("results", "o", "open_tab('results')", "the files that it left", "results"),
        Act("history", "e", "open_tab('history')", "what happened to it"),
        Act("spec", "y", "open_tab('spec')", "its specification as YAML"),
        Act("new", "ctrl+n", "new_job", "write a job, from a template or a draft", "new"),
        Act("rerun", "r", "rerun", "write a job that begins as this one", "rerun"),
        Act("stop", "S", "stop", "stop the job, or all marked ones; asks first", "stop", write=True),
    ),
    "editor": (
        Act("complete", "ctrl+@,ctrl+space", "complete", "offer the names that are valid here", "names"),
        Act("complete_tab", "tab", "complete('tab')", "complete the name, offer names, or indent"),
        Act("outdent", "shift+tab", "outdent", "take a step of indentation away"),
    ),
    "compose": (
        Act("submit", "ctrl+g", "submit", "submit the job", "submit", write=True),
        Act("next_problem", "ctrl+n", "next_problem", "go to the next problem", "problem"),
        Act("dry_run", "ctrl+r", "dry_run", "have the cluster check it, submit nothing", "dry run", write=True),
        Act("leave_text", "escape", "back", "leave; what is not submitted is kept as a draft", "leave"),
        Act("template", "ctrl+t", "template", "begin anew from a template or a draft", "template"),
        Act("outside", "ctrl+o", "outside", "edit in $VISUAL or $EDITOR, and come back", "$EDITOR"),
        Act("save", "ctrl+s", "save", "save the text as a file"),
        Act("discard", "ctrl+l", "discard", "throw the text away; asks first"),
        Act("reasons", "ctrl+f", "reasons", "show more of what stands beside the text"),
    ),
    "job": (
        Act("tab_why", "1,d", "tab('why')", "why it runs where it runs, or waits"),
        Act("tab_executions", "2,x", "tab('executions')", "its executions"),
        Act("tab_history", "3,e", "tab('history')", "what happened to it"),
        Act("tab_logs", "4,L", "tab('logs')", "the logs of all executions"),
        Act("tab_results", "5,o", "tab('results')", "the files that it left"),
        Act("tab_spec", "6,y", "tab('spec')", "its specification as YAML"),
        Act("tab_next", "tab", "tab_next(1)", "the next tab"),
        Act("tab_before", "shift+tab", "tab_next(-1)", "the tab before"),
        Act("rerun_this", "r", "rerun", "write a job that begins as this one", "rerun"),
        Act("stop_this", "S", "stop", "stop the job; asks first", "stop", write=True),
    ),
    "executions": (Act("execution_logs", "l", "logs", "the log of this execution", "log"),),
    "node": (
        Act("node_overview", "1,d", "tab('overview')", "what the node is and has"),
        Act("node_executions", "2,x", "tab('executions')", "what runs or ran there"),
        Act("node_tab_next", "tab", "tab_next(1)", "the next tab"),
        Act("node_tab_before", "shift+tab", "tab_next(-1)", "the tab before"),
    ),
    "logs": (
        Act("follow", "F", "follow", "stay at the end as lines come, or stop", "follow"),
        Act("wrap", "w", "wrap", "wrap long lines, or cut them", "wrap"),
        Act("stream", "i", "stream", "stdout, stderr, or both", "stream"),
        Act("matches", "&", "matches", "show only lines with a text", "only"),
        Act("times", "t", "times", "show when lines came"),
    ),
    "results": (
        Act("expand", "enter,l,right", "expand(1)", "open a directory, or go into a file", "open"),
        Act("collapse", "h,left", "expand(-1)", "close a directory"),
        Act("mark_file", "space", "mark", "mark it; what is written are then all marked ones"),
        Act("write", "w", "write", "write it, or what is marked, into a directory; in the background", "write"),
        Act("write_all", "W", "write_all", "write the results of all executions", "all"),
        Act("zoom", "f", "zoom", "give the file the whole screen, or half of it"),
    ),
    "preview": (
        Act("more_file", "+", "more", "fetch more of the file", "more"),
        Act("zoom_file", "f", "zoom", "give the file the whole screen, or half of it", "full"),
        Act("write_this", "w", "write", "write the file into a directory; in the background", "write"),
    ),
    "downloads": (
        Act("download_again", "r", "again", "go on with it", "again"),
        Act("download_stop", "S", "stop_download", "stop it; what is there stays", "stop"),
    ),
    "dialog": (
        Act("dialog_left", "left,h,shift+tab", "choose(-1)", "the choice to the left"),
        Act("dialog_right", "right,l,tab", "choose(1)", "the choice to the right"),
        Act("dialog_take", "enter,space", "take", "take the choice"),
        Act("dialog_yes", "y", "yes", "yes, do it"),
        Act("dialog_cancel", "escape,n,q", "cancel", "leave it"),
    ),
    "palette": (
        Act("palette_up", "up,ctrl+k", "move(-1)", "up"),
        Act("palette_down", "down,ctrl+j", "move(1)", "down"),
        Act("palette_take", "enter", "take", "run it"),
        Act("palette_close", "escape", "close", "close"),
    ),
}
"""By context, in the order in which they are shown."""

ACTS: dict[str, Act] = {act.id: act for group in GROUPS.values() for act in group}

CONTEXTS: dict[str, tuple[str, ...]] = {
    "jobs": ("move", "table", "jobs", "root", "frame", "app"),
    "nodes": ("move", "table", "root", "frame", "app"),
    "job": ("move", "table", "executions", "job", "frame", "app"),
    "page": ("move", "sideways", "search", "job", "frame", "app"),
    "logs": ("move", "sideways", "search", "logs", "job", "frame", "app"),
    "results": ("move", "results", "job", "frame", "app"),
    "preview": ("move", "sideways", "search", "preview", "job", "frame", "app"),
    "downloads": ("move", "table", "downloads", "frame", "app"),
    "node": ("move", "sideways", "search", "node", "frame", "app"),
    "node_executions": ("move", "table", "node", "frame", "app"),
    "compose": ("editor", "compose", "app"),
    "dialog": ("dialog",),
    "palette": ("palette",),
}
"""Groups whose keys work at the same time, the nearest first. Within one, no two actions may have the same key."""


def bindings(*groups: str) -> list[BindingType]:
    """Return the bindings of some groups, for a class's `BINDINGS`."""
    return [
        Binding(_one_key(act.keys), act.action, act.hint or act.help, show=bool(act.hint), tooltip=act.help, id=act.id)
        for group in groups
        for act in GROUPS[group]
    ]


def is_write(action: str) -> bool:
    """Whether an action of this name changes the cluster."""
    return action in _WRITES


_WRITES = frozenset(act.action.partition("(")[0] for act in ACTS.values() if act.write)


def keymap(overrides: Mapping[str, str]) -> dict[str, str]:
    """Return the user's keys as Textual wants them.

    Raises
    ------
    UsageError
        for an action that does not exist, or a key that another action of the same screen has.
    """
    for name in overrides:
        if name not in ACTS:
            close = difflib.get_close_matches(name, ACTS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(ACTS)}"
            raise UsageError(f"no action {name!r} to give keys to", hint=hint, place="[tui] keys")
    for clash in clashes(overrides):
        raise UsageError(clash, hint="give one of them another key", place="[tui] keys")
    return {name: _one_key(keys) for name, keys in overrides.items()}


def clashes(overrides: Mapping[str, str]) -> list[str]:
    """Return a sentence for each key that two actions of one context share."""
    found: list[str] = []
    for context, groups in CONTEXTS.items():
        owners: dict[str, str] = {}
        for group in groups:
            for act in GROUPS[group]:
                for key in _keys(overrides.get(act.id, act.keys)):
                    before = owners.setdefault(key, act.id)
                    if before != act.id:
                        found.append(f"{key!r} is both {before!r} and {act.id!r} ({context})")
    return found


def _keys(keys: str) -> list[str]:
    return [key.strip() for key in keys.split(",") if key.strip()]


def _one_key(keys: str) -> str:
    """Turn chords into made-up keys."""
    return ",".join(_CHORD + "_".join(key.split()) if " " in key else key for key in _keys(keys))


def key_name(key: str) -> str:
    """Return a key as people write it: `g g`, `^n`, `esc`, `?`."""
    if key.startswith(_CHORD):
        return " ".join(key.removeprefix(_CHORD).split("_"))
    names = {
        "enter": "enter",
        "escape": "esc",
        "ctrl+@": "^space",
        "pageup": "pgup",
        "pagedown": "pgdn",
        "shift+tab": "S-tab",
    }
    if key in names:
        return names[key]
    return f"^{key.removeprefix('ctrl+')}" if key.startswith("ctrl+") else format_key(key)


class Chords:
    """Recognises two keys typed one after the other. It holds the first back until the second tells."""

    def __init__(self) -> None:
        self.held = ""

    def feed(self, key: str, bound: Iterable[str]) -> list[str]:
        """Take a key; return the keys to handle now. `bound` are all keys that are bound where the focus is."""
        chords = [name.removeprefix(_CHORD).split("_") for name in bound if name.startswith(_CHORD)]
        first, self.held = self.held, ""
        if first and [first, key] in chords:
            return [f"{_CHORD}{first}_{key}"]
        if any(chord[0] == key for chord in chords):
            self.held = key
            return [first] if first else []
        return [first, key] if first else [key]

    def expire(self) -> list[str]:
        """The second key did not come: return the first, if one was held."""
        held, self.held = self.held, ""
        return [held] if held else []
