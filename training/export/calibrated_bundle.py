"""Put a calibration into a bundle: `calibration.json`, and a section of the model card."""

import re
from pathlib import Path

from model.bundle import CARD_FILE, Bundle
from model.calibration import CALIBRATION_FILE, Calibration, CalibrationError
from model.files import replace_text
from training.export.model_card import describe_calibration

_SECTION = re.compile(r"^## Calibration\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BEFORE = re.compile(r"^## (?:Quantisation|Export|Recipe)\n", re.MULTILINE)


def add_calibration(bundle: Bundle, calibration: Calibration) -> Path:
    """Write the calibration into the bundle's folder, in place of another one, and return the file.

    Raises:
        CalibrationError: it belongs to another embedding space or to scores that a bundle does not give, or the folder
            cannot be written.
    """
    calibration.check_space(bundle.embedding_space)
    if calibration.mode != "cosine":
        raise CalibrationError(
            f"a bundle carries a calibration of cosine scores (got {calibration.mode}); write it to a file with --out"
        )
    target = bundle.path / CALIBRATION_FILE
    try:
        card = bundle.path / CARD_FILE
        if card.is_file():
            replace_text(card, _with_section(card.read_text(encoding="utf-8"), describe_calibration(calibration)))
        replace_text(target, calibration.to_json())
    except OSError as error:
        raise CalibrationError(
            f"{bundle.path}: cannot be written ({error.strerror}); copy the bundle, or write a file with --out"
        ) from error
    return target


def _with_section(card: str, section: str) -> str:
    if _SECTION.search(card):
        return _SECTION.sub(lambda _: section, card, count=1)
    following = _BEFORE.search(card)
    if following is None:
        return f"{card.rstrip()}\n\n{section.rstrip()}\n"
    return card[: following.start()] + section + card[following.start() :]
