"""From the best checkpoint to adapter/: the export stage."""
