"""The config file as YAML, with the line that each key stands on.

Every scalar is text here: which type it becomes is decided by the setting
that it is for, as it is for an environment variable. So a cluster may be
called `no` or `1e3`, and no time turns into a number of seconds because
YAML 1.1 counts `1:30` in sixties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from truetally.configuration.mistake import Mistake, Place, key_of

_NULL = "tag:yaml.org,2002:null"
_MERGE = "tag:yaml.org,2002:merge"


class _TextLoader(yaml.SafeLoader):
    """YAML without guesses: only null and the merge key are more than text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML looks for it here
        first: [(tag, pattern) for tag, pattern in resolvers if tag in {_NULL, _MERGE}]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _text(loader: _TextLoader, node: ScalarNode) -> str:
    return str(loader.construct_scalar(node))


for _typed in ("bool", "int", "float", "timestamp"):
    _TextLoader.add_constructor(f"tag:yaml.org,2002:{_typed}", _text)


@dataclass(frozen=True, slots=True)
class Document:
    """A config file that has been read, or the mistakes for which it couldn't be."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    root: Node | None = None
    mistakes: tuple[Mistake, ...] = ()

    def mistake(self, place: Place, message: str, suggestion: str | None = None) -> Mistake:
        """A mistake at this place, with the line of its key or of what is nearest around it."""
        line, column = _position(self.root, place)
        return Mistake(str(self.path), line, column, key_of(place), message, suggestion)

    def has(self, place: Place) -> bool:
        """Whether the file itself says something there."""
        node = self.root
        for part in place:
            node = _child(node, part)
        return node is not None


def read(path: Path) -> Document:
    """The file, read and parsed; whatever is wrong with it stands in its mistakes."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return _unreadable(path, "does not exist; config/truetally.example.yaml shows what to write")
    except IsADirectoryError:
        return _unreadable(path, "is a directory; name the file in it")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return _unreadable(path, "is not UTF-8 text here; save it as UTF-8", line)
    except OSError as error:
        return _unreadable(path, f"cannot be read: {error.strerror}")
    return _parsed(path, text)


def _parsed(path: Path, text: str) -> Document:
    try:
        loader = _TextLoader(text)
        root = loader.get_single_node()
        if root is not None and not isinstance(root, MappingNode):
            return _unreadable(path, "has to be a mapping of settings, like `clusters:` and `nas:`", 1)
        # Before construction, which writes what a merge key brings into the nodes.
        repeated = tuple(_duplicates(path, root, ()))
        content = _given(loader.construct_document(root)) if root is not None else {}
        return Document(path, content, root, repeated)
    except yaml.MarkedYAMLError as error:
        return _unreadable(path, *_explained(error))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return _unreadable(path, f"holds a character that YAML does not allow: #x{error.character:04x}", line)
    except RecursionError:
        # Or an alias stands within the anchor that it repeats.
        return _unreadable(path, "is nested too deeply")


def _explained(error: yaml.MarkedYAMLError) -> tuple[str, int | None]:
    mark = error.problem_mark or error.context_mark
    problem = error.problem or "cannot be understood"
    if "'\\t'" in problem:
        problem = "is indented with a tab; YAML wants spaces"
    return f"is no valid YAML: {problem}", mark.line + 1 if mark else None


def _given(value: Any) -> Any:
    # A key with nothing after it is a section whose lines are all commented out: it says nothing.
    if isinstance(value, dict):
        return {key: _given(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_given(inner) for inner in value]
    return value


def _unreadable(path: Path, message: str, line: int | None = None) -> Document:
    return Document(path, mistakes=(Mistake(str(path), line, 1 if line else None, "", message),))


def _duplicates(path: Path, node: Node | None, place: Place) -> Iterator[Mistake]:
    # YAML takes the last of two equal keys in silence, and the first one's lines are lost.
    if isinstance(node, MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line, column = str(key.value), key.start_mark.line + 1, key.start_mark.column + 1
            here = (*place, name)
            if name in lines and key.tag != _MERGE:
                message = f"stands here a second time; the first is on line {lines[name]}"
                yield Mistake(str(path), line, column, key_of(here), message)
            lines.setdefault(name, line)
            yield from _duplicates(path, value, here)
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            yield from _duplicates(path, value, (*place, index))


def _position(root: Node | None, place: Place) -> tuple[int | None, int | None]:
    mark = root.start_mark if root is not None else None
    node = root
    for part in place:
        key = _key(node, part)
        node = _child(node, part)
        if node is None:
            break
        mark = (key or node).start_mark
    return (mark.line + 1, mark.column + 1) if mark is not None else (None, None)


def _key(node: Node | None, part: str | int) -> Node | None:
    if not isinstance(node, MappingNode):
        return None
    return next((key for key, _ in reversed(node.value) if key.value == part), None)


def _child(node: Node | None, part: str | int) -> Node | None:
    if isinstance(node, SequenceNode) and isinstance(part, int):
        return node.value[part] if part < len(node.value) else None
    if not isinstance(node, MappingNode):
        return None
    return next((value for key, value in reversed(node.value) if key.value == part), None)
