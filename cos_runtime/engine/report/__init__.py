"""What a person sees while a job runs: events from the ranks, shown and kept by the driver.

The ranks send the small events of :mod:`~cos_runtime.engine.report.events`; the driver hands each one to the reporters
that :func:`~cos_runtime.engine.report.reporters.open_reporters` opened. Importing the events loads nothing else, so
that they cost an executor nothing.
"""
