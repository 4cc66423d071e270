"""The docker engine: runs containers, keeps them apart from everything else, and finds them again.

::

    engine.py      the contract: prepare, run, cancel, find again, forget, sweep          on the daemon's loop
    ├── spec.py        parameters and what can be given to a task                          pure
    ├── create.py      the container that is created for a run                             pure
    ├── images.py      present, or pulled with progress and credentials                    in threads
    ├── life.py        one container from its creation to its end, one thread each         in threads
    │   └── streams.py     its output into files, exactly once
    ├── watch.py       disk that runs take, and what they use                              in threads
    ├── outputs.py     what a job left in its outputs, made harmless
    ├── ports.py       ports of this machine for tasks that ask for them
    └── dockerd.py     the SDK, loaded when it is needed; errors in words; is dockerd there?
"""

from __future__ import annotations

from bacalhau_engines.docker.engine import DockerEngine

__all__ = ["DockerEngine"]
