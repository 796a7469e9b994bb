"""YAML read strictly: decimal numbers, keys that do not repeat, no more values than were written; and written so."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from fracgen.shards.errors import UsageError

_MAX_DEPTH = 64
_MAX_NODES = 10_000
"""Values and keys that are written out, for which the parser, plain Python, takes half a second."""
_MAX_REPEATED = 100_000
"""Values that aliases may add to those that are written out."""
_TOO_DEEP = f"nested more than {_MAX_DEPTH} deep, or an alias that holds itself"


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are decimal (1e-3 is one; 010 and 12:30 are text), and whose keys may not repeat.

    Its size and depth are bounded while it is read. libyaml's parser, 10 times as fast, is not in every PyYAML, and
    reads some texts otherwise.
    """

    num_nodes = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.num_nodes += 1
        if self.num_nodes > _MAX_NODES:
            raise UsageError(f"more than {_MAX_NODES:,} keys and values, so not what it should be")
        if self.depth >= _MAX_DEPTH:
            raise UsageError(_TOO_DEEP)
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not key_node.tag.endswith(":merge"):
                key = self.construct_object(key_node, deep=True)
                if key in seen:
                    raise UsageError(f"key {str(key)[:60]!r} is given twice")
                seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """YAML in which text that `_Loader` would read as a number, such as 1e5, is quoted too."""


_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in zip(
    _NUMBERS,
    (
        r"[-+]?(0|[1-9][0-9_]*)$",
        r"[-+]?(([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$",
    ),
    strict=True,
):
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(_tag, re.compile(_pattern), list("-+0123456789."))


def parse(text: str, source: str) -> Any:
    """The value that a YAML text holds, None of an empty one. Raises UsageError with its source where it is no YAML."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UsageError(f"{source}: not YAML ({' '.join(str(error).split())})") from error


def to_text(values: Mapping[str, Any]) -> str:
    """The text of a YAML file with these plain values, in their order, which `parse` reads as they are."""
    text: str = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _check_size(root: yaml.Node) -> None:
    """Raises UsageError where aliases multiply into far more values than are written, or go in a circle."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int) -> int:
        if depth > _MAX_DEPTH:
            raise UsageError(_TOO_DEEP)
        if id(node) not in sizes:
            inner = [] if isinstance(node, yaml.ScalarNode) else node.value
            parts = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in parts)
        return sizes[id(node)]

    if size(root, 0) > len(sizes) + _MAX_REPEATED:
        raise UsageError("aliases repeat values too often")


def parse_override(override: str) -> tuple[str, Any]:
    """Name and value of a setting written as "name=value", the value in YAML. Raises UsageError where it is not so."""
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise UsageError(f"{override!r}: an override is NAME=VALUE, as in augment.erase=0.25")
    return name, parse(text, override) if text.strip() else ""
