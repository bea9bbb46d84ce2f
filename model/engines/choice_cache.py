"""Remembering which CPU engine was fastest, so that only the first start measures."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from model.bundle import Bundle
from model.engines.protocol import EngineName

CHOICE_FILE = "engine-choice.json"

_LOG = logging.getLogger(__name__)


def choice_key(bundle: Bundle, threads: int, versions: Mapping[EngineName, str]) -> str:
    """Name everything that the answer depends on, as 16 hex digits."""
    facts = [bundle.embedding_space, cpu_model(), threads, sorted(versions.items())]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and instruction sets; a virtual machine's name alone may hide whether it has AMX."""
    try:
        first = cpuinfo.read_text().partition("\n\n")[0]
    except OSError:
        return "unknown"
    return "\n".join(line for line in first.splitlines() if line.startswith(("model", "flags", "Features", "CPU part")))


def recall_choice(cache_dir: Path | None, key: str) -> EngineName | None:
    """The engine remembered in ``cache_dir`` under ``key``; None if there is none."""
    if cache_dir is None:
        return None
    try:
        remembered = json.loads((cache_dir / CHOICE_FILE).read_text())
    except (OSError, ValueError):
        return None  # absent or damaged: the measurement is repeated
    if not isinstance(remembered, dict) or remembered.get("key") != key:
        return None
    return next((name for name in get_args(EngineName) if name == remembered.get("engine")), None)


def remember_choice(cache_dir: Path | None, key: str, name: EngineName) -> None:
    """Write the choice down for the next start, in one step; without ``cache_dir``, do nothing."""
    if cache_dir is None:
        return
    target = cache_dir / CHOICE_FILE
    partial = target.with_suffix(f".{os.getpid()}")
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"key": key, "engine": name}))
        partial.replace(target)
    except OSError as error:
        _LOG.warning("the choice of engine cannot be remembered in %s: %s", cache_dir, error)
