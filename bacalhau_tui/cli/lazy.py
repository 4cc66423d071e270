"""Command groups that import a command only when it runs, and options that every command takes."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class LazyGroup(click.Group):
    """A group that knows its commands as `name: (module:attribute, help)`."""

    def __init__(self, *arguments: Any, lazy: dict[str, tuple[str, str]], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Offer the nearest command for one that does not exist."""
        import difflib  # noqa: PLC0415

        if args and not args[0].startswith("-") and args[0] not in self._lazy:
            near = difflib.get_close_matches(args[0], self._lazy, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self._lazy)}"
            ctx.fail(f"no command {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)


def _keep(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value and parameter.name:
        ctx.obj.flags[parameter.name] = value
    return value


def global_options(function: F) -> F:
    """Add the options that can stand before or behind any command."""
    for option in (
        click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), help="How data is printed."),
        click.option("--profile", metavar="NAME", help="Which cluster, by its name in the settings."),
        click.option("--creds", metavar="FILE", help="Credential file."),
        click.option("--nats", metavar="URL", help="Address of the cluster, nats://HOST:PORT."),
    ):
        function = option(function)
    parameters: list[click.Parameter] = getattr(function, "__click_params__", [])
    for parameter in parameters[-4:]:
        parameter.expose_value = False
        parameter.callback = _keep
    return function


def command(name: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a command that takes the global options too and gets the run's `Context` first."""

    def make(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def with_context(**options: Any) -> Any:
            return function(click.get_current_context().obj, **options)

        decorate: Callable[[Callable[..., Any]], click.Command] = click.command(name, click.Command, **settings)
        return decorate(global_options(with_context))

    return make


job_argument = click.argument("job")
namespace_option = click.option("--namespace", metavar="NAME", help="Where the job is; the profile's by default.")
