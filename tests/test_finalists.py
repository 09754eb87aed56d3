"""The finalists' contest in its worker: documents for all, or a reason."""

import pytest

from uniformer_bench.measure.protocol import Protocol
from uniformer_bench.search.finalists import Contest, measured
from uniformer_bench.variants import variant


@pytest.fixture
def contest(tmp_path):
    protocol = Protocol(device="cpu", frames=8, size=32)
    return Contest((variant("micro"), variant("micro")), 2, protocol, tmp_path / "turns", budget_s=0.2, seed=0)


def test_every_architecture_gets_a_latency(contest):
    documents = measured(contest, lambda: True)
    assert [document["n"] >= 6 for document in documents] == [True, True]
    assert all(document["stopped"] in ("target", "budget") for document in documents)


def test_a_worker_that_fails_and_a_search_that_stops_are_reasons(contest):
    broken = contest._replace(protocol=Protocol(device="cuda:63", frames=8, size=32))
    assert str(measured(broken, lambda: True)).startswith("the finalists' worker crashed: ")
    assert measured(contest, lambda: False) == "the search was stopped"
