"""One offline HTML page of a run: pure data (`info`), figures and drawings of it, and the page."""

from uniformer_bench.report.page import render, render_comparison, write_comparison, write_report

__all__ = ["render", "render_comparison", "write_comparison", "write_report"]
