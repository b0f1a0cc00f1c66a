"""From a data set on disk to batches on the devices, and the augmentation of the images there."""

DIGITS = "digits"  # the data set that is built in
PREPARABLE = ("imagenet2012", "imagenet2010", "cifar10", "imagenette")  # data sets that `prepare` knows by name
