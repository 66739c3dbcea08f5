"""Write docs/proto.md from proto/, or check that the committed one is fresh.

`python -m meterwatch.devtools.protodoc` writes it, `--check` exits 1 if it is stale. The text is that of the comments
in the proto files, so it is corrected there. Promises that everything a client of another language can say is in it:
services, messages, enums, numbers. Refuses to know the byte twin (ingest_bytes.proto): it is no second contract.
Needs grpcio-tools (a development dependency).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc

from meterwatch.devtools.stubs import PROTO, ROOT

OUT: Final = ROOT / "docs" / "proto.md"
TWIN: Final = "meterwatch/v1/ingest_bytes.proto"

Place = tuple[int, ...]
Comments = dict[Place, str]

# Field numbers of descriptor.proto; the place of a comment is made of them and of indexes.
_SYNTAX: Final = 12
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _NESTED, _NESTED_ENUM = 2, 3, 4
_CALL: Final = 2
_VALUE: Final = 2

_HEAD: Final = """\
# The gRPC interface

Generated from `proto/meterwatch/v1/*.proto` by `python -m meterwatch.devtools.protodoc`; edit the comments there, not
this file. What the answers promise, and every reason a request can be refused for: [semantics.md](semantics.md).

`ingest_bytes.proto` is not described here: it is the byte twin of ReadBatch that our own client encodes with, the same
bytes on the wire.
"""


def described() -> list[FileDescriptorProto]:
    """Descriptors of our proto files with their comments, in the order of their names, without the byte twin."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    names = sorted(str(path.relative_to(PROTO)) for path in (PROTO / "meterwatch" / "v1").glob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set"
        arguments = [f"-I{PROTO}", f"-I{well_known}", f"--descriptor_set_out={out}", "--include_source_info", *names]
        if protoc.main(["protoc", *arguments]) != 0:
            raise SystemExit("protoc failed; see above")
        found = FileDescriptorSet.FromString(out.read_bytes())
    return [file for file in found.file if file.name != TWIN]


def page(files: list[FileDescriptorProto]) -> str:
    """The whole page, Markdown."""
    lines = [_HEAD]
    for file in files:
        comments = _comments(file)
        lines += [f"## {Path(file.name).name}\n", *_paragraph(comments.get((_SYNTAX,), ""))]
        for i, service in enumerate(file.service):
            lines += _service(service, comments, (_SERVICE, i))
        for i, message in enumerate(file.message_type):
            lines += _message(message, comments, (_MESSAGE, i), message.name)
        for i, enum in enumerate(file.enum_type):
            lines += _enum(enum, comments, (_ENUM, i), enum.name)
    return "\n".join(lines).rstrip() + "\n"


def _comments(file: FileDescriptorProto) -> Comments:
    """Comment of every element, by its path; lines as in the source."""
    found: Comments = {}
    for place in file.source_code_info.location:
        text = "\n\n".join([*place.leading_detached_comments, place.leading_comments or place.trailing_comments])
        if text.strip():
            found[tuple(place.path)] = "\n".join(line.strip() for line in text.strip().splitlines())
    return found


def _paragraph(text: str) -> list[str]:
    return [text, ""] if text else []


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _name(type_name: str) -> str:
    """Name of a message or enum, linked to its heading."""
    short = type_name.rsplit(".", 1)[-1]
    return f"[{short}](#{short.lower()})" if type_name.startswith(".meterwatch.") else type_name.lstrip(".")


def _service(service: ServiceDescriptorProto, comments: Comments, at: Place) -> list[str]:
    lines = [f"### Service {service.name}", "", *_paragraph(comments.get(at, ""))]
    lines += ["| call | request | answer | meaning |", "|---|---|---|---|"]
    for i, call in enumerate(service.method):
        request = ("stream of " if call.client_streaming else "") + _name(call.input_type)
        answer = ("stream of " if call.server_streaming else "") + _name(call.output_type)
        lines.append(f"| `{call.name}` | {request} | {answer} | {_cell(comments.get((*at, _CALL, i), ''))} |")
    return [*lines, ""]


def _message(message: DescriptorProto, comments: Comments, at: Place, title: str) -> Iterator[str]:
    maps = {nested.name: nested for nested in message.nested_type if nested.options.map_entry}
    yield from (f"### {title}", "", *_paragraph(comments.get(at, "")))
    if message.field:
        yield from ("| field | type | number | meaning |", "|---|---|---|---|")
    for i, field in enumerate(message.field):
        meaning = comments.get((*at, _FIELD, i), "")
        if field.HasField("oneof_index") and not field.proto3_optional:
            meaning = f"{meaning} One of `{message.oneof_decl[field.oneof_index].name}`."
        yield f"| `{field.name}` | {_type(field, maps)} | {field.number} | {_cell(meaning)} |"
    yield ""
    for i, nested in enumerate(message.nested_type):
        if nested.name not in maps:
            yield from _message(nested, comments, (*at, _NESTED, i), f"{title}.{nested.name}")
    for i, enum in enumerate(message.enum_type):
        yield from _enum(enum, comments, (*at, _NESTED_ENUM, i), f"{title}.{enum.name}")


def _type(field: FieldDescriptorProto, maps: dict[str, DescriptorProto]) -> str:
    if field.type_name:
        entry = maps.get(field.type_name.rsplit(".", 1)[-1])
        if entry is not None:
            return f"map of {_type(entry.field[0], {})} to {_type(entry.field[1], {})}"
        kind = _name(field.type_name)
    else:
        kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def _enum(enum: EnumDescriptorProto, comments: Comments, at: Place, title: str) -> list[str]:
    lines = [f"### {title}", "", *_paragraph(comments.get(at, "")), "| value | number | meaning |", "|---|---|---|"]
    for i, value in enumerate(enum.value):
        lines.append(f"| `{value.name}` | {value.number} | {_cell(comments.get((*at, _VALUE, i), ''))} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    fresh = page(described())
    stale = not OUT.exists() or OUT.read_text("utf-8") != fresh
    if stale and check:
        raise SystemExit("docs/proto.md is stale; run python -m meterwatch.devtools.protodoc and commit")
    if stale:
        OUT.write_text(fresh, "utf-8")
    sys.stdout.write("docs/proto.md is fresh\n" if not stale else "wrote docs/proto.md\n")


if __name__ == "__main__":
    main()
