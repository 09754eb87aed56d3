"""The search: a driver that asks and tells, workers that evaluate, a study that remembers."""
