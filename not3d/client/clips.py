"""Which frames of a long tracklet are sent if only some clips are computed."""


def choose_frames(count: int, clip_length: int, max_clips: int | None) -> list[int]:
    """Return the indices of the frames that `max_clips` evenly spaced clips consist of; all if there are fewer clips.

    These are the frames that the service would choose itself, so sending only these gives the same embedding.

    Args:
        count: frames of the tracklet.
        clip_length: frames of a clip.
        max_clips: at least 1; `None` chooses all frames.
    """
    clips = -(-count // clip_length)
    if max_clips is None or clips <= max_clips:
        return list(range(count))
    chosen = [((2 * part + 1) * clips - 1) // (2 * max_clips) for part in range(max_clips)]
    return [frame for clip in chosen for frame in range(clip * clip_length, min((clip + 1) * clip_length, count))]
