"""The `:` commands. Each is one method of the app; a name may be shortened as long as it means one command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bacalhau_protocol.errors import UsageError
from bacalhau_tui.data.query import Command, FilterError, parse_command
from bacalhau_tui.data.templates import TEMPLATES, find_template

if TYPE_CHECKING:
    from bacalhau_tui.app import ClusterApp

ALIASES = {"j": "jobs", "n": "nodes", "q": "quit", "q!": "quit", "h": "help"}
OFFERED_MAX = 50


class CommandSpec(NamedTuple):
    """What a command does, and what its argument may be completed to."""

    help: str
    run: Callable[[ClusterApp, Command], None]
    values: Callable[[ClusterApp], Sequence[str]] = lambda app: ()


def _one(command: Command, what: str) -> str:
    words = command.words
    if len(words) != 1:
        raise FilterError(f":{command.name} takes {what}", start=0, end=0)
    return words[0]


def _view(name: str) -> Callable[[ClusterApp, Command], None]:
    return lambda app, command: app.open_list(name, command.rest)


def _job(tab: str) -> Callable[[ClusterApp, Command], None]:
    def run(app: ClusterApp, command: Command) -> None:
        name = _one(command, "a job's id, the beginning of one, or its name")
        row = app.find_job(name)
        app.open_job(row.id if row else name, row.namespace if row else app.settings.profile.namespace, tab)

    return run


def _node(app: ClusterApp, command: Command) -> None:
    app.open_node(_one(command, "a node's id, or the beginning of one"))


def _templates(app: ClusterApp) -> Sequence[str]:
    return [template.name for template in TEMPLATES]


def _new(app: ClusterApp, command: Command) -> None:
    from bacalhau_tui.screens.compose import compose_from, compose_new  # noqa: PLC0415  imported when first shown

    template = find_template(_one(command, "the name of a template")) if command.words else None
    if command.words and template is None:
        raise UsageError(f"no template {command.rest!r}", hint=f"there are: {', '.join(_templates(app))}")
    if template is None:
        compose_new(app)
    else:
        compose_from(app, template)


def _theme(app: ClusterApp, command: Command) -> None:
    name = app.find_theme(_one(command, "the name of a theme"))
    if not name:
        raise UsageError(f"no theme {command.rest!r}", hint=f"there are: {', '.join(app.theme_names())}")
    app.theme = name


def _jobs_known(app: ClusterApp) -> Sequence[str]:
    return list(app.store.jobs.rows())


COMMANDS: dict[str, CommandSpec] = {
    "jobs": CommandSpec("the list of jobs; a filter may follow: :jobs state:failed", _view("jobs")),
    "nodes": CommandSpec("the list of nodes; a filter may follow", _view("nodes")),
    "job": CommandSpec("open a job by its id or name", _job(""), _jobs_known),
    "why": CommandSpec("why a job runs where it runs, or waits", _job("why"), _jobs_known),
    "executions": CommandSpec("the executions of a job", _job("executions"), _jobs_known),
    "history": CommandSpec("what happened to a job", _job("history"), _jobs_known),
    "spec": CommandSpec("the specification of a job", _job("spec"), _jobs_known),
    "logs": CommandSpec("the logs of a job", _job("logs"), _jobs_known),
    "results": CommandSpec("the files that a job left", _job("results"), _jobs_known),
    "downloads": CommandSpec("downloads of results, and how they go", lambda app, command: app.open_downloads()),
    "new": CommandSpec("write a job; a template may follow: :new docker", _new, _templates),
    "node": CommandSpec("open a node by its id", _node, lambda app: list(app.store.nodes.rows())),
    "theme": CommandSpec("other colours: dark, light, ansi, …", _theme, lambda app: app.theme_names()),
    "help": CommandSpec("all keys of this screen", lambda app, command: app.show_help()),
    "quit": CommandSpec("leave the program", lambda app, command: app.exit(0)),
}


def run_command(app: ClusterApp, text: str) -> None:
    """Carry a command out. Raises `FilterError` for one that cannot be understood, or as the command does."""
    if text.strip():
        command = parse_command(text, list(COMMANDS), ALIASES)
        COMMANDS[command.name].run(app, command)


def complete_command(app: ClusterApp, text: str) -> list[str]:
    """Return whole commands that the text could become."""
    name, blank, rest = text.partition(" ")
    if not blank:
        return [each for each in COMMANDS if name and each.startswith(name)]
    spec = COMMANDS.get(ALIASES.get(name, name))
    values = spec.values(app) if spec is not None and rest else ()
    return [f"{name} {value}" for value in values if value.startswith(rest)][:OFFERED_MAX]
