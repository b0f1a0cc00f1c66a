"""The two logs of a training: `metrics.jsonl` and TensorBoard's event file."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from alexnet_jax.files import writing
from alexnet_jax.metrics import Record, append_record, drop_records_after

# tensorboardX imports PyTorch wherever it is installed, to recognize its tensors. That adds 1.6 s to every start, and
# this program has no such tensors.
_modules: dict[str, Any] = sys.modules
_hidden = _modules.setdefault("torch", None) is None  # None makes the import fail, as where PyTorch is not installed
try:
    from tensorboardX import SummaryWriter as SummaryWriter  # for the table of a sweep
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
finally:
    if _hidden:
        del _modules["torch"]

_NOT_PLOTTED = ("step", "epoch", "split", "views", "num_examples")


class MetricWriter:
    """Writes the records of a training to both logs in its workdir; UserError if they can't be written.

    `resumed_step` is the step of the checkpoint that training resumes from (0 for a new run). Records of later steps
    belong to training that was lost. They are dropped, so the logs of a resumed run read like those of an uninterrupted
    one. If several processes train, only one of them writes: the others pass `enabled=False`.
    """

    def __init__(self, workdir: str | os.PathLike[str], resumed_step: int, enabled: bool = True):
        self._workdir = Path(workdir)
        self._events: EventsWriter | None = None
        if enabled:
            with writing(str(self._workdir)):
                self._workdir.mkdir(parents=True, exist_ok=True)
                drop_records_after(self._workdir, resumed_step)
                # Not tensorboardX's SummaryWriter: it writes from a thread, where a full disk would go unnoticed.
                self._events = EventsWriter(str(self._workdir / "events"), f".{resumed_step}.{os.getpid()}")
                start = SessionLog(status=SessionLog.START)  # TensorBoard drops what it has from this step on
                self._events.write_event(Event(wall_time=time.time(), step=resumed_step + 1, session_log=start))

    def write(self, record: Record) -> None:
        """Append a record to both logs. Its numbers may be NumPy or JAX scalars; None is a number not known yet."""
        if self._events is None:
            return
        append_record(self._workdir, record)
        plotted = {key: value for key, value in record.items() if key not in _NOT_PLOTTED and value is not None}
        values = [Summary.Value(tag=f"{record['split']}/{key}", simple_value=float(v)) for key, v in plotted.items()]
        with writing(str(self._workdir)):
            summary = Summary(value=values)
            self._events.write_event(Event(wall_time=time.time(), step=int(record["step"]), summary=summary))
            self._events.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._events is not None:
            with writing(str(self._workdir)):
                self._events.close()
