"""Pages of words about one thing: why a job waits, what an execution did, what a node is. Pure; a widget shows them.

A page is lines; a line is cells, each with its tone. All of it is clean text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from bacalhau_protocol.api import messages as m
from bacalhau_protocol.client.watch import JobUpdate
from bacalhau_protocol.models.event import JobHistory
from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.node import NodeState
from bacalhau_protocol.models.quantities import format_bytes
from bacalhau_tui.data import format as fmt
from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.format import Tone
from bacalhau_tui.data.history import event_text, execution_of, is_error
from bacalhau_tui.data.node_table import capacity_bar, labels_text, node_state
from bacalhau_tui.data.tables import execution_exit, execution_length_ns, execution_note, execution_state

NODES_SHOWN_MAX = 200
KEY_WIDTH = 12
CAPACITY_CELLS = 20


class PageLine(msgspec.Struct, frozen=True):
    """One line. A long one is wrapped, its rest indented by `hang` cells."""

    cells: tuple[Cell, ...] = ()
    hang: int = 0
    title: bool = False

    @property
    def text(self) -> str:
        """The words alone."""
        return "".join(cell.text for cell in self.cells)


Page = list[PageLine]


def line(*parts: str | Cell, hang: int = 0) -> PageLine:
    """Return a line of clean parts."""
    return PageLine(tuple(part if isinstance(part, Cell) else Cell(fmt.clean(part)) for part in parts), hang)


def title(text: str) -> PageLine:
    """Return a line that stands over others."""
    return PageLine((Cell(fmt.clean(text)),), title=True)


def paragraph(text: str, *, indent: int = 0, tone: Tone = Tone.PLAIN) -> Page:
    """Return text of several lines, cleaned, each line wrapped under its own beginning."""
    return [PageLine((Cell(" " * indent), Cell(fmt.clean(part), tone)), hang=indent + 2) for part in text.splitlines()]


def pairs(items: Iterable[tuple[str, str | Cell]]) -> Page:
    """Return `key  value` lines; empty values are left out."""
    return [
        line(Cell(fmt.clean(f"  {key}").ljust(KEY_WIDTH + 2), Tone.OFF), value, hang=KEY_WIDTH + 2)
        for key, value in items
        if (value.text if isinstance(value, Cell) else value)
    ]


def state_cell(state: str) -> Cell:
    """Return a state with its glyphs."""
    mark = fmt.mark(state)
    return Cell(mark.word, mark.tone, mark.glyph, mark.ascii)


# ── why ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def nearest_first(nodes: list[m.NodeFindings]) -> list[m.NodeFindings]:
    """Sort: nodes that fit by score, then those with the fewest findings against them, permanent ones last."""

    def key(node: m.NodeFindings) -> tuple[bool, int, int, int, str]:
        against = [finding for finding in node.findings if not finding.passed]
        return not node.fits, sum(one.permanent for one in against), len(against), -node.score, node.node_id

    return sorted(nodes, key=key)


def why_page(update: JobUpdate | None, why: m.Explanation | None) -> Page:
    """Return why a job runs where it does, or waits: its state, every node's findings, and what was recorded."""
    page: Page = []
    if update is not None:
        page += [line(state_cell(update.state), f"  {_counts(update)}"), *paragraph(update.message, indent=2)]
    if why is None:
        return page
    page += [PageLine(), title(f"NOW  {why.matching} of {len(why.nodes)} nodes fit, as of {fmt.moment(why.as_of)}")]
    if not why.nodes:
        page += paragraph(why.summary, indent=2)
    for node in nearest_first(why.nodes)[:NODES_SHOWN_MAX]:
        page += node_lines(node)
    return page + _recorded(why.recorded)


def _counts(update: JobUpdate) -> str:
    states = [execution_state(row) for row in update.current]
    named = [f"{states.count(state)} {fmt.mark(state).word.lower()}" for state in dict.fromkeys(states)]
    return f"executions: {', '.join(named)}" if named else "no execution yet"


def node_lines(node: m.NodeFindings) -> Page:
    """Return what was found about one node: required, actual, hint, for each check that it failed."""
    name = short_id(node.node_id)
    if node.fits:
        mark, score = Cell("fits", Tone.GOOD, "✓", "+"), Cell(f"  score {node.score}", Tone.OFF)
        return [line(Cell("  "), mark, f"  {name}", score)]
    against = [finding for finding in node.findings if not finding.passed]
    lasting = any(finding.permanent for finding in against)
    mark = Cell("no", Tone.BAD, "✗", "x") if lasting else Cell("not now", Tone.WAITING, "·", ".")
    return [line(Cell("  "), mark, f"  {name}"), *(_finding(finding) for finding in against)]


def _finding(finding: m.Finding) -> PageLine:
    tone = Tone.BAD if finding.permanent else Tone.WAITING
    hint = finding.hint or ("" if finding.permanent else "may pass by itself")
    return line(
        Cell(f"      {fmt.clean(finding.check):<11}", tone),
        f" required {finding.required or '-'}, actual {finding.actual or '-'}",
        Cell(f"  {fmt.clean(hint)}" if hint else "", Tone.OFF),
        hang=18,
    )


def _recorded(recorded: Mapping[str, Any]) -> Page:
    """Return what the log kept; its shape is another process's, so nothing of it is trusted to be there."""
    page: Page = []
    if isinstance(unplaced := recorded.get("Unplaced"), dict):
        page += [PageLine(), title("WHEN IT COULD NOT BE PLACED"), *_why_kept("", unplaced)]
    if isinstance(kept := recorded.get("Executions"), dict) and kept:
        page += [PageLine(), title("WHEN IT WAS PLACED")]
        for execution, why in list(kept.items())[:NODES_SHOWN_MAX]:
            if isinstance(why, dict):
                page += _why_kept(f"{short_id(str(execution))}: ", why)
    return page


def _why_kept(head: str, why: Mapping[str, Any]) -> Page:
    scores = [pair for pair in why.get("scores", ()) if isinstance(pair, list | tuple) and len(pair) == 2]
    ranked = ", ".join(f"{short_id(str(node))} {score}" for node, score in scores)
    page = [
        line(
            f"  {head}{why.get('fit', 0)} of {why.get('nodes', 0)} nodes fitted",
            Cell(fmt.clean(f"  by score: {ranked}") if ranked else "", Tone.OFF),
            hang=6,
        )
    ]
    dropped = why.get("dropped")
    if isinstance(dropped, dict) and dropped:
        page.append(line("      dropped by " + ", ".join(f"{check}: {number}" for check, number in dropped.items())))
    for near in why.get("near", ()):
        if isinstance(near, dict):
            misses = "; ".join(str(miss) for miss in near.get("misses", ()))
            tone = Tone.BAD if near.get("permanent") else Tone.WAITING
            page.append(line(Cell(fmt.clean(f"      {short_id(str(near.get('node', '')))}: {misses}"), tone), hang=8))
    return page


# ── executions ────────────────────────────────────────────────────────────────────────────────────────────────────


def execution_page(row: m.ExecutionRow, history: Iterable[JobHistory], now_ns: int) -> Page:
    """Return all about one execution: what it does, for how long, what happened to it."""
    own = [item for item in history if execution_of(item) == row.id]
    page = pairs(
        [
            ("state", state_cell(execution_state(row))),
            ("progress", execution_note(row) if row.phase is not None else ""),
            ("exit code", execution_exit(row)),
            ("node", row.node_id),
            ("partition", str(row.partition)),
            ("version", str(row.job_version)),
            ("wanted", row.desired),
            ("created", fmt.moment(row.created)),
            ("changed", fmt.moment(row.modified)),
            ("took", fmt.duration(execution_length_ns(row, now_ns)) if row.modified else ""),
        ]
    )
    if row.message:
        page += [PageLine(), title("MESSAGE"), *paragraph(row.message, indent=2)]
    if own:
        page += [PageLine(), title("HISTORY")]
        before = row.created
        for item in own:
            at = fmt.nanoseconds(item.time)
            tone = Tone.BAD if is_error(item) else Tone.PLAIN
            step = f"+{fmt.duration(max(0, at - before))}"
            words = Cell(fmt.clean(event_text(item)), tone)
            page.append(line(f"  {fmt.clock(at)}", Cell(f" {step:>8}  ", Tone.OFF), words, hang=26))
            before = at
    return page


# ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def node_page(node: NodeState, now_ns: int) -> Page:
    """Return what a node is, has and can do."""
    info, link = node.info.compute_node_info, node.connection_state
    heard = fmt.nanoseconds(link.last_heartbeat)
    page = pairs(
        [
            ("id", node.info.node_id),
            ("state", state_cell(node_state(node))),
            ("membership", node.membership.lower()),
            ("heard of", f"{fmt.moment(heard)} ({fmt.calm_age(heard, now_ns)} ago)" if heard > 0 else "never"),
            ("since", fmt.moment(fmt.nanoseconds(link.connected_since))),
            ("last error", link.last_error if isinstance(link.last_error, str) else ""),
            ("version", node.info.version.git_version),
            ("platform", "/".join(part for part in (node.info.version.goos, node.info.version.goarch) if part)),
            ("address", info.address),
        ]
    )
    page += [PageLine(), title("CAPACITY")]
    for name, show in (("cpu", fmt.cores), ("memory", format_bytes), ("disk", format_bytes), ("gpu", str)):
        most, free = getattr(info.max_capacity, name), getattr(info.available_capacity, name)
        if most:
            used = f"{max(0, round((most - free) * 100 / most)):>3} % in use, {show(free)} of {show(most)} free"
            page += pairs([(name, capacity_bar(node, name, used, CAPACITY_CELLS))])
    page += pairs([("running", str(info.running_executions)), ("queued", str(info.enqueued_executions or ""))])
    page += [PageLine(), title("ABILITIES")]
    page += pairs(
        [
            ("engines", ", ".join(info.execution_engines or ())),
            ("storages", ", ".join(info.storage_sources or ())),
            ("publishers", ", ".join(info.publishers or ())),
            *(("lacks", f"{what}: {why}") for what, why in (info.unavailable or {}).items()),
        ]
    )
    if node.info.labels:
        page += [PageLine(), title("LABELS"), *pairs((key, value) for key, value in sorted(node.info.labels.items()))]
    return page


def node_words(node: NodeState) -> str:
    """Return one line about a node, for a crumb."""
    return f"{node.info.node_id} {labels_text(node.info.labels)}".strip()
