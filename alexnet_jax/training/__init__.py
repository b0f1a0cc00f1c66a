"""One step of training, and what surrounds it: the loop is `train.py`."""
