"""A small real bundle: every file of the contract, an ONNX graph that engines run, golden vectors computed in numpy."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.bundle import CARD_FILE, GOLDEN_FILE, INPUT_NAME, ONNX_FILE, OUTPUT_NAME, SPEC_FILE
from model.frames import PREPROCESSING_VERSION

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
ROWS, COLUMNS = 4, 2
"""Cells of the grid whose mean colours make an embedding."""


def make_bundle(
    folder: Path,
    *,
    dimension: int = 32,
    clip_length: int = 4,
    frame_size: tuple[int, int] = (64, 32),
    seed: int = 0,
) -> Path:
    """Write a bundle into `folder` and return it. Clothes of like colours get like embeddings; `seed` makes the space.

    The network: normalise, mean over time, mean colour of each cell of a 4x2 grid, a random projection.
    `frame_size` is height and width, multiples of 4 and 2.
    """
    height, width = frame_size
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    projection = generator.standard_normal((ROWS * COLUMNS * 3, dimension)).astype(np.float32)
    (folder / ONNX_FILE).write_bytes(_build(projection, clip_length, height, width).SerializeToString())
    clips = generator.integers(0, 256, (3, clip_length, height, width, 3), dtype=np.uint8)
    embeddings = _embed(clips, projection)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    np.savez(folder / GOLDEN_FILE, clips=clips, embeddings=unit.astype(np.float32))
    (folder / SPEC_FILE).write_text(json.dumps(_spec(dimension, clip_length, height, width, seed), indent=2))
    (folder / CARD_FILE).write_text("# Colour grid\n\nFor tests; it knows clothes by their colours.\n")
    return folder


def _build(projection: NDArray[np.float32], clip_length: int, height: int, width: int) -> onnx.ModelProto:
    cell_height, cell_width = height // ROWS, width // COLUMNS
    constants: dict[str, NDArray[Any]] = {
        "scale": (255 * np.asarray(STD)).astype(np.float32),
        "shift": (255 * np.asarray(MEAN)).astype(np.float32),
        "cells": np.asarray([-1, clip_length, ROWS, cell_height, COLUMNS, cell_width, 3], np.int64),
        "flat": np.asarray([-1, ROWS * COLUMNS * 3], np.int64),
        "axes": np.asarray([1, 3, 5], np.int64),
        "projection": projection,
    }
    nodes = [
        helper.make_node("Cast", [INPUT_NAME], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "shift"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["normal"]),
        helper.make_node("Reshape", ["normal", "cells"], ["grid"]),
        helper.make_node("ReduceMean", ["grid", "axes"], ["colours"], keepdims=0),
        helper.make_node("Reshape", ["colours", "flat"], ["vector"]),
        helper.make_node("MatMul", ["vector", "projection"], [OUTPUT_NAME]),
    ]
    shape: list[str | int | None] = ["N", clip_length, height, width, 3]
    graph = helper.make_graph(
        nodes,
        "colour-grid",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", projection.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def _embed(clips: NDArray[np.uint8], projection: NDArray[np.float32]) -> NDArray[np.float32]:
    """The network in numpy."""
    normal = (clips.astype(np.float32) / 255 - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
    count, length, height, width, _ = clips.shape
    grid = normal.reshape(count, length, ROWS, height // ROWS, COLUMNS, width // COLUMNS, 3)
    return np.asarray(grid.mean(axis=(1, 3, 5)).reshape(count, -1) @ projection, np.float32)


def _spec(dimension: int, clip_length: int, height: int, width: int, seed: int) -> dict[str, object]:
    return {
        "format": 1,
        "name": f"colour-grid-{seed}",
        "architecture": "colour-grid",
        "backbone": "mean colours",
        "attention": "none",
        "frame_height": height,
        "frame_width": width,
        "clip_length": clip_length,
        "dimension": dimension,
        "feature": "raw",
        "preprocessing": {"version": PREPROCESSING_VERSION, "colour": "rgb", "mean": MEAN, "std": STD},
        "training_data": "none",
        "recipe": {"seed": seed},
        "accuracy": [],
        "data_terms": "none",
        "intended_use": "tests",
        "not_for": "anything else",
    }
