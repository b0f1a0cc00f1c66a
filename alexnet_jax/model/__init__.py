"""The nets as data, and the module and operations that run them."""
