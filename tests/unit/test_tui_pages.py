"""Pages of the screens, as text."""

from __future__ import annotations

from bacalhau_daemon.testing_builders import a_node
from bacalhau_protocol.models.node import NodeState
from bacalhau_tui.data.pages import node_page


def test_a_nodes_page_says_what_it_lacks_and_why() -> None:
    """A line for each; none when it lacks nothing."""
    lacks = {"engine docker": "no daemon answers", "publisher s3": "no credentials"}
    info = a_node("n-1", unavailable=lacks)

    text = [line.text.split() for line in node_page(NodeState(info=info), 0)]
    whole = [line.text for line in node_page(NodeState(info=a_node("n-1")), 0)]

    assert [" ".join(words[1:]) for words in text if words[:1] == ["lacks"]] == [
        "engine docker: no daemon answers",
        "publisher s3: no credentials",
    ]
    assert not any("lacks" in line for line in whole)
