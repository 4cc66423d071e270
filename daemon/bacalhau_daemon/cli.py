"""The command line of the daemon. Imports little: what a command needs is imported when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from bacalhau_protocol import errors

F = TypeVar("F", bound=Callable[..., Any])

PROGRAM = "bacalhau-daemon"


def main() -> NoReturn:
    """Run the command line; errors are printed for people, their class is the exit status."""
    try:
        cli(prog_name=PROGRAM, standalone_mode=False)
    except errors.BacalhauError as error:
        _print_error(error)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        import traceback  # noqa: PLC0415  only for a bug

        traceback.print_exc()
        bug = errors.Internal(f"{type(error).__name__}: {error}", hint="this is a bug: report it with the lines above")
        _print_error(bug)
        sys.exit(bug.exit_code)
    sys.exit(0)


def _print_error(error: errors.BacalhauError) -> None:
    click.echo(f"{PROGRAM}: {error}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)


def _version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib import metadata  # noqa: PLC0415  slow

        click.echo(f"{PROGRAM} {metadata.version('bacalhau-tui')}")
        context.exit()


def data_dir_option(command: F) -> F:
    """Add `--data-dir`."""
    return click.option(
        "--data-dir", metavar="DIR", help="Where this daemon keeps everything (default: the user's data directory)."
    )(command)


def config_option(command: F) -> F:
    """Add `--config`."""
    return click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Settings (TOML; default: daemon.toml in the user's configuration directory).",
    )(command)


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    subcommand_metavar="[COMMAND]",
)
@click.option("--orchestrator", is_flag=True, help="Lead a cluster: schedule jobs, serve clients and compute nodes.")
@click.option("--compute", is_flag=True, help="Run jobs on this machine.")
@data_dir_option
@click.option("--listen", metavar="HOST:PORT", help="Where the orchestrator listens (default: 127.0.0.1:4222).")
@click.option("--join", metavar="TOKEN", help="Join a cluster: a token of `node invite`, or nats://TOKEN@HOST:PORT.")
@click.option("--name", metavar="NAME", help="The node's id: letters, digits, - and _ (default: made at first start).")
@click.option("--label", "labels", metavar="K=V", multiple=True, help="A label of this node; may be repeated.")
@click.option(
    "--allow-path",
    "allow_paths",
    metavar="GLOB[:rw|:ro]",
    multiple=True,
    help="Local paths that jobs may use as inputs (read-only unless :rw); may be repeated.",
)
@config_option
@click.option("--log-format", type=click.Choice(["console", "json"]), help="Form of this daemon's own log (stderr).")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level that is logged."
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> None:
    """Run a Bacalhau daemon: an orchestrator, a compute node, or both in one process.

    Settings come from a file, variables BACALHAU_DAEMON_… and these flags, in that order of strength. The exit
    status is 0 after a stop that was asked for, 2 for wrong settings, 6 when something that it needs is not available,
    7 when another daemon uses the data directory, 8 for a damaged log and for a bug.
    """
    if context.invoked_subcommand is not None:
        context.obj = options
        return
    from bacalhau_daemon import logs, process  # noqa: PLC0415  not for `--help`

    settings = _settings(options)
    if not settings.orchestrator.enabled and not settings.compute.enabled:
        raise errors.UsageError("no role was given", hint="--orchestrator, --compute, or both")
    logs.configure(settings.log_format, settings.log_level)
    process.main(settings)


def _settings(options: dict[str, Any]) -> Any:
    from bacalhau_daemon import config  # noqa: PLC0415  not for `--help`

    flags: config.Table = {name: options[name] for name in ("data_dir", "name", "log_format", "log_level")}
    flags["orchestrator"] = {"enabled": options["orchestrator"] or None, "listen": options["listen"]}
    flags["compute"] = {
        "enabled": options["compute"] or None,
        "join": options["join"],
        "labels": _labels(options["labels"]) or None,
        "allow_paths": list(options["allow_paths"]) or None,
    }
    return config.load(options["config"], os.environ, _given(flags))


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """Leave out what was not said."""
    found = {name: _given(value) if isinstance(value, dict) else value for name, value in flags.items()}
    return {name: value for name, value in found.items() if value is not None and value != {}}


def _labels(pairs: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise errors.UsageError(f"{pair!r} is not K=V", place="--label")
        found[name] = value
    return found


def _data_path(context: click.Context, data_dir: str | None) -> Path:
    """Return the data directory of a subcommand; `--data-dir` may stand before or behind its name."""
    options = dict(context.obj)
    if data_dir is not None:
        options["data_dir"] = data_dir
    path: Path = _settings(options).data_path
    return path


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@data_dir_option
@click.pass_context
def backup(context: click.Context, file: Path, data_dir: str | None) -> None:
    """Write the cluster's log and keys to FILE. Works while the daemon runs; verifies every record."""
    from bacalhau_daemon import maintenance  # noqa: PLC0415

    click.echo(maintenance.backup(_data_path(context, data_dir), file))


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@data_dir_option
@click.pass_context
def restore(context: click.Context, file: Path, data_dir: str | None) -> None:
    """Make the cluster's log and keys from the backup FILE. The daemon must not run; the old log is kept beside it."""
    from bacalhau_daemon import maintenance  # noqa: PLC0415

    click.echo(maintenance.restore(_data_path(context, data_dir), file))


@cli.command()
@data_dir_option
@click.pass_context
def check(context: click.Context, data_dir: str | None) -> None:
    """Verify all of the log: its hash chain, its numbers, and that every event can be read."""
    from bacalhau_daemon import maintenance  # noqa: PLC0415

    click.echo(maintenance.check(_data_path(context, data_dir)))


@cli.command()
@data_dir_option
@click.pass_context
def rebuild(context: click.Context, data_dir: str | None) -> None:
    """Delete the query side and make it again from the log. The daemon must not run."""
    from bacalhau_daemon import maintenance  # noqa: PLC0415

    click.echo(maintenance.rebuild(_data_path(context, data_dir)))
