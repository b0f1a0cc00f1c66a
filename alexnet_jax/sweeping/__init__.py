"""Many runs of one config: which there are, how they are carried out, and what came of them."""
