"""Any model asked the same way: a run, a folder, or an endpoint; answers kept, counted and timed."""
