"""What reading and writing one record costs, a result.json of 30 epochs: python benchmarks/records.py. Prints Markdown."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.pool import Images, configs, write_trial
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.schema import TrialResult
from cifar_hpc.records.store import read_record, write_record

RECORDS, REPEATS = 200, 7


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        images = Images.draw(50, 100)
        for config in configs(RECORDS, 2, 30):
            write_trial(layout, config, images)
        paths = [layout.trial(trial_id).result for trial_id in layout.trial_ids()]
        texts = [path.read_bytes() for path in paths]
        results = [TrialResult.decode(text) for text in texts]
        print("| a result.json of 30 epochs | microseconds of processor, best of 7 |\n| --- | ---: |")
        _row("decode", lambda: [TrialResult.decode(text) for text in texts])
        _row("read from disk", lambda: [read_record(path, TrialResult) for path in paths])
        _row("encode", lambda: [result.encode() for result in results])
        _row("write to disk, atomic", lambda: [write_record(p, r) for p, r in zip(paths, results, strict=True)])


def _row(name: str, run: Callable[[], object]) -> None:
    times = []
    for _ in range(REPEATS):
        begun = time.process_time()
        run()
        times.append((time.process_time() - begun) / RECORDS * 1e6)
    print(f"| {name} | {min(times):.0f} |")


if __name__ == "__main__":
    main()
