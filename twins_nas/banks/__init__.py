"""Banks of stand-alone trainings: drawn, written, read; those that are shipped lie in here."""
