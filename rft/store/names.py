"""Names of the files of a trial that one layer writes and another reads."""

RECORD = "trial.json"
"""A trial's record, in its folder under `runs/`."""
ROWS_FILE = "evaluation.parquet"
"""The rows of the final test, in the evaluation's entry."""
CHECKPOINTS_FILE = "checkpoints.parquet"
"""Beside them: the rows of the points of training that were tested."""
ORDERS = ("shown_first", "shown_second")
"""Columns of the labels of a judge that is asked in both orders: P(first is better), shown first and second."""
VERDICTS_FILE = "verdicts.sqlite"
"""Beside the stages: what judges answered."""
SPENDING_FILE = "spending.sqlite"
"""Beside that: what endpoints were paid for it."""
