"""What a model is: frames, clips, features, ranking, bundles and the engines that run them."""

import sys

# Through this package, OpenVINO (from a child process, when it is imported) and NNCF (on each call) send usage reports
# to their vendor. Without it they send nothing. The person who runs the service has not agreed to reports.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
