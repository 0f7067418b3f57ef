"""Protobuf messages declared in Python: how the expression library is told types, and how it tells what it has read."""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

from google.protobuf import timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

TIMESTAMP = timestamp_pb2.Timestamp.DESCRIPTOR.full_name


class Scalar(IntEnum):
    """The types of a field that is no message."""

    TEXT = FieldDescriptorProto.TYPE_STRING
    WHOLE = FieldDescriptorProto.TYPE_INT64
    DOUBLE = FieldDescriptorProto.TYPE_DOUBLE
    FLAG = FieldDescriptorProto.TYPE_BOOL
    BYTES = FieldDescriptorProto.TYPE_BYTES


class FieldType(NamedTuple):
    """One field of a message."""

    name: str
    number: int
    type: Scalar | str
    """A scalar, or the full name of a message."""
    is_list: bool = False


def declare(package: str, messages: Mapping[str, Sequence[FieldType]]) -> DescriptorPool:
    """Declare messages of these full names, whose fields know whether they are absent (so in the second syntax)."""
    file = FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
    for full_name, fields in messages.items():
        message = file.message_type.add(name=full_name.removeprefix(f"{package}."))
        for one in fields:
            label = FieldDescriptorProto.LABEL_REPEATED if one.is_list else FieldDescriptorProto.LABEL_OPTIONAL
            field = message.field.add(name=one.name, number=one.number, label=label)
            if isinstance(one.type, Scalar):
                field.type = FieldDescriptorProto.Type.ValueType(one.type)
            else:
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".{one.type}"
    pool = DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return pool


def message_class(pool: DescriptorPool, full_name: str) -> type[Message]:
    """Give the class of a declared message."""
    return GetMessageClass(pool.FindMessageTypeByName(full_name))
