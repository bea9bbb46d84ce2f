"""The calibration in force: the site's own or the bundle's, and the prior under which it gives probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from model.calibration import Calibration, CalibrationError
from model.space import EmbeddingSpace
from service.gallery.clock import format_timestamp
from service.gallery.records import JSON, Hit
from service.settings import Settings, variable_name


@dataclass(frozen=True)
class ActiveCalibration:
    """A calibration that fits the model in use.

    Attributes:
        calibration: the fitted formula and its thresholds.
        source: whose it is.
        fitted_at: when it was fitted, in UTC.
        fixed_prior: the prior of requests that name none; `None` if it follows the number of searched records.
    """

    calibration: Calibration
    source: Literal["bundle", "site"]
    fitted_at: datetime
    fixed_prior: float | None

    def prior_of(self, requested: float | None, searched: int) -> float:
        """Return the prior of one search.

        Without a fixed prior it is `1 / (searched + 1)`: the person is equally likely to be in any one of the searched
        records or in none of them.

        Args:
            requested: the prior that the request names, if any.
            searched: number of records that passed the filter.
        """
        if requested is not None:
            return requested
        return self.fixed_prior if self.fixed_prior is not None else 1 / (max(searched, 1) + 1)

    def probabilities(self, hits: Sequence[Hit], prior: float) -> dict[str, float]:
        """Return the probability of each hit by its id. It never falls as the score rises."""
        scores = [hit.score for hit in hits]
        values: list[float] = self.calibration.probability(scores, prior).tolist()
        return {hit.record.id: value for hit, value in zip(hits, values, strict=True)}

    @property
    def facts(self) -> dict[str, JSON]:
        """What an alert says about the calibration, as JSON."""
        fitted = self.calibration
        return {
            "id": fitted.id,
            "source": self.source,
            "fitted_people": fitted.people,
            "fitted_cameras": fitted.cameras,
            "fitted_at": format_timestamp(self.fitted_at),
        }


def cosine_calibration(active: ActiveCalibration | None, space: EmbeddingSpace) -> Calibration | None:
    """Return the calibration in force if it is of cosines in this space, otherwise `None`."""
    if active is None or active.calibration.mode != "cosine":
        return None
    return active.calibration if active.calibration.embedding_space == space.name else None


def load_calibration(
    settings: Settings, space: EmbeddingSpace, bundled: Calibration | None
) -> ActiveCalibration | None:
    """Return the site's calibration if the settings name one, otherwise the `bundled` one; `None` if there is none.

    Raises:
        CalibrationError: the site's file is missing, damaged, or was fitted in another embedding space.
    """
    if settings.calibration is None:
        return _activate(bundled, "bundle", settings) if bundled else None
    try:
        site = Calibration.load(settings.calibration)
        site.check_space(space.name)
    except CalibrationError as error:
        raise CalibrationError(f"{variable_name('calibration')}: {error}") from error
    return _activate(site, "site", settings)


def _activate(calibration: Calibration, source: Literal["bundle", "site"], settings: Settings) -> ActiveCalibration:
    fitted_at = datetime.fromisoformat(calibration.fitted_at).astimezone(UTC)
    return ActiveCalibration(calibration, source, fitted_at, settings.prior)
