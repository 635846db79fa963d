"""From the facts of a dataset to the numbers of one run: the published recipes, schedules and the BiT-HyperRule."""
