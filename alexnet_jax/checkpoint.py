class Checkpoints: pass
