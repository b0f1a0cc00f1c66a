"""The forms in which people keep data sets: each module finds the files of a form, and opens them as a `Part`."""
