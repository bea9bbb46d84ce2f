"""Reading the inputs and outputs of an ONNX file without any ONNX package.

A bundle is validated before an engine is chosen, and a serving image has only the engines it needs, so this walks the
protobuf wire format itself (https://protobuf.dev/programming-guides/encoding) and skips the weights. The field numbers
are those of ``onnx.proto3``, which ONNX never renumbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

ELEMENT_FLOAT32 = 1
ELEMENT_UINT8 = 2

_MODEL_GRAPH = 7
_GRAPH_INITIALISER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2
_SHAPE_AXIS = 1
_AXIS_LENGTH, _AXIS_NAME = 1, 2
_INITIALISER_LOCATION, _LOCATION_EXTERNAL = 14, 1


class OnnxFileError(ValueError):
    """The bytes are not a whole ONNX model."""


@dataclass(frozen=True)
class TensorSignature:
    """One input or output: a fixed axis is its length, a dynamic one its name (or "?")."""

    name: str
    element: int
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class OnnxSignature:
    """What goes into a model and what comes out, and whether its weights lie in other files."""

    inputs: tuple[TensorSignature, ...]
    outputs: tuple[TensorSignature, ...]
    external_weights: bool


def read_signature(data: bytes) -> OnnxSignature:
    """Read the signature of the ONNX model in ``data``.

    Raises:
        OnnxFileError: the bytes end too early, or are not an ONNX model.
    """
    try:
        return _read_model(memoryview(data))
    except UnicodeDecodeError as error:
        raise OnnxFileError("a tensor's name is not text") from error


def _read_model(data: memoryview) -> OnnxSignature:
    inputs: list[TensorSignature] = []
    outputs: list[TensorSignature] = []
    external = False
    graphs = 0
    for number, value in _fields(data):
        if number != _MODEL_GRAPH:
            continue
        graphs += 1
        for part, content in _fields(_message(value)):
            if part == _GRAPH_INPUT:
                inputs.append(_read_value(_message(content)))
            elif part == _GRAPH_OUTPUT:
                outputs.append(_read_value(_message(content)))
            elif part == _GRAPH_INITIALISER:
                external |= (_INITIALISER_LOCATION, _LOCATION_EXTERNAL) in _numbers(_message(content))
    if graphs != 1:
        raise OnnxFileError(f"it holds {graphs} graphs, not one")
    return OnnxSignature(tuple(inputs), tuple(outputs), external)


def _read_value(data: memoryview) -> TensorSignature:
    name, element = "", 0
    shape: tuple[int | str, ...] = ()
    for number, value in _fields(data):
        if number == _VALUE_NAME:
            name = _text(value)
        elif number == _VALUE_TYPE:
            for kind, tensor in _fields(_message(value)):
                if kind == _TYPE_TENSOR:
                    element, shape = _read_tensor_type(_message(tensor))
    return TensorSignature(name, element, shape)


def _read_tensor_type(data: memoryview) -> tuple[int, tuple[int | str, ...]]:
    element = 0
    axes: list[int | str] = []
    for number, value in _fields(data):
        if number == _TENSOR_ELEMENT and isinstance(value, int):
            element = value
        elif number == _TENSOR_SHAPE:
            axes = [_read_axis(_message(axis)) for part, axis in _fields(_message(value)) if part == _SHAPE_AXIS]
    return element, tuple(axes)


def _read_axis(data: memoryview) -> int | str:
    for number, value in _fields(data):
        if number == _AXIS_LENGTH and isinstance(value, int):
            return value
        if number == _AXIS_NAME:
            return _text(value)
    return "?"


def _numbers(data: memoryview) -> Iterator[tuple[int, int]]:
    return ((number, value) for number, value in _fields(data) if isinstance(value, int))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of one message: numbers as int, everything with a length as bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire_type == 2:
            length, position = _varint(data, position)
        elif wire_type in {1, 5}:
            length = 8 if wire_type == 1 else 4
        else:
            raise OnnxFileError("it is not a protobuf message")
        if number == 0 or position + length > len(data):
            raise OnnxFileError("it ends in the middle of a field")
        yield number, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise OnnxFileError("it ends in the middle of a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise OnnxFileError("it is not a protobuf message")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise OnnxFileError("a number stands where a message belongs")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_message(value)).decode()
