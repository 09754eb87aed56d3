"""One offline HTML page of a run: pure data (`info`), figures and drawings of it, and the page."""

from uniformer_bench.report.page import render, write_report

__all__ = ["render", "write_report"]
