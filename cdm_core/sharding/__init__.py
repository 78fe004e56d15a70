"""Which data goes to which shard and stage, and what a deletion costs under such a plan."""
