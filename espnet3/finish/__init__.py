"""What a finisher does: it looks at a run whose jobs have ended, and goes on, or says why not."""
