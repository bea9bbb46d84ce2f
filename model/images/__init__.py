"""The image files that are read: JPEG, PNG, WebP and BMP, one module each.

Each module walks its file before a decoder sees it. No number in a file is trusted: what it declares is compared with
what the file holds, and a decoder gets only what it needs for the pixels. All other formats are refused by name.
"""

from model.images.errors import FrameError, FrameStatus
from model.images.header import FORMATS, ImageHeader

__all__ = ["FORMATS", "FrameError", "FrameStatus", "ImageHeader"]
