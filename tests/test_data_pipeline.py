"""Batches: every image once per epoch, one order whatever the processes and threads, exact resumption."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_jax.data.pipeline import evaluation_batches, train_batches
from alexnet_jax.errors import UserError

SIZE = 4


class NumberedSource:
    """Image i is filled with i mod 251, its label is i; reading a later one may take a shorter time."""

    image_size = SIZE

    def __init__(self, length: int, broken: int | None = None):
        self.length, self.broken = length, broken

    def __len__(self) -> int:
        return self.length

    def read(self, indices, images, labels):
        for row, index in enumerate(indices):
            if index == self.broken:
                raise UserError(f"record {index} is broken")
            images[row], labels[row] = index % 251, index


def take(batches, count: int) -> np.ndarray:
    """Return the labels of the next batches, [count, R]; check that the images belong to them."""
    taken = [next(batches) for _ in range(count)]
    for batch in taken:
        assert batch["image"].shape == (len(batch["label"]), SIZE, SIZE, 3)
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
        assert (batch["image"] == (batch["label"] % 251)[:, None, None, None]).all()
    return np.stack([batch["label"] for batch in taken])


def stream(length: int, batch_size: int, steps: int, seed: int = 0, **options) -> np.ndarray:
    """Return the labels of the global batches, [steps, batch_size]."""
    options = {"rows": np.arange(batch_size), "read_threads": 0} | options
    batches = train_batches(NumberedSource(length), seed=seed, batch_size=batch_size, **options)
    taken = take(batches, steps)
    batches.close()
    return taken


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 20), st.integers(0, 2**31))
def test_every_image_once_an_epoch(length, batch_size, seed):
    """Also where batches straddle epochs or hold several."""
    labels = stream(length, batch_size, steps=-(-3 * length // batch_size), seed=seed).ravel()
    for epoch in range(3):
        assert sorted(labels[epoch * length : (epoch + 1) * length]) == list(range(length))


def test_epochs_and_seeds_differ():
    labels = stream(100, 100, steps=3)
    others = stream(100, 100, steps=3, seed=1)
    orders = {tuple(order) for order in (*labels, *others, range(100))}
    assert len(orders) == 7


def test_stream_does_not_depend_on_the_batch_size():
    np.testing.assert_array_equal(stream(23, 8, steps=15).ravel(), stream(23, 5, steps=24).ravel())


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_same_batches_for_any_number_of_processes_and_threads(processes, threads):
    whole = stream(23, 8, steps=9)
    parts = [
        stream(23, 8, steps=9, rows=rows, read_threads=threads, prefetch_batches=3)
        for rows in np.arange(8).reshape(processes, -1)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_rows_may_be_any_rows():
    """Two towers of one shard of the batch may be on two processes, which both need its rows."""
    np.testing.assert_array_equal(
        stream(23, 8, steps=4, rows=np.array([7, 2, 2])), stream(23, 8, steps=4)[:, [7, 2, 2]]
    )


@pytest.mark.parametrize("threads", [0, 2])
def test_resumes_in_mid_epoch(threads):
    """What was read ahead is not skipped."""
    options = {"seed": 3, "batch_size": 8, "rows": np.arange(8), "read_threads": threads}
    whole = stream(23, 8, steps=12, seed=3)
    batches = train_batches(NumberedSource(23), **options)
    take(batches, 5)
    batches.close()

    resumed = train_batches(NumberedSource(23), **options, start_step=5)
    np.testing.assert_array_equal(take(resumed, 7), whole[5:])
    resumed.close()


def test_resuming_reads_nothing_of_the_past():
    """A source of ImageNet's size at step 900,000: one batch is all that is read."""
    read = []

    class Counting(NumberedSource):
        def read(self, indices, images, labels):
            read.extend(indices)
            images[:], labels[:] = 0, 0

    options = {"seed": 0, "batch_size": 128, "rows": np.arange(128), "read_threads": 0}
    next(train_batches(Counting(1_281_167), **options, start_step=900_000))
    assert len(read) == 128


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("length", "batch_size"), [(20, 8), (16, 8), (3, 8), (1, 2)])
def test_evaluation_sees_every_example_once_in_order(length, batch_size, processes, threads):
    parts = [
        list(evaluation_batches(NumberedSource(length), batch_size=batch_size, rows=rows, read_threads=threads))
        for rows in np.arange(batch_size).reshape(processes, -1)
    ]
    batches = [
        {name: np.concatenate([part[name] for part in of_step]) for name in of_step[0]}
        for of_step in zip(*parts, strict=True)
    ]
    assert len(batches) == -(-length // batch_size)
    for batch in batches:
        assert batch["image"].shape == (batch_size, SIZE, SIZE, 3)
        assert (batch["image"].dtype, batch["label"].dtype, batch["mask"].dtype) == (np.uint8, np.int32, np.float32)
        padded = batch["mask"] == 0
        assert not batch["image"][padded].any()
        assert not batch["label"][padded].any()
    labels = np.concatenate([batch["label"][batch["mask"] == 1] for batch in batches])
    np.testing.assert_array_equal(labels, np.arange(length))
    assert sum(batch["mask"].sum() for batch in batches) == length


@pytest.mark.parametrize("threads", [0, 2])
def test_broken_record_reaches_the_caller(threads):
    """As the UserError that it is, whichever thread met it."""
    source = NumberedSource(20, broken=13)
    options = {"batch_size": 5, "rows": np.arange(5), "read_threads": threads}
    batches = train_batches(source, seed=0, **options)
    with pytest.raises(UserError) as caught:
        take(batches, 4)
    batches.close()
    assert str(caught.value) == "record 13 is broken"
    with pytest.raises(UserError) as caught:
        list(evaluation_batches(source, **options))
    assert str(caught.value) == "record 13 is broken"


def test_threads_end():
    """Those of training when it is closed, those of an evaluation at its end or when it is abandoned."""
    before = set(threading.enumerate())
    options = {"batch_size": 5, "rows": np.arange(5), "read_threads": 3}
    batches = train_batches(NumberedSource(20), seed=0, **options)
    next(batches)
    evaluation, given_up = (evaluation_batches(NumberedSource(20), **options) for _ in range(2))
    next(given_up)
    assert len(list(evaluation)) == 4
    started = set(threading.enumerate()) - before
    assert len(started) >= 2
    batches.close()
    given_up.close()
    for thread in started:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in started)
