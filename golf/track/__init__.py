"""Trackers: dashboards that a run's events go to besides its own log files.

Each runs in a process of its own that follows run.jsonl, so that nothing a tracker does reaches the run:
`start` is the run's side, `follow` the process's, `sinks` the trackers, `figures` the names of what they get.
"""
