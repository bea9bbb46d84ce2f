"""What a model is: frames, clips, features, ranking, bundles and the engines that run them."""

import sys

# OpenVINO reports its import to its maker, from a child process, and NNCF each call, through this package of theirs;
# without it they report nothing. Who runs the service has not agreed to that.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
