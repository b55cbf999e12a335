"""Methods, one file each: pure functions from an experiment at one seed to a graph of stages."""
