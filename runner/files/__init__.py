"""Files and locks that survive a kill, a full disk and a hostile share."""
