"""What a model is: frames, clips, features, ranking, bundles and the engines that run them."""

import os
import sys

# The person who runs the service has not agreed to usage reports. ONNX Runtime 1.29 and later reads this variable when
# it is loaded; without it, it contacts its vendor and leaves a file `.ses` in the temporary folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# Through this package, OpenVINO (from a child process, when it is imported) and NNCF (on each call) send usage reports
# to their vendor. Without it they send nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
