"""Running an exported model: ONNX Runtime and OpenVINO behind one protocol."""

from model.engines.choice import open_engine
from model.engines.parallel import embed_in_parallel
from model.engines.protocol import Engine, EngineError, EngineInfo

__all__ = ["Engine", "EngineError", "EngineInfo", "embed_in_parallel", "open_engine"]
