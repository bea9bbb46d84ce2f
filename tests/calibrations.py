"""A calibration for tests."""

from typing import Any

from model.calibration import Calibration, Threshold

SPACE = "0123456789abcdef"


def make_calibration(**facts: Any) -> Calibration:
    """Return a calibration of the space `SPACE` with two thresholds; `facts` replace its fields.

    LLR 0 is at score 0.5, and no score of -1 to 1 but the ends reaches the bounds.
    """
    defaults: dict[str, Any] = {
        "embedding_space": SPACE,
        "slope": 10.0,
        "intercept": -5.0,
        "llr_low": -2.5,
        "llr_high": 4.5,
        "people": 50,
        "cameras": 4,
        "mated_pairs": 200,
        "non_mated_pairs": 20_000,
        "fitted_at": "2026-11-28T12:00:00Z",
        "source": "drawn for tests",
        "thresholds": (
            Threshold(fmr=0.01, score=0.55, fnmr=0.1, fnmr_low=0.05, fnmr_high=0.2),
            Threshold(fmr=0.001, score=0.7, fnmr=0.3, fnmr_low=0.2, fnmr_high=0.5),
        ),
    }
    return Calibration(**(defaults | facts))
