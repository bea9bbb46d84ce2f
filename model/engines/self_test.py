"""The self-test: does this engine, on this machine, compute the golden vectors of the bundle?"""

import time
from dataclasses import dataclass

import numpy as np

from model.bundle import Bundle
from model.engines.protocol import Engine
from model.errors import Not3dError


class SelfTestError(Not3dError):
    """An engine's embeddings of the golden clips differ too much from the golden ones."""


@dataclass(frozen=True)
class Tolerance:
    """How much a unit-length embedding may differ from the golden one."""

    max_difference: float
    min_cosine: float


@dataclass(frozen=True)
class SelfTest:
    """The worst figures of all golden clips, and the time that the engine took for them."""

    max_difference: float
    min_cosine: float
    seconds: float


TOLERANCES = {
    "f32": Tolerance(max_difference=2e-3, min_cosine=0.9999),
    "f16": Tolerance(max_difference=1e-2, min_cosine=0.999),
    "bf16": Tolerance(max_difference=4e-2, min_cosine=0.99),
    "int8": Tolerance(max_difference=4e-2, min_cosine=0.99),
}
"""By the engine's precision. The cosine limits the error of all components together; the largest difference finds an
error in a single channel, which the cosine of many components hides.

- f32: the export already allowed 1e-3, half-precision weights included; another order of summation adds less than 1e-4.
- f16 and bf16 keep 11 and 8 bits, so one rounding is up to 5e-4 or 4e-3 of the value, and dozens of layers add up.
  Measured in bf16: a component 1.7e-3, a cosine 0.99998 (light trained network), 1.3e-3 and 0.9999 (ResNet50-IBN-a of
  random weights), 2.3e-2 and 0.998 (OSNet, imported), which ranks as in f32 (docs/figures/precision.md).
  Swapped colours are far outside, at a cosine of 0.2 to 0.4.
- int8: the golden vectors are the quantised network's own, so only the CPU makes a difference. Measured for
  instruction sets from AVX2 to AVX-512 VNNI: a component 1.1e-3, a cosine 0.99998; the other layers may be in bf16.
"""


def run_self_test(engine: Engine, bundle: Bundle) -> SelfTest:
    """Embed the bundle's golden clips, all in one call and the first one alone, and compare.

    Raises:
        SelfTestError: a figure is over the limit of the engine's precision; NaN never passes.
        EngineError: the engine failed.
        BundleError: the golden vectors cannot be read.
    """
    golden = bundle.golden()
    started = time.perf_counter()
    together = engine.embed(golden.clips)
    seconds = time.perf_counter() - started
    # An engine may compute a single clip in another way.
    raw = np.concatenate([together, engine.embed(golden.clips[:1])]).astype(np.float64)
    wanted = np.concatenate([golden.embeddings, golden.embeddings[:1]])
    with np.errstate(invalid="ignore", divide="ignore"):
        found = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    difference = float(np.abs(found - wanted).max())
    cosine = float((found * wanted).sum(axis=1).min())
    limit = TOLERANCES[engine.precision]
    if not (difference <= limit.max_difference and cosine >= limit.min_cosine):
        raise SelfTestError(
            f"{engine.name} on {engine.device} in {engine.precision} fails the self-test of bundle {bundle.path}: "
            f"largest component difference {difference:.2g} (at most {limit.max_difference:g}), "
            f"smallest cosine {cosine:.6f} (at least {limit.min_cosine:g})"
        )
    return SelfTest(difference, cosine, seconds)
