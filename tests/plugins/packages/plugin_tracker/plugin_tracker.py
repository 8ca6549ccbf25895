"""A tracker: the lines of a run as rows of a CSV file."""

from __future__ import annotations

import csv


class CsvTracker:
    """Every number of a run as a row step, name, value of numbers.csv."""

    def __init__(self, directory, config, last_step):
        self.file = (directory / "numbers.csv").open("a", newline="", encoding="utf-8")
        self.rows = csv.writer(self.file)

    def log(self, values, step):
        self.rows.writerows((step, name, value) for name, value in values.items())
        self.file.flush()

    def finish(self, summary):
        self.rows.writerows(("end", name, value) for name, value in summary.items())
        self.file.close()
