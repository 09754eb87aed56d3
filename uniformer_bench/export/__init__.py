"""A model to take away: a folder that a hub, a runtime and a colleague can each read."""

from uniformer_bench.export.loading import Exported, load_exported, predict

__all__ = ["Exported", "load_exported", "predict"]
