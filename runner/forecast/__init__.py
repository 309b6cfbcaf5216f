"""GPU memory and time of a run, by arithmetic, before anything is started."""
