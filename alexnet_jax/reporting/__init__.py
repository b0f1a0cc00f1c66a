"""The sections of a report on a run. Each module turns plain arrays or records into one section, figure included."""
