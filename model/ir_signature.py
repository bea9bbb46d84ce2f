"""Reading the inputs and outputs of an OpenVINO IR's ``.xml`` without OpenVINO.

Format: OpenVINO documentation, "Operation Sets and the Intermediate Representation", version 11: ``layers/layer`` of
type Parameter and Result, ports with a precision, dimensions (-1 where dynamic) and tensor names.
"""

from xml.etree import ElementTree

from model.onnx_signature import ELEMENT_FLOAT32, ELEMENT_UINT8, OnnxSignature, TensorSignature

_ELEMENTS = {"FP32": ELEMENT_FLOAT32, "U8": ELEMENT_UINT8}
_OTHER = -1


class IrFileError(ValueError):
    """The bytes are not an OpenVINO IR of version 11."""


def read_ir_signature(data: bytes, *, weights: int) -> OnnxSignature:
    """Read the signature of the IR whose ``.xml`` is ``data``, in the terms of ONNX.

    ``weights`` is the length of its ``.bin`` in bytes.

    Raises:
        IrFileError: no XML, no IR, or one of longer weights.
    """
    try:
        # The operator's own file; entities that expand without end are refused by the parser.
        root = ElementTree.fromstring(data)  # noqa: S314
    except ElementTree.ParseError as error:
        raise IrFileError(str(error)) from None
    if root.tag != "net" or root.get("version") != "11":
        raise IrFileError('not <net version="11">')
    layers = root.findall("./layers/layer")
    stored = [constant for constant in root.iter("data") if constant.get("offset") is not None]
    needed = max((_number(part.get("offset")) + _number(part.get("size")) for part in stored), default=0)
    if needed > weights:
        raise IrFileError(f"its weights are {needed} bytes long, the .bin holds {weights}")
    inputs = [_signature(layer.find("./output/port")) for layer in layers if layer.get("type") == "Parameter"]
    results = {layer.get("id") for layer in layers if layer.get("type") == "Result"}
    ports = {(layer.get("id"), port.get("id")): port for layer in layers for port in layer.findall("./output/port")}
    edges = [edge for edge in root.findall("./edges/edge") if edge.get("to-layer") in results]
    outputs = [_signature(ports.get((edge.get("from-layer"), edge.get("from-port")))) for edge in edges]
    return OnnxSignature(tuple(inputs), tuple(outputs), external_weights=False)


def _signature(port: ElementTree.Element | None) -> TensorSignature:
    if port is None:
        raise IrFileError("an input or output without a port")
    lengths = [_number(dimension.text) for dimension in port.findall("dim")]
    shape = tuple("?" if length < 0 else length for length in lengths)
    return TensorSignature(
        (port.get("names") or "").split(",")[0], _ELEMENTS.get(port.get("precision", ""), _OTHER), shape
    )


def _number(text: str | None) -> int:
    try:
        return int(text or "")
    except ValueError:
        raise IrFileError(f"{text!r} stands where a number belongs") from None
