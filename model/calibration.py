"""From a score to a probability: what `calibration.json` holds, and the formula that the service evaluates.

A calibration says how much a score speaks for "the same person": as a log-likelihood ratio (LLR), the natural logarithm
of how many times more often pairs of one person have such a score than pairs of two people. An LLR knows nothing of how
many candidates are compared. The prior, the share of candidates that do show the person, comes from the operator:
`logit(probability) = logit(prior) + LLR`.

`training.evaluation.calibration` fits it, `not3d calibrate` writes it.
"""

import hashlib
import json
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from model.errors import Not3dError
from model.files import read_at_most
from model.space import SPACE_PATTERN

CALIBRATION_FILE = "calibration.json"
"""Its name in a bundle."""

Mode = Literal["cosine", "centred", "reranked", "mean", "max"]
"""Which scores: the cosine of two tracklets; the same after each camera's mean was subtracted; the score of a re-ranked
answer; of a search with several examples, combined by mean or by max."""

_MAX_BYTES = 1 << 20
_CURE = "fit it again with `not3d calibrate`"
_TIME: TypeAdapter[Any] = TypeAdapter(AwareDatetime)

_Rate = Annotated[float, Field(ge=0, le=1)]
_Text = Annotated[str, Field(min_length=1, max_length=2000)]
_Coefficient = Annotated[float, Field(ge=-1e6, le=1e6)]


class CalibrationError(Not3dError):
    """A calibration that cannot be used. The message names the file and the field, and ends with what to do."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Threshold(_Facts):
    """A score at which two tracklets count as the same person, and the errors to expect at it on the fitted data.

    Attributes:
        fmr: false match rate: the share of pairs of two people that score at least `score`.
        score: the lowest score that counts as a match.
        fnmr: false non-match rate: the share of pairs of one person that score below `score`.
        fnmr_low: lower end of its 95% interval, from a bootstrap over people in which the threshold is drawn again too.
        fnmr_high: upper end of that interval.
    """

    fmr: Annotated[float, Field(gt=0, lt=1)]
    score: _Coefficient
    fnmr: _Rate
    fnmr_low: _Rate
    fnmr_high: _Rate

    @model_validator(mode="after")
    def _check_interval(self) -> "Threshold":
        if not self.fnmr_low <= self.fnmr <= self.fnmr_high:
            raise ValueError(f"fnmr {self.fnmr} must lie between fnmr_low {self.fnmr_low} and {self.fnmr_high}")
        return self


class Calibration(_Facts):
    """A fitted calibration: `LLR(score) = slope * score + intercept`, between `llr_low` and `llr_high`.

    The bounds say how certain the fitted pairs allow an answer to be. If none of n independent pairs of two people had
    such a high score, the rate of such pairs may still be 3 / n (rule of three, 95%), so the likelihood ratio of a
    score is at most n / 3. `llr_high` is the logarithm of that, where n is the number of pairs of people; `llr_low` is
    its negative counterpart, where n is the number of people.

    Attributes:
        embedding_space: the space of the vectors whose scores were fitted.
        mode: which scores were fitted. A calibration says nothing about scores of another mode.
        slope: of the LLR, per unit of score; positive.
        intercept: the LLR of score 0.
        llr_low: lowest LLR that the data supports; negative.
        llr_high: highest LLR that the data supports; positive.
        people: number of people of the fitted pairs; 0 if the pairs did not name them.
        cameras: number of their cameras; 0 if the pairs did not name them.
        mated_pairs: number of pairs of one person, seen by two cameras.
        non_mated_pairs: number of pairs of two people, also from two cameras.
        fitted_at: when, RFC 3339.
        source: on whose tracklets it was fitted, for people.
        thresholds: by falling FMR. One that the data cannot support is left out: the false match rate f needs at least
            3 / f pairs of two people.
    """

    format: Literal[1] = 1
    embedding_space: Annotated[str, Field(pattern=SPACE_PATTERN)]
    mode: Mode = "cosine"
    slope: Annotated[float, Field(gt=0, le=1e6)]
    intercept: _Coefficient
    llr_low: Annotated[float, Field(lt=0)]
    llr_high: Annotated[float, Field(gt=0)]
    people: Annotated[int, Field(ge=0)]
    cameras: Annotated[int, Field(ge=0)]
    mated_pairs: Annotated[int, Field(ge=1, le=2**53)]
    non_mated_pairs: Annotated[int, Field(ge=1, le=2**53)]
    fitted_at: _Text
    source: _Text
    thresholds: Annotated[tuple[Threshold, ...], Field(max_length=100, strict=False)] = ()

    @model_validator(mode="after")
    def _check(self) -> "Calibration":
        if self.llr_low < -math.log(self.mated_pairs + 1) or self.llr_high > math.log(self.non_mated_pairs + 1):
            raise ValueError(
                f"llr_low {self.llr_low} and llr_high {self.llr_high} claim more than {self.mated_pairs} mated and "
                f"{self.non_mated_pairs} non-mated pairs can show"
            )
        for before, after in zip(self.thresholds, self.thresholds[1:], strict=False):
            if not (before.fmr > after.fmr and before.score <= after.score):
                raise ValueError("thresholds must have falling fmr and rising score")
        try:
            _TIME.validate_python(self.fitted_at)
        except ValidationError:
            raise ValueError(f"fitted_at must be an RFC 3339 time with its zone (got '{self.fitted_at}')") from None
        return self

    @cached_property
    def id(self) -> str:
        """The name of this calibration: 16 hex digits of SHA-256 of its content."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def llr(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return the log-likelihood ratios (natural logarithm) of `scores`, same shape; it never falls as they rise."""
        raw = self.slope * np.asarray(scores, np.float64) + self.intercept
        return np.asarray(np.clip(raw, self.llr_low, self.llr_high), np.float64)

    def probability(self, scores: ArrayLike, prior: float) -> NDArray[np.float64]:
        """Return the probabilities that pairs with these `scores` show one person, same shape.

        Args:
            scores: of the fitted mode.
            prior: the probability before the score is known, above 0 and below 1.

        Raises:
            ValueError: `prior` is out of range.
        """
        logits = _logit(prior) + self.llr(scores)
        return np.asarray(np.exp(-np.logaddexp(0.0, -logits)), np.float64)

    def score_at(self, probability: float, prior: float) -> float:
        """Return the lowest score whose probability is at least `probability`.

        The answer serves as a minimum score: `-inf` if every score is that probable, `inf` if none is, because the
        fitted pairs do not allow so much certainty under this prior.

        Args:
            probability: 0 to 1.
            prior: as in `probability`.

        Raises:
            ValueError: `probability` or `prior` is out of range.
        """
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be 0 to 1 (got {probability})")
        if probability in (0, 1):
            return -math.inf if probability == 0 else math.inf
        needed = _logit(probability) - _logit(prior)
        if needed <= self.llr_low:
            return -math.inf
        return math.inf if needed > self.llr_high else (needed - self.intercept) / self.slope

    def check_space(self, embedding_space: str) -> None:
        """Check that this calibration was fitted on vectors of `embedding_space`.

        Raises:
            CalibrationError: it was fitted on others, whose scores mean something else.
        """
        if embedding_space != self.embedding_space:
            raise CalibrationError(
                f"the calibration {self.id} was fitted in the embedding space {self.embedding_space}, but this "
                f"service has vectors of {embedding_space}; {_CURE} and vectors of its space"
            )

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps({"id": self.id, **self.model_dump(mode="json")}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, origin: str = "the calibration") -> "Calibration":
        """Parse the content of a file.

        Args:
            text: what `to_json` wrote.
            origin: the name of the file, for messages.

        Raises:
            CalibrationError: it is not such a file, it is damaged, or it was changed by hand.
        """
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{origin}: not JSON ({error}): the file is damaged; {_CURE}") from error
        if not isinstance(facts, dict):
            raise CalibrationError(f"{origin}: must be a JSON object (got {type(facts).__name__}); {_CURE}")
        named = facts.pop("id", None)
        try:
            calibration = cls.model_validate(facts)
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}" for fault in error.errors())
            raise CalibrationError(f"{origin}: {'; '.join(faults)}; {_CURE}") from error
        if named != calibration.id:
            raise CalibrationError(
                f"{origin}: id: the file says {named!r:.40}, but its content has the id '{calibration.id}': it was "
                f"changed after it was written; {_CURE}"
            )
        return calibration

    @classmethod
    def load(cls, path: Path) -> "Calibration":
        """Read the file `path`.

        Raises:
            CalibrationError: as `from_json`, or the file cannot be read.
        """
        try:
            content = read_at_most(path, _MAX_BYTES)
        except OSError as error:
            raise CalibrationError(f"{path}: cannot be read: {error.strerror}; {_CURE}") from error
        if content is None:
            raise CalibrationError(f"{path}: a calibration has at most {_MAX_BYTES:,} bytes; {_CURE}")
        return cls.from_json(content, str(path))


def _logit(share: float) -> float:
    if not 0 < share < 1:
        raise ValueError(f"the prior must be above 0 and below 1 (got {share})")
    return math.log(share) - math.log1p(-share)
