"""What a run looks like to a person: one offline page, and adapters to trackers.

Nothing here is imported by training itself: the page reads the two files every run leaves, so it can be made
again at any time, also for a run that was killed.
"""

from zerothorder.report.page import write_report
from zerothorder.report.trackers import Tracker, check_trackers, open_trackers

__all__ = ["Tracker", "check_trackers", "open_trackers", "write_report"]
