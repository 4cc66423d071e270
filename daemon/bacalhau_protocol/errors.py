"""The one error taxonomy: the same over NATS, in exit codes and on screens.

::

    BacalhauError
    ├── SpecError            the job file is wrong                    fault: spec
    ├── UsageError           the command or the request is wrong      fault: caller
    ├── NotFound             no such job, node, execution, file       fault: caller
    ├── Conflict             not in this state                        fault: caller
    ├── Forbidden            this credential may not                  fault: caller
    ├── Unauthenticated      no, wrong or expired credential          fault: caller
    ├── Busy                 a limit is reached; try again            fault: platform, retryable
    ├── Unavailable          nobody answers, or not now               fault: platform, retryable
    ├── TimedOut             no answer within the time                fault: platform, retryable
    ├── InputFailed          an input could not be prepared           fault: input
    ├── NodeFailed           the compute node could not do it         fault: node
    ├── ApplicationFailed    the job's own program failed             fault: application
    └── Internal             our bug                                  fault: platform

An error says what happened (`message`), where (`place`), and what to do next (`hint`). `details` holds
strings only. `to_wire` and `from_wire` carry an error over NATS without losing any of it.
"""

from __future__ import annotations

import enum
from typing import Any, ClassVar

import msgspec


class Fault(enum.StrEnum):
    """Whose fault an error is; a screen colours by it and a retry policy decides by it."""

    SPEC = "spec"
    CALLER = "caller"
    INPUT = "input"
    NODE = "node"
    APPLICATION = "application"
    PLATFORM = "platform"


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it travels: JSON in a reply's body, beside the `Nats-Service-Error*` headers."""

    code: str
    message: str
    hint: str = ""
    place: str = ""
    retryable: bool = False
    fault: Fault = Fault.PLATFORM
    details: dict[str, str] = {}


class BacalhauError(Exception):
    """Base of all errors that a person may read."""

    code: ClassVar[str] = "Internal"
    fault: ClassVar[Fault] = Fault.PLATFORM
    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 8
    http_status: ClassVar[int] = 500

    def __init__(
        self, message: str, *, hint: str = "", place: str = "", details: dict[str, str] | None = None, **extra: Any
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.place = place
        self.details: dict[str, str] = {**(details or {}), **{name: str(value) for name, value in extra.items()}}

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message

    def to_info(self) -> ErrorInfo:
        """Return the plain value that travels."""
        return ErrorInfo(
            code=self.code,
            message=self.message,
            hint=self.hint,
            place=self.place,
            retryable=self.retryable,
            fault=self.fault,
            details=self.details,
        )

    def to_wire(self) -> bytes:
        """Encode for a reply's body."""
        return msgspec.json.encode(self.to_info())


class SpecError(BacalhauError):
    """The job specification is wrong."""

    code = "SpecError"
    fault = Fault.SPEC
    exit_code = 3
    http_status = 400


class UsageError(BacalhauError):
    """The command, a setting or a request is wrong."""

    code = "UsageError"
    fault = Fault.CALLER
    exit_code = 2
    http_status = 400


class NotFound(BacalhauError):
    """There is no such thing."""

    code = "NotFound"
    fault = Fault.CALLER
    exit_code = 4
    http_status = 404


class Conflict(BacalhauError):
    """The thing is not in a state that allows this."""

    code = "Conflict"
    fault = Fault.CALLER
    exit_code = 7
    http_status = 409


class Forbidden(BacalhauError):
    """This credential may not do that."""

    code = "Forbidden"
    fault = Fault.CALLER
    exit_code = 5
    http_status = 403


class Unauthenticated(BacalhauError):
    """The credential is missing, wrong, expired or revoked."""

    code = "Unauthenticated"
    fault = Fault.CALLER
    exit_code = 5
    http_status = 401


class Busy(BacalhauError):
    """A limit is reached; the same request may succeed later."""

    code = "Busy"
    retryable = True
    exit_code = 6
    http_status = 429


class Unavailable(BacalhauError):
    """Nobody answers, or the service cannot take this now."""

    code = "Unavailable"
    retryable = True
    exit_code = 6
    http_status = 503


class TimedOut(BacalhauError):
    """No answer within the time allowed; the request may or may not have been carried out."""

    code = "TimedOut"
    retryable = True
    exit_code = 6
    http_status = 504


class InputFailed(BacalhauError):
    """An input could not be read, downloaded or verified."""

    code = "InputFailed"
    fault = Fault.INPUT
    exit_code = 1
    http_status = 500


class NodeFailed(BacalhauError):
    """The compute node could not prepare, run or publish."""

    code = "NodeFailed"
    fault = Fault.NODE
    exit_code = 1
    http_status = 500


class ApplicationFailed(BacalhauError):
    """The job's own program failed, was killed by a limit, or took too long."""

    code = "ApplicationFailed"
    fault = Fault.APPLICATION
    exit_code = 1
    http_status = 500


class Internal(BacalhauError):
    """A bug of ours: please report it."""

    code = "Internal"


_BY_CODE: dict[str, type[BacalhauError]] = {kind.code: kind for kind in BacalhauError.__subclasses__()}


def from_info(info: ErrorInfo) -> BacalhauError:
    """Rebuild an error that came over the wire; an unknown code becomes `Internal` and keeps its code in `details`."""
    kind = _BY_CODE.get(info.code, Internal)
    details = dict(info.details) if info.code in _BY_CODE else {**info.details, "code": info.code}
    return kind(info.message, hint=info.hint, place=info.place, details=details)


def from_wire(data: bytes) -> BacalhauError:
    """Decode `BacalhauError.to_wire`."""
    try:
        return from_info(msgspec.json.decode(data, type=ErrorInfo))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return Internal(f"the error reply could not be read: {error}")
