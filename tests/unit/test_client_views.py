"""The client's store, its views and the filter language: what a list shows is what the feed said."""

from __future__ import annotations

import random

import msgspec
import pytest

from bacalhau_protocol.api.messages import JobRow
from bacalhau_tui.data.columns import widths
from bacalhau_tui.data.query import FilterError, parse_command, parse_filter
from bacalhau_tui.data.store import Store, Table
from bacalhau_tui.data.tables import JOBS
from bacalhau_tui.data.view import TableView

NOW = 2_000_000_000_000_000_000
MINUTE = 60 * 10**9


def a_row(number: int, *, state: str = "Running", name: str = "", age_minutes: int = 0, ended: bool = False) -> JobRow:
    created = NOW - age_minutes * MINUTE - number
    return JobRow(
        id=f"j-{number:08x}-0000-4000-8000-000000000000",
        name=name or f"job-{number}",
        namespace="default",
        type="batch",
        engine="wasm",
        state=state,
        priority=number,
        count=1,
        version=1,
        created=created,
        modified=created,
        ended=created if ended else 0,
    )


def a_store(*rows: JobRow) -> Store:
    store = Store()
    store.jobs.snapshot({row.id: row for row in rows}, 10, complete=True)
    return store


def shown(view: TableView[JobRow], text: str = "") -> list[str]:
    view.set_filter(text)
    view.refresh(NOW)
    return [row.name for key in view.ids if (row := view.table.get(key)) is not None]


# ── store ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_older_state_of_a_row_is_not_taken() -> None:
    """Numbers decide, not the order of arrival: feed and snapshot may overtake each other."""
    table = a_store(a_row(1)).jobs
    newer = a_row(1, state="Completed")

    assert table.put(newer.id, newer, 20)
    assert not table.put(newer.id, a_row(1, state="Failed"), 15)
    table.snapshot({newer.id: a_row(1)}, 19, complete=True)

    assert table.get(newer.id) == newer


def test_a_complete_snapshot_removes_what_is_gone_and_keeps_what_is_newer() -> None:
    """A row that the feed brought after the answer's position is not in the answer, and stays."""
    table = a_store(a_row(1), a_row(2)).jobs
    fresh = a_row(3)
    table.put(fresh.id, fresh, 30)

    table.snapshot({a_row(2).id: a_row(2)}, 20, complete=True)

    assert sorted(table.ids()) == sorted([a_row(2).id, fresh.id])


def test_changes_gather_until_they_are_taken_and_wake_once() -> None:
    """However many rows change, a reader is woken once; what came and went is only gone."""
    woken: list[int] = []
    table = Store().jobs
    reader = table.changes(lambda: woken.append(1))
    assert reader.take(table.revision).reset

    for number in range(5):
        table.put(a_row(number).id, a_row(number), 1)
    table.remove(a_row(0).id, 2)
    change = reader.take(table.revision)

    assert woken == [1]
    assert change.changed == {a_row(number).id for number in range(1, 5)}
    assert change.removed == {a_row(0).id}
    assert not reader.take(table.revision)


def test_a_full_table_drops_the_oldest_that_have_ended() -> None:
    """Memory is bounded; what still runs is never dropped."""
    table: Table[JobRow] = Store(jobs_max=100).jobs
    running = a_row(0, age_minutes=10_000)
    table.put(running.id, running, 1)
    for number in range(1, 200):
        row = a_row(number, age_minutes=1000 - number, ended=True)
        table.put(row.id, row, number + 1)

    assert len(table) <= 100
    assert running.id in table
    assert a_row(199).id in table
    assert table.dropped == 200 - len(table)


def test_revisions_tell_a_cache_which_row_changed() -> None:
    """A row's revision grows with its own changes only."""
    table = a_store(a_row(1), a_row(2)).jobs
    before = table.revision_of(a_row(1).id), table.revision_of(a_row(2).id)

    table.put(a_row(1).id, a_row(1, state="Failed"), 11)

    assert table.revision_of(a_row(1).id) > before[0]
    assert table.revision_of(a_row(2).id) == before[1]


# ── views ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_view_is_sorted_and_filtered() -> None:
    """Newest first at the beginning; any column, both ways."""
    store = a_store(a_row(1, age_minutes=1), a_row(2, age_minutes=3), a_row(3, age_minutes=2, state="Failed"))
    view = TableView(store.jobs, JOBS)

    assert shown(view) == ["job-1", "job-3", "job-2"]
    view.set_order("name", reverse=True)
    assert shown(view, "state:run") == ["job-2", "job-1"]
    assert view.total == 3
    assert view.place_of(a_row(3).id) is None
    assert view.place_of(a_row(1).id) == 1


def test_single_changes_give_the_same_index_as_building_it_again() -> None:
    """Bisecting and sorting agree, whatever happens in whatever order."""
    chance = random.Random(7)
    store = a_store(*(a_row(number) for number in range(300)))
    view = TableView(store.jobs, JOBS)
    view.set_filter("-state:stopped")
    view.set_order("state", reverse=False)
    view.refresh(NOW)
    for seq in range(11, 400):
        number = chance.randrange(350)
        row = a_row(number, state=chance.choice(["Running", "Failed", "Stopped"]))
        if chance.random() < 0.2:
            store.jobs.remove(row.id, seq)
        else:
            store.jobs.put(row.id, row, seq)
        view.refresh(NOW)

    fresh = TableView(store.jobs, JOBS)
    fresh.set_filter("-state:stopped")
    fresh.set_order("state", reverse=False)
    fresh.refresh(NOW)

    assert view.ids == fresh.ids
    assert [view.place_of(key) for key in view.ids] == list(range(len(view.ids)))


def test_a_refresh_says_what_to_paint() -> None:
    """A row that changed in its place; a row that moved; nothing."""
    store = a_store(a_row(1, age_minutes=1), a_row(2, age_minutes=2))
    view = TableView(store.jobs, JOBS)
    view.refresh(NOW)

    store.jobs.put(a_row(1).id, a_row(1, age_minutes=1, state="Failed"), 11)
    in_place = view.refresh(NOW)
    store.jobs.put(a_row(3).id, a_row(3), 12)
    moved = view.refresh(NOW)

    assert in_place.changed == {a_row(1).id}
    assert not in_place.moved
    assert moved.moved
    assert not view.refresh(NOW)


def test_a_filter_on_age_moves_with_the_clock() -> None:
    """Rows leave a filter by getting older, without any change."""
    view = TableView(a_store(a_row(1, age_minutes=4)).jobs, JOBS)
    assert shown(view, "age<5m") == ["job-1"]

    view.refresh(NOW + 2 * MINUTE)

    assert view.ids == []


def test_a_filter_that_is_not_understood_leaves_the_one_before() -> None:
    """While a person types, the list stays."""
    view = TableView(a_store(a_row(1)).jobs, JOBS)
    assert shown(view, "job-1") == ["job-1"]

    with pytest.raises(FilterError):
        view.set_filter("stat:x")

    view.refresh(NOW)
    assert view.filter.text == "job-1"


def test_the_flexible_column_gets_what_is_left() -> None:
    """In 80 columns the narrow columns of jobs fit, and the name has the rest."""
    narrow = [column for column in JOBS.columns if not column.wide]

    shares = widths(narrow, 80)

    assert sum(shares) + 2 * (len(shares) - 1) == 80


# ── filter language ───────────────────────────────────────────────────────────────────────────────────────────────

ROWS = {
    row.name: row
    for row in (
        a_row(1, name="etl-daily", state="Failed", age_minutes=90),
        a_row(2, name="train model", state="Running", age_minutes=5),
        a_row(3, name="Report", state="Completed", age_minutes=60 * 50),
    )
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "etl-daily train model Report"),
        ("report", "Report"),
        ("state:failed,comp", "etl-daily Report"),
        ("-state:failed", "train model Report"),
        ('name:"n m"', "train model"),
        ('name="train model"', "train model"),
        ("name!=Report age>1h", "etl-daily"),
        ("priority>=2 priority<3", "train model"),
        ("priority:3", "Report"),
        ("age>2d", "Report"),
        ("e state:f", "etl-daily"),
        ("-etl -train", "Report"),
        ("j-00000002", "train model"),
        ('name:"open', ""),
    ],
)
def test_filters(text: str, expected: str) -> None:
    """Terms are joined by "and"; signs and units are those of the field."""
    found = parse_filter(text, JOBS.fields, JOBS.search).select(ROWS, NOW)

    assert " ".join(found) == expected


@pytest.mark.parametrize(
    ("text", "message", "hint", "place"),
    [
        ("etl stat:x", "no field 'stat'", "did you mean 'state'?", "4-10"),
        ("age<soon", "'soon' is not a value for age", "for instance 10m, 2h, 3d", "0-8"),
        ("priority>high", "'high' is not a value for priority", "a number", "0-13"),
        ("name<3", "name is text and has no order", "write name:3", "0-6"),
        ("state:", "state: needs a value", "pending", "0-6"),
    ],
)
def test_a_wrong_filter_says_what_and_where(text: str, message: str, hint: str, place: str) -> None:
    """The nearest field is offered; the place in the text can be marked."""
    with pytest.raises(FilterError, match=message) as raised:
        parse_filter(text, JOBS.fields, JOBS.search)

    assert raised.value.hint.startswith(hint)
    assert f"{raised.value.details['start']}-{raised.value.details['end']}" == place


def test_commands() -> None:
    """A name may be shortened while it means one command; the rest is a filter or words."""
    names = ["jobs", "job", "nodes", "new", "logs"]

    assert msgspec.structs.astuple(parse_command(":jobs state:failed age<1h", names)) == ("jobs", "state:failed age<1h")
    assert parse_command(":lo j-1 'x'", names).words == ["j-1", "'x'"]
    assert parse_command("q", names, {"q": "nodes"}).name == "nodes"
    with pytest.raises(FilterError, match=r"'n' could be nodes, new"):
        parse_command(":n", names)
    with pytest.raises(FilterError, match="no command 'nods'") as raised:
        parse_command(":nods", names)
    assert raised.value.hint == "did you mean 'nodes'?"
