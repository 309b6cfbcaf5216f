"""The stages of a run as children: started, watched, ended, retried."""
