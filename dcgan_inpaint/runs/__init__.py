"""Run folders, what is watched, evaluated and written."""
