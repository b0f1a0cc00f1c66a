"""tensorboardX, which writes TensorBoard's files, without PyTorch.

tensorboardX imports PyTorch wherever it is installed, to recognize its tensors. That adds 1.6 s to every start, and
this program has no such tensors.
"""

import sys
from typing import Any

__all__ = ["Event", "EventsWriter", "SessionLog", "Summary", "SummaryWriter"]

_modules: dict[str, Any] = sys.modules
_hidden = _modules.setdefault("torch", None) is None  # None makes the import fail, as where PyTorch is not installed
try:
    from tensorboardX import SummaryWriter
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
finally:
    if _hidden:
        del _modules["torch"]
