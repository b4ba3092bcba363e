"""`python -m cifar_hpc` is `cifar-hpc`."""

from cifar_hpc.cli import main

main()
