"""Looking at ranked pictures."""

import numpy as np
from cv2.typing import MatLike

from not3d import picture


def shows_frames(image: MatLike) -> list[bool]:
    """Whether the query's card, and each hit's, holds frames; "no frames" is grey on grey."""
    step = picture._PANEL_WIDTH + picture._GAP
    lefts = [
        picture._MARGIN,
        *range(picture._MARGIN + picture._PANEL_WIDTH + picture._QUERY_GAP, image.shape[1] - picture._MARGIN, step),
    ]
    inner = slice(picture._TOP + picture._BORDER, picture._TOP + picture._PANEL_HEIGHT - picture._BORDER)
    cards = [image[inner, left + picture._BORDER : left + picture._PANEL_WIDTH - picture._BORDER] for left in lefts]
    return [bool(np.ptp(card.astype(int), axis=2).max() > 20) for card in cards]
