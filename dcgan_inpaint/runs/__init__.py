"""Run directories, trainers, callbacks, records and reports."""
