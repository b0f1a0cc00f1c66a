"""Read protocol buffers of which only some fields matter: those of a short schema; protobuf skips all others."""

import re
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from alexnet_jax.errors import UserError


def message_class(schema: str, name: str) -> type[message.Message]:
    """Return the class of one of a schema's messages: "message NAME { label type field = number; ... } ..."."""
    file = descriptor_pb2.FileDescriptorProto(name="schema.proto", package="schema", syntax="proto2")
    for message_name, body in re.findall(r"message (\w+) \{(.*?)\}", schema, re.DOTALL):
        declared = file.message_type.add(name=message_name)
        for label, kind, field_name, number in re.findall(r"(\w+) (\w+) (\w+) = (\d+);", body):
            field = declared.field.add(name=field_name, number=int(number), label=f"LABEL_{label.upper()}")
            if kind[0].isupper():
                field.type_name = f".schema.{kind}"
            else:
                field.type = field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"schema.{name}"))


def parse(schema: str, name: str, path: Path, suffix: str) -> Any:
    """Parse a file as one of a schema's messages; UserError if it is something else, or damaged."""
    parsed = message_class(schema, name)()
    try:
        parsed.ParseFromString(path.read_bytes())
    except message.DecodeError as error:
        raise UserError(f"{path} is not a {suffix} file, or is incomplete; download it again.") from error
    return parsed
