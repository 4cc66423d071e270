"""Constraints: they match as in Bacalhau, findings say why, and selector strings mean the same as lists."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bacalhau_protocol.errors import UsageError
from bacalhau_protocol.models.constraints import (
    SELECTOR_MAX,
    Operator,
    check_constraint,
    format_selector,
    match,
    matches,
    matches_all,
    parse_selector,
    preferred,
    required,
)
from bacalhau_protocol.models.job import Constraint

NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,8}[A-Za-z0-9])?", fullmatch=True)
INTEGERS = st.integers(-(10**6), 10**6).map(str)
SETS = st.lists(NAMES, min_size=1, max_size=3, unique=True).map(tuple)
CONSTRAINTS = st.one_of(
    st.builds(Constraint, NAMES, st.sampled_from([Operator.IN, Operator.NOT_IN]), SETS),
    st.builds(Constraint, NAMES, st.sampled_from([Operator.EXISTS, Operator.NOT_EXISTS])),
    st.builds(
        Constraint,
        NAMES,
        st.sampled_from([Operator.EQUALS, Operator.DOUBLE_EQUALS, Operator.NOT_EQUALS]),
        st.one_of(NAMES, st.just("")).map(lambda value: (value,)),
    ),
    st.builds(Constraint, NAMES, st.sampled_from([Operator.GREATER, Operator.LESS]), INTEGERS.map(lambda v: (v,))),
)
LABELS = st.dictionaries(NAMES, st.one_of(NAMES, INTEGERS), max_size=4)
FEW = settings(max_examples=80, deadline=None)


@pytest.mark.parametrize(
    ("selector", "labels", "passes"),
    [
        ("zone in (a,b)", {"zone": "b"}, True),
        ("zone in (a,b)", {}, False),
        ("zone notin (a,b)", {}, True),
        ("zone notin (a,b)", {"zone": "a"}, False),
        ("zone=a", {"zone": "a"}, True),
        ("zone==a", {"zone": "A"}, False),
        ("zone!=a", {}, True),
        ("zone!=a", {"zone": "a"}, False),
        ("gpu", {"gpu": ""}, True),
        ("!gpu", {"gpu": ""}, False),
        ("cores>4", {"cores": "10"}, True),
        ("cores>4", {"cores": "4"}, False),
        ("cores<4", {"cores": "-1"}, True),
        ("cores<4", {"cores": "few"}, False),
        ("cores<4", {}, False),
    ],
)
def test_operators(selector: str, labels: dict[str, str], passes: bool) -> None:
    """Absence satisfies only the negative operators; gt and lt compare whole numbers."""
    (constraint,) = parse_selector(selector)

    assert matches(constraint, labels) is passes


@FEW
@given(CONSTRAINTS, LABELS)
def test_opposites_never_agree(constraint: Constraint, labels: dict[str, str]) -> None:
    """`in` and `notin`, `=` and `!=`, exists and not: exactly one of each pair holds."""
    opposite = {"in": "notin", "notin": "in", "=": "!=", "==": "!=", "!=": "=", "exists": "!", "!": "exists"}
    if constraint.operator in opposite:
        other = Constraint(constraint.key, opposite[constraint.operator], constraint.values)

        assert matches(constraint, labels) is not matches(other, labels)


@FEW
@given(st.lists(CONSTRAINTS, max_size=5))
def test_a_selector_is_read_as_it_was_written(constraints: list[Constraint]) -> None:
    """Every valid list of constraints has a string that means the same."""
    assert all(not list(check_constraint(each, "")) for each in constraints)
    assert parse_selector(format_selector(constraints)) == tuple(constraints)


@FEW
@given(st.text(alphabet='ab=!(),<> in0é"\\', max_size=24))
def test_any_text_is_a_selector_or_a_clear_error(text: str) -> None:
    """No text makes the parser fail otherwise, and what it reads can be written and read again."""
    try:
        constraints = parse_selector(text)
    except UsageError:
        return
    assert parse_selector(format_selector(constraints)) == constraints


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        ("a=b,", "column 5: found the end, expected a label's key"),
        ("a b", 'column 3: found "b", expected one of'),
        ("zone in a", 'column 9: found "a", expected "("'),
        ("zone in (a", 'found the end, expected ")"'),
        ("cores>many", "needs a whole number"),
        ("-a", "malformed label key"),
        ("A.b/c=d", "DNS name"),
    ],
)
def test_a_malformed_selector_is_refused_with_its_column(selector: str, words: str) -> None:
    """Errors say where the text stops making sense and what was expected."""
    with pytest.raises(UsageError, match=r".") as caught:
        parse_selector(selector)

    assert words in str(caught.value)


def test_a_selector_has_a_length() -> None:
    """An endless selector is refused before it is read."""
    with pytest.raises(UsageError, match="the limit is 4096"):
        parse_selector("a" * (SELECTOR_MAX + 1))


@pytest.mark.parametrize(
    ("constraint", "path", "words"),
    [
        (Constraint("zone", "In", ("a",)), "C.Operator", "did you mean in?"),
        (Constraint("zone", "", ("a",)), "C.Operator", "missing operator"),
        (Constraint("zone", "bogus", ("a",)), "C.Operator", "allowed are in notin exists"),
        (Constraint("bad key!", "=", ("a",)), "C.Key", "malformed label key"),
        (Constraint("", "=", ("a",)), "C.Key", "missing"),
        (Constraint("favour_", "=", ("a",)), "C.Key", "without a label's key"),
        (Constraint("zone", "in"), "C.Values", "at least one value"),
        (Constraint("zone", "=", ("a", "b")), "C.Values", "exactly one value"),
        (Constraint("zone", "exists", ("a",)), "C.Values", "no values"),
        (Constraint("zone", "gt", ("x",)), "C.Values[0]", "whole number"),
        (Constraint("zone", "in", ("a", "b c")), "C.Values[1]", "malformed label value"),
    ],
)
def test_constraints_that_could_never_work_are_refused(constraint: Constraint, path: str, words: str) -> None:
    """What leaves a job of Bacalhau pending for ever is a problem here, at the field that is wrong."""
    (problem,) = check_constraint(constraint, "C")

    assert problem.path == path
    assert words in str(problem)


def test_a_finding_says_what_was_required_and_what_is() -> None:
    """A screen can show why a node does not match."""
    zone = Constraint("zone", "in", ("a", "b"))

    assert str(match(zone, {"zone": "c"})) == "Match(passed=False, required='zone in (a, b)', actual='zone=c')"
    assert match(zone, {}).actual == "no label zone"


def test_preferences_are_not_requirements() -> None:
    """`favour_` constraints never filter; they are given without their prefix to whoever ranks."""
    constraints = (Constraint("favour_zone", "=", ("b",)), Constraint("os", "=", ("linux",)))

    assert matches_all(constraints, {"os": "linux"})
    assert required(constraints) == (constraints[1],)
    assert preferred(constraints) == (Constraint("zone", "=", ("b",)),)


def test_an_unknown_operator_matches_nothing() -> None:
    """A constraint from elsewhere that we do not understand is never taken as satisfied."""
    assert not matches(Constraint("zone", "near", ("a",)), {"zone": "a"})
