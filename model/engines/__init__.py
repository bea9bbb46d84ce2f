"""Running an exported model: ONNX Runtime and OpenVINO, with one protocol."""

from model.engines.choice import open_engine
from model.engines.protocol import Engine, EngineError, EngineInfo, embed_in_parallel

__all__ = ["Engine", "EngineError", "EngineInfo", "embed_in_parallel", "open_engine"]
