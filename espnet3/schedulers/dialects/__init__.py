"""One module for each batch system: its words, and what it makes of a job."""
