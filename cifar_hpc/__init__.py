"""cifar-hpc: transfer-learning sweeps on small image data sets."""

__version__ = "0.1.0"
