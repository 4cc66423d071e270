"""The docker engine keeps the contract of engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from shlex import quote

import pytest

from bacalhau_engines.docker import DockerEngine
from bacalhau_engines.testing import Behaviour, EngineContract, EngineKit, Program
from bacalhau_protocol.models.job import SpecConfig
from bacalhau_protocol.plugins import ENGINES, Engine, PluginContext, names
from tests.builders_docker import IMAGE, docker_engine, shell


class DockerKit(EngineKit):
    def create(self, context: PluginContext) -> Engine:
        return DockerEngine(context)

    def program(self, behaviour: Behaviour) -> Program:
        lines = []
        if behaviour.stdout:
            lines.append(f"printf %s {quote(behaviour.stdout)}")
        if behaviour.stderr:
            lines.append(f"printf %s {quote(behaviour.stderr)} >&2")
        if behaviour.print_env:
            lines.append(f'echo "${behaviour.print_env}"')
        if behaviour.print_input:
            lines.append(f"cat {behaviour.print_input}")
        for path, text in behaviour.files.items():
            lines.append(f"mkdir -p $(dirname /out/{path}); printf %s {quote(text)} > /out/{path}")
        if behaviour.eat_memory:
            lines.append("tail /dev/zero")
        if behaviour.endless:
            lines.append("while true; do sleep 3600; done")
        return shell(*lines, f"exit {behaviour.exit_code}")

    def broken(self) -> Program:
        return Program(SpecConfig(type="docker", params={"Image": IMAGE, "Entrypoint": ["no-such-program"]}))


@pytest.mark.needs_docker
@pytest.mark.usefixtures("busybox")
class TestDocker(EngineContract):
    kit = DockerKit()

    @pytest.fixture
    async def engine(self, tmp_path: Path) -> AsyncIterator[Engine]:
        """An engine of which nothing is left."""
        async with docker_engine(tmp_path) as engine:
            yield engine


def test_it_is_installed_as_a_plug_in() -> None:
    """The entry point names it."""
    assert "docker" in names(ENGINES)
