"""Strict, safe YAML: no objects, no key given twice, numbers as YAML 1.2 has them."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from uniformer_bench.errors import UbenchError
from uniformer_bench.files import read_text


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads 1e-3 as a number, as YAML 1.2 does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise UbenchError(f"a key must be given once, got {key!r} again{node.start_mark}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"), list("-+.0123456789")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?\d+$"), list("-+0123456789"))


def parse_yaml(text: str, source: str) -> Any:
    """The data in `text`. Raises UbenchError with `source` and the line where it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise UbenchError(f"{source} must be YAML: {' '.join(str(error).split())}") from None


def read_yaml(path: Path) -> Any:
    """The data in a YAML file."""
    return parse_yaml(read_text(path), str(path))
