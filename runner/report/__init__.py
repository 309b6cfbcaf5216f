"""Report: a run as one page for people, report.html, and the index of all runs, index.html."""
