"""The command tree, and how a run ends."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from bacalhau_tui.cli.context import Context
from bacalhau_tui.cli.lazy import LazyGroup, global_options

if TYPE_CHECKING:
    from bacalhau_protocol.errors import BacalhauError

INTERRUPTED, BROKEN_PIPE = 130, 141
_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_PACKAGE = "bacalhau_tui.cli"

EPILOG = """\b
Exit codes:
  0    done; a job that was waited for completed, each of its programs with 0
  1    the job, its input or its node failed
  2    the command, a setting or a request is wrong
  3    the job file is wrong
  4    there is no such job, node, execution or file
  5    not allowed: the credential is missing, refused, or its role may not
  6    nobody answers, or not in time; the same command may work later
  7    not possible in this state
  8    a bug of ours
  10   the job was stopped
  130  interrupted (^C); a job goes on, a download can be taken up
  141  whoever read stdout has gone

After `job run --wait`, `job run --follow` and `job logs -f` the exit code is the job's: that of the first program
(by partition) that did not end with 0.

Data goes to stdout, talk to stderr. Settings come from client.toml in $BACALHAU_CONFIG_DIR (or the platform's place),
from $BACALHAU_NATS, $BACALHAU_CREDS and $BACALHAU_PROFILE, and from options; each is stronger than the one before."""

JOB_COMMANDS = {
    "run": (f"{_PACKAGE}.job_run:run", "Submit a job; wait for it, follow its log."),
    "list": (f"{_PACKAGE}.job_show:list_jobs", "List jobs, newest first."),
    "get": (f"{_PACKAGE}.job_show:get", "Print a job."),
    "describe": (f"{_PACKAGE}.job_describe:describe", "Print all about a job."),
    "executions": (f"{_PACKAGE}.job_show:executions", "List a job's executions."),
    "history": (f"{_PACKAGE}.job_show:history", "Print what happened to a job."),
    "logs": (f"{_PACKAGE}.job_logs:logs", "Print the logs of all executions; -f ends with the job."),
    "results": (f"{_PACKAGE}.job_results:results", "Download results; run again to go on."),
    "stop": (f"{_PACKAGE}.job_show:stop", "Stop a job."),
    "explain": (f"{_PACKAGE}.job_explain:explain", "Say why a job waits, or where a file would run."),
    "validate": (f"{_PACKAGE}.job_run:validate", "Check a job file."),
}
NODE_COMMANDS = {
    "list": (f"{_PACKAGE}.node:list_nodes", "List nodes."),
    "get": (f"{_PACKAGE}.node:get", "Print a node."),
    "invite": (f"{_PACKAGE}.node:invite", "Make a token that lets a node join."),
}
CREDENTIAL_COMMANDS = {
    "issue": (f"{_PACKAGE}.credential:issue", "Make a credential for a user or a node."),
    "revoke": (f"{_PACKAGE}.credential:revoke", "End all credentials of an identity."),
    "list": (f"{_PACKAGE}.credential:list_credentials", "List credentials, without their secrets."),
}


def _group(name: str, text: str, commands: dict[str, tuple[str, str]]) -> click.Group:
    return LazyGroup(name=name, help=text, lazy=commands, context_settings=_HELP, no_args_is_help=True)


job = _group("job", "Run jobs and look after them.", JOB_COMMANDS)
node = _group("node", "The machines that run jobs.", NODE_COMMANDS)
credential = _group("credential", "Who may connect.", CREDENTIAL_COMMANDS)
cluster = _group("cluster", "The cluster as a whole.", {"info": (f"{_PACKAGE}.cluster:info", "How the cluster is.")})
profile = _group(
    "profile", "Clusters in the settings.", {"list": (f"{_PACKAGE}.profile:list_profiles", "List profiles.")}
)


@click.group(
    cls=LazyGroup,
    lazy={
        "job": (f"{__name__}:job", "Run jobs and look after them."),
        "node": (f"{__name__}:node", "The machines that run jobs."),
        "credential": (f"{__name__}:credential", "Who may connect."),
        "cluster": (f"{__name__}:cluster", "The cluster as a whole."),
        "profile": (f"{__name__}:profile", "Clusters in the settings."),
        "version": (f"{_PACKAGE}.cluster:version", "Versions of this program and of the cluster."),
    },
    invoke_without_command=True,
    context_settings=_HELP,
    epilog=EPILOG,
)
@global_options
@click.option("--theme", metavar="NAME", default="", help="Colours of the screens: dark, light, ansi, …")
@click.option("--ascii", "ascii_only", is_flag=True, help="Screens without other characters than ASCII.")
@click.option("--lite", is_flag=True, help="Screens for slow lines: painted less often.")
@click.option("--no-mouse", is_flag=True, help="Screens leave the mouse to the terminal.")
@click.option("--read-only", is_flag=True, help="Screens send nothing that changes the cluster.")
@click.pass_context
def root(ctx: click.Context, theme: str, *, ascii_only: bool, lite: bool, no_mouse: bool, read_only: bool) -> int:
    """A terminal cluster manager for compute over data.

    Without a command it opens the screens, when stdout is a terminal.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    if not sys.stdout.isatty():
        click.echo(ctx.get_help(), err=True)
        return 2
    launch = importlib.import_module("bacalhau_tui.launch")
    return int(
        launch.run(
            ctx.obj.settings,
            launch.Choices(theme=theme, ascii=ascii_only, lite=lite, mouse=not no_mouse, read_only=read_only),
        )
    )


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    context = Context()
    try:
        # Not `root.main`: it would take a broken pipe for a failure.
        with root.make_context("bacalhau-tui", arguments, obj=context) as ctx:
            return _finish(root.invoke(ctx))
    except click.exceptions.Exit as end:
        return _finish(end.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read has gone. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    import traceback  # noqa: PLC0415

    from bacalhau_protocol.errors import BacalhauError, Internal  # noqa: PLC0415  `--help` does without

    if not isinstance(error, BacalhauError):
        traceback.print_exception(error)
        error = Internal(
            f"{type(error).__name__}: {error}", hint="this is a bug; please report it with the lines above"
        )
    say_error(error)
    return error.exit_code


def _finish(code: object) -> int:
    sys.stdout.flush()
    return code if isinstance(code, int) else 0


def say_error(error: BacalhauError) -> None:
    """Say what happened, where, and what to do next."""
    from bacalhau_tui.cli.output import Output  # noqa: PLC0415

    out = Output("table")
    out.say(f"error: {error}")
    if error.hint:
        out.say(f"hint: {error.hint}")
