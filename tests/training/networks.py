"""ResNet18 with 12 to 96 channels, for tests that do not depend on the width: a step takes a sixth of the time."""

from functools import partial

from model.network.backbone import BasicBlock, ResNet
from model.network.trunks import TRUNKS

NARROW = "narrow"
NARROW_IBN = "narrow_ibn_a"


def _narrow(ibn: bool, last_stride: int = 1) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), 12, ibn=ibn, last_stride=last_stride)


TRUNKS[NARROW] = partial(_narrow, False)
TRUNKS[NARROW_IBN] = partial(_narrow, True)
