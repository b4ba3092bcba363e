"""The Python API, as `import cifar_hpc` hands it out: sweeps to run, results to read. Computes nothing of its own."""
