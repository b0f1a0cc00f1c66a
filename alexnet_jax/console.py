"""Lines for people on the console: records of a run, and durations."""

import itertools

from alexnet_jax.metrics import Record


def training_line(record: Record, num_steps: int, num_epochs: float, seconds_left: float | None) -> str:
    """Return the line for a record of training; `num_steps` and `num_epochs` are those of the whole run."""
    parts = [
        f"step {record['step']:>{len(f'{num_steps:,}')},}/{num_steps:,}",
        f"epoch {record['epoch']:.2f}/{num_epochs:g}",
        f"loss {record['loss']:.4f}",
        f"top-1 error {record['top1_error']:5.1f} %",
        f"learning rate {record['learning_rate']:.3g}",
    ]
    if record["images_per_second"] is not None:
        parts.append(f"{record['images_per_second']:,.0f} images/s")
        parts.append(f"{100 * record['input_wait_fraction']:.0f} % waiting for input")
    if seconds_left is not None:
        parts.append(f"{duration(seconds_left)} left")
    return "  ".join(parts)


def evaluation_line(record: Record) -> str:
    """Return the line for a record of an evaluation."""
    views = "1 view" if record["views"] == 1 else f"{record['views']} views"
    return (
        f"step {record['step']:,}  {record['split']}: top-1 error {record['top1_error']:.2f} %, top-5 error "
        f"{record['top5_error']:.2f} %, loss {record['loss']:.4f} ({record['num_examples']:,} images, {views})"
    )


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, for example "3 min 20 s"."""
    total = round(seconds)
    for (large, size), (small, part) in itertools.pairwise((("d", 86400), ("h", 3600), ("min", 60), ("s", 1))):
        if total >= size:
            return f"{total // size} {large} {total % size // part} {small}"
    return f"{total} s"
