"""What the composer says beside the text: what is wrong and where, which nodes fit and why others do not. Pure."""

from __future__ import annotations

from bacalhau_protocol import errors
from bacalhau_protocol.api import messages as m
from bacalhau_protocol.models.ids import short_id
from bacalhau_protocol.models.problems import Problem, problems_of
from bacalhau_tui.data.columns import Cell
from bacalhau_tui.data.compose import Composer
from bacalhau_tui.data.format import Tone, clean, count
from bacalhau_tui.data.pages import Page, PageLine, line, nearest_first, title

NODES_NAMED_MAX = 3
REASONS_MAX = 20
PLACE_WIDTH = 7

_BAD, _WARN, _GOOD = ("✗", "x"), ("!", "!"), ("✓", "+")


def summary(composer: Composer) -> Cell:
    """Return how the text stands, in a few words."""
    checked = composer.checked
    if composer.busy:
        return Cell(composer.busy, Tone.BUSY)
    if composer.rejection is not None:
        return Cell("not taken", Tone.BAD, *_BAD)
    if checked is None:
        return Cell("")
    if wrong := len(checked.wrong):
        return Cell(f"{count(wrong)} {'problem' if wrong == 1 else 'problems'}", Tone.BAD, *_BAD)
    if warnings := len(checked.problems):
        return Cell(f"valid, {count(warnings)} {'warning' if warnings == 1 else 'warnings'}", Tone.WAITING, *_WARN)
    return Cell("valid", Tone.GOOD, *_GOOD)


def match_words(composer: Composer) -> Cell:
    """Return `n of m nodes fit`; blank while it is not known."""
    match = composer.match
    if match is None or composer.checked is None or composer.checked.job is None:
        return Cell("")
    return Cell(_fit(match), Tone.GOOD if match.matching else Tone.WAITING)


def _fit(match: m.Explanation) -> str:
    nodes = len(match.nodes)
    return f"{count(match.matching)} of {count(nodes)} {'node fits' if nodes == 1 else 'nodes fit'}"


def compose_page(composer: Composer) -> Page:
    """Return all of it: a refusal first, then problems; where it would run when there are none."""
    page: Page = []
    if composer.rejection is not None:
        page += _rejection(composer.rejection)
    if composer.draft_error is not None:
        page += [line(Cell(clean(f"! {composer.draft_error}"), Tone.BAD), hang=2)]
    checked = composer.checked
    if checked is None:
        return page
    if composer.dry is not None:
        page += _dry(composer.dry)
    page += [problem_line(problem) for problem in checked.problems]
    if not checked.wrong:
        page += match_page(composer.match, composer.match_error)
    return page


def problem_line(problem: Problem) -> PageLine:
    """Return a problem: where, which field, what, and the name that was probably meant."""
    place = f"{problem.line}:{problem.column}" if problem.line else ""
    tone, glyphs = (Tone.WAITING, _WARN) if problem.warning else (Tone.BAD, _BAD)
    words = "; ".join(part for part in (problem.message, problem.hint) if part)
    near = f"; did you mean {problem.nearest}?" if problem.nearest else ""
    return line(
        Cell("", tone, *glyphs),
        Cell(f"{place:<{PLACE_WIDTH}}", tone),
        clean(f"{problem.path}: " if problem.path else ""),
        clean(words),
        Cell(clean(near), Tone.GOOD),
        hang=PLACE_WIDTH + 2,
    )


def _rejection(error: errors.BacalhauError) -> Page:
    page = [line(Cell("not taken: ", Tone.BAD, *_BAD), _first_line(error), hang=2)]
    if isinstance(error, errors.SpecError):
        return [line(Cell("not taken by the cluster:", Tone.BAD, *_BAD)), *map(problem_line, problems_of(error))]
    if error.hint:
        page.append(line(Cell(clean(f"  {error.hint}"), Tone.OFF), hang=2))
    return page


def _first_line(error: errors.BacalhauError) -> str:
    return clean(" ".join(error.message.splitlines()))


def _dry(dry: m.JobSubmitted) -> Page:
    version = f"version {dry.version}" if dry.version > 1 else "a new job"
    page = [line(Cell("the cluster would take it", Tone.GOOD, *_GOOD), f" as {version}; nothing was submitted")]
    return page + [line(Cell(clean(f"! {warning}"), Tone.WAITING), hang=2) for warning in dry.warnings]


# ── nodes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def match_page(match: m.Explanation | None, error: errors.BacalhauError | None) -> Page:
    """Return which nodes fit now, and for the others the reasons, each with how many nodes it holds for."""
    if match is None:
        words = f"where it would run is not known: {error.message}" if error is not None else "asking which nodes fit"
        return [line(Cell(clean(words), Tone.OFF), hang=2)]
    page: Page = [title(_fit(match))]
    if not match.nodes:
        return [*page, line(f"  {match.summary}", hang=2)]
    fitting = [node for node in nearest_first(match.nodes) if node.fits]
    if fitting:
        named = ", ".join(f"{short_id(node.node_id)} ({node.score})" for node in fitting[:NODES_NAMED_MAX])
        more = f" and {len(fitting) - NODES_NAMED_MAX} more" if len(fitting) > NODES_NAMED_MAX else ""
        page.append(line(Cell("", Tone.GOOD, *_GOOD), f"best by score: {named}{more}", hang=2))
    return page + _reasons([node for node in match.nodes if not node.fits])


def _reasons(nodes: list[m.NodeFindings]) -> Page:
    """Return the findings against nodes, like ones together: what may pass first, then by how many nodes it hits."""
    groups: dict[tuple[bool, str, str], list[tuple[str, m.Finding]]] = {}
    for node in nodes:
        for finding in node.findings:
            if not finding.passed:
                key = (finding.permanent, finding.check, finding.required)
                groups.setdefault(key, []).append((node.node_id, finding))
    page: Page = []
    for (permanent, check, required), found in sorted(groups.items(), key=lambda each: (each[0][0], -len(each[1]))):
        name, finding = found[0]
        who = short_id(name) if len(found) == 1 else f"{len(found)} nodes"
        actual = f", actual {finding.actual}" if finding.actual else ""
        tone, glyphs = (Tone.BAD, _BAD) if permanent else (Tone.WAITING, ("·", "."))
        hint = finding.hint or ("" if permanent else "may pass by itself")
        page.append(
            line(
                Cell("", tone, *glyphs),
                f"{who}: ",
                Cell(clean(check), tone),
                f" required {required or '-'}{actual}",
                Cell(clean(f"; {hint}") if hint else "", Tone.OFF),
                hang=2,
            )
        )
    return page[:REASONS_MAX]
