"""A job that is being written: checked while it is typed, matched with the nodes, kept as a draft, submitted.

Everything follows the text: `set_text` is called at each change; what is known of an older text is replaced as soon as
it is known of the newer one. Checking is done in a thread, so that a long text never holds up the keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Callable

import msgspec

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.client import Client
from bacalhau_protocol.models.job import Job
from bacalhau_protocol.models.problems import Problem, problems_of
from bacalhau_protocol.models.spec import read_spec
from bacalhau_tui.data.drafts import Draft

CHECK_PAUSE_S = 0.05
"""A text is checked when no key has come for so long; the words have to be there within 200 ms of a key."""
CHECK_WAIT_MAX_S = 0.15  # somebody who never pauses sees problems too
MATCH_PAUSE_S = 0.3  # the cluster is asked less often
KEEP_PAUSE_S = 0.4  # a draft is written at most this long after a change


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a text: the job when it is valid, problems by line, warnings among them."""

    text: str
    job: Job | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def wrong(self) -> list[Problem]:
        """Those that forbid to submit it."""
        return [problem for problem in self.problems if not problem.warning]


def check(text: str) -> Checked:
    """Check a text. Never raises: what is wrong is in the answer."""
    try:
        parsed = read_spec(text, "")
    except errors.SpecError as error:
        return Checked(text=text, problems=tuple(problems_of(error)))
    return Checked(text=text, job=parsed.job, problems=parsed.warnings)


class Composer:
    """See the module. `require` returns the client, or raises `Unavailable` while nothing can be sent."""

    def __init__(
        self, require: Callable[[], Client], draft: Draft, *, namespace: str = "default", wake: Callable[[], None]
    ) -> None:
        self.draft, self.namespace = draft, namespace
        self.text = ""
        self.checked: Checked | None = None
        self.match: m.Explanation | None = None  # of the newest valid text that was asked about
        self.match_error: errors.BacalhauError | None = None
        self.rejection: errors.BacalhauError | None = None  # why this text was not taken
        self.dry: m.JobSubmitted | None = None  # what a dry run of this text came to
        self.draft_error: errors.BacalhauError | None = None
        self.busy = ""  # what is being waited for
        self.force = False  # submit also what changes nothing: somebody asked to run it again
        self._begun = ""  # the text that it began with: no draft
        self._require, self._wake = require, wake
        self._changed = asyncio.Event()
        self._unkept = asyncio.Event()
        self._matching: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._request_id = ""
        self._insisting = False  # the next submission of this text runs it though nothing has changed

    # ── life ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def start(self, text: str, *, is_draft: bool = False) -> None:
        """Begin with a text. One that is no draft becomes one when it is changed."""
        self.text, self._begun = text, "" if is_draft else text
        self._changed.set()
        self._tasks = [
            asyncio.create_task(self._check_changes(), name="check"),
            asyncio.create_task(self._keep_changes(), name="keep draft"),
        ]

    async def close(self) -> None:
        """End; what is not kept yet is kept now."""
        self.keep_now()
        tasks = [*self._tasks, *([self._matching] if self._matching else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def set_text(self, text: str) -> None:
        """Take the text as it is now."""
        if text == self.text:
            return
        self.text, self.rejection, self.dry, self._request_id, self._insisting = text, None, None, "", False
        self._changed.set()
        self._unkept.set()

    @property
    def is_changed(self) -> bool:
        """Whether there is something that a draft is kept of."""
        return self.text != self._begun and bool(self.text.strip())

    @property
    def is_current(self) -> bool:
        """Whether the text has been checked as it is now."""
        return self.checked is not None and self.checked.text == self.text

    # ── draft ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def keep_now(self) -> None:
        """Write the draft if something has changed since it was written."""
        if not self._unkept.is_set():
            return
        self._unkept.clear()
        try:
            self.draft.keep(self.text if self.is_changed else "")
            self.draft_error = None
        except errors.BacalhauError as error:
            self.draft_error = error
            self._wake()

    def discard(self) -> None:
        """Throw the draft away."""
        self._begun = self.text
        self._unkept.clear()
        self.draft.drop()

    async def _keep_changes(self) -> None:
        while True:
            await self._unkept.wait()
            await asyncio.sleep(KEEP_PAUSE_S)
            self.keep_now()

    # ── checking ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _check_changes(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            end = loop.time() + CHECK_WAIT_MAX_S
            while self._changed.is_set() and loop.time() < end:
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(CHECK_PAUSE_S, end - loop.time())):
                        await self._changed.wait()
            self._changed.clear()
            self.checked = await asyncio.to_thread(check, self.text)
            self._match_soon(self.checked.job)
            self._wake()

    async def settled(self) -> Checked:
        """Return what is known of the text as it is now."""
        if self.checked is None or self.checked.text != self.text:
            self.checked = await asyncio.to_thread(check, self.text)
            self._wake()
        return self.checked

    # ── matching ──────────────────────────────────────────────────────────────────────────────────────────────────

    def match_again(self) -> None:
        """Ask the cluster once more: nodes have come or gone, or the link is back."""
        self._match_soon(self.checked.job if self.checked is not None else None, at_once=True)

    def _match_soon(self, job: Job | None, *, at_once: bool = False) -> None:
        if self._matching is not None:
            self._matching.cancel()
        self._matching = asyncio.create_task(self._ask(job, 0 if at_once else MATCH_PAUSE_S)) if job else None

    async def _ask(self, job: Job, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        try:
            self.match = await self._require().explain(m.JobExplain(spec=job, namespace=self.namespace))
            self.match_error = None
        except errors.BacalhauError as error:
            self.match_error = error
        self._wake()

    # ── submitting ────────────────────────────────────────────────────────────────────────────────────────────────

    async def dry_run(self) -> None:
        """Have the cluster say what it would make of the job: the answer is in `dry`, a refusal in `rejection`."""
        if (job := (await self.settled()).job) is not None:
            self.dry = await self._send("dry run", job, dry_run=True)
            self._wake()

    async def submit(self) -> m.JobSubmitted | None:
        """Submit the job. None when it was not taken: `rejection` says why, or the text is wrong. The text stays."""
        if (job := (await self.settled()).job) is None:
            return None
        # A text that was sent, and of which nothing was heard, is sent again under the same id: it runs once.
        self._request_id = self._request_id or uuid.uuid4().hex
        answer = await self._send("submitting", job)
        if answer is not None:
            self.discard()
        return answer

    async def _send(self, what: str, job: Job, *, dry_run: bool = False) -> m.JobSubmitted | None:
        text = self.text
        self.busy, self.rejection, self.dry = what, None, None
        self._wake()
        try:
            request_id = "" if dry_run else self._request_id
            return await self._require().submit_job(
                msgspec.structs.replace(job, namespace=job.namespace or self.namespace),
                force=self.force or self._insisting,
                dry_run=dry_run,
                request_id=request_id,
            )
        except errors.BacalhauError as error:
            self.rejection = self._understood(error) if self.text == text else None
            if not isinstance(error, errors.Unavailable | errors.TimedOut):
                self._request_id = ""
            return None
        finally:
            self.busy = ""
            self._wake()

    def _understood(self, error: errors.BacalhauError) -> errors.BacalhauError:
        """Say what a person can do here, where no flag can be given: submit the same text once more."""
        if isinstance(error, errors.Conflict) and "--force" in error.hint:
            self._insisting = True
            return errors.Conflict(error.message, hint="submit it again to run it all the same")
        return error
