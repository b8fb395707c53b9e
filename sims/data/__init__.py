"""Who holds which examples: partitions of one data set among many clients."""
