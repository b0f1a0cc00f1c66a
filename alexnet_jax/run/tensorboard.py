"""What writes TensorBoard's files here: tensorboardX, without PyTorch.

It imports PyTorch wherever it is installed, to know its tensors: 1.6 s of every start, and nobody here has any.
"""

import sys
from typing import Any

__all__ = ["Event", "EventsWriter", "SessionLog", "Summary", "SummaryWriter"]

_modules: dict[str, Any] = sys.modules
_hidden = _modules.setdefault("torch", None) is None  # None: to import it fails, as where it is not installed
try:
    from tensorboardX import SummaryWriter
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
finally:
    if _hidden:
        del _modules["torch"]
