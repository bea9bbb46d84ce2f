"""Running an exported model: ONNX Runtime and OpenVINO behind one protocol."""

from model.engines.choice import open_engine
from model.engines.division import divide_calls
from model.engines.protocol import Engine, EngineError, EngineInfo

__all__ = ["Engine", "EngineError", "EngineInfo", "divide_calls", "open_engine"]
