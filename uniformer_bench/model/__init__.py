"""A spec turned into a torch module."""

from uniformer_bench.model.uniformer import UniFormer, build, clips_like
from uniformer_bench.model.weights import load_official_state_dict

__all__ = ["UniFormer", "build", "clips_like", "load_official_state_dict"]
