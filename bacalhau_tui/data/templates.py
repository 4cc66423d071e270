"""Texts to begin a job from; each is a valid job file, and says in comments what to change."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

DIRECTORY = Path(__file__).parents[1] / "compose"


class Template(NamedTuple):
    """A text and what it is, in a line."""

    name: str
    words: str
    file: str

    @property
    def text(self) -> str:
        """The text."""
        return (DIRECTORY / self.file).read_text(encoding="utf-8")


TEMPLATES = (
    Template("wasm", "a WebAssembly module that is in the file: runs on any node with the wasm engine", "wasm.yaml"),
    Template("docker", "a container; what it writes into /outputs is its result", "docker.yaml"),
    Template("data", "a WebAssembly module over data that lies on the nodes", "data.yaml"),
    Template("noop", "does nothing for as long as you say, to try a cluster out", "noop.yaml"),
    Template("empty", "nothing but the two keys that every job has", "empty.yaml"),
)


def find_template(name: str) -> Template | None:
    """Return the template of this name."""
    return next((template for template in TEMPLATES if template.name == name), None)
