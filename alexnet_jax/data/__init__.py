"""From a data set on disk to batches on the devices, and what is done to the images there."""

PREPARABLE = ("imagenet2012", "imagenet2010", "cifar10", "imagenette")  # the data sets that `prepare` knows by name
