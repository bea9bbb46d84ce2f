"""Measure a network on people set aside, while it trains."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.network import NetworkSpec, VideoReID
from model.ranking import cosine_scores
from training.batches.clips import Normalise
from training.datasets.tracklet import Tracklet
from training.evaluation.embed import EmbedClips, embed_tracklets
from training.evaluation.metrics import RankMetrics, rank_metrics


def network_embedder(network: VideoReID, device: torch.device) -> EmbedClips:
    """Return the network in eval mode and fp32 as a function of `uint8` clips."""
    normalise = Normalise(network.spec.mean, network.spec.std, device)
    network.eval()

    def embed(clips: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(network(normalise(torch.from_numpy(clips))).float().cpu().numpy())

    return embed


def validate(
    embed: EmbedClips,
    tracklets: Sequence[Tracklet],
    frame_size: tuple[int, int],
    spec: NetworkSpec,
) -> RankMetrics:
    """Rank each tracklet against those of other cameras, by cosine."""
    features = embed_tracklets(
        embed,
        tracklets,
        frame_size=frame_size,
        clip_length=spec.clip_length,
        clip_weights=spec.clip_weights,
        resampling=spec.resampling,
    )
    people, cameras = [t.person for t in tracklets], [t.camera for t in tracklets]
    return rank_metrics(1 - cosine_scores(features, features), people, people, cameras, cameras)


def accuracy(metrics: RankMetrics, tracklets: Sequence[Tracklet], seed: int) -> dict[str, Any]:
    """Return the fields of `model.spec.Accuracy` for a checkpoint, in percent."""
    people = len({tracklet.person for tracklet in tracklets})
    return {
        "dataset": f"{people} training people set aside (seed {seed})",
        "protocol": "one tracklet per person and camera, cross-camera, cosine, all clips; "
        "epoch chosen on the same people",
        "people": people,
        "queries": metrics.valid_queries,
        "gallery": len(tracklets),
        "rank1": round(100 * metrics.rank1, 2),
        "map": round(100 * metrics.mean_ap, 2),
    }
