"""ImageNet in every form that people keep it in: the same images, names and labels from all of them."""

from pathlib import Path

import imagenet_forms as forms
import pytest
from alexnet_jax.prepare.archives import open_source


@pytest.fixture(scope="module")
def images():
    return forms.contents()


def read(source: Path) -> dict[str, forms.Images]:
    """Return what a preparation would read, sorted by name."""
    found = {"train": [], "validation": []}
    data = open_source("imagenet2012", source, None, 0.1)
    position = 0
    for image in data.images():
        found[image.split].append((image.name, image.label, image.load()))
        assert position <= image.position <= data.num_bytes
        position = image.position
    return {split: sorted(members) for split, members in found.items()}


@pytest.mark.parametrize("form", forms.FORMS)
def test_every_form_has_the_same_names_labels_and_bytes(form, images, tmp_path):
    source = forms.FORMS[form](tmp_path / "source", images)
    assert read(source) == {split: sorted(members) for split, members in images.items()}
