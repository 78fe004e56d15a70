"""Behind `lethe report paper`: what it trains, samples and measures, each cell kept under its content's digest so that a rerun reuses it."""
