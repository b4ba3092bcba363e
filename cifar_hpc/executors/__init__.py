"""Executors start jobs and know their state. One file each; only that file imports its backend."""
